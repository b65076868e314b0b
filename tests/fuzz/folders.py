"""Folders that a command reads again, damaged in bytes and values: runs, sweeps, comparisons, stores; full disks."""

import contextlib
import copy
import json
import math
import pathlib
import random
import resource
import shutil

import torch

from fuzz import odd
from fuzz.law import ACCEPTED, REFUSED, BrokenLawError, is_finite, refused_or
from fuzz.world import MODEL, World
from pathtune import guidance
from pathtune.adapter_file import read_adapter
from pathtune.training import loop
from pathtune.training.folder import RunFolder

FLOATS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e30, 1e300, 0.5)
SHARES = {"checkpoint": 5, "resume": 3, "sweep": 2, "finished": 3, "compared": 2, "demo": 1, "store": 3, "disk": 2}
COMPARE = ["compare", "--model", MODEL, "--train", "train.xyz", "--valid", "valid.xyz", "--arms", "full", "readout",
           "--epochs", "1", "--n-rates", "1", "--no-check-units", "--out", "tried"]  # fmt: skip
DEMO = ["demo", "--epochs", "1", "--max-frames", "2", "--out", "tried"]
PREPARE = ["prepare", "train.xyz", "--jobs", "1", "--out", "tried"]


class Folders:
    """See the module. Good folders are made when they are first asked for, and each trial spoils a copy."""

    name = "folders"

    def __init__(self, folder: pathlib.Path):
        self.world = World(folder)
        self.good = folder.parent / f"{folder.name}-good"  # the world's folder is cleaned
        shutil.rmtree(self.good, ignore_errors=True)

    def trial(self, rng: random.Random) -> str:
        """One damaged folder, and the command that reads it."""
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        return getattr(self, kind)(rng)

    def checkpoint(self, rng: random.Random) -> str:
        """A value of a checkpoint changed, its checksum made right."""
        folder = RunFolder(self.copy("interrupted"))
        state = folder.load_checkpoint()
        for _ in range(rng.choice((1, 1, 2))):
            state = changed(rng, state)
        if refused_or(lambda: folder.save_checkpoint(state)) == REFUSED:
            return REFUSED
        return self.resumed()

    def resume(self, rng: random.Random) -> str:
        """A file of an interrupted run damaged."""
        self.copy("interrupted")
        self.spoil(rng, ["checkpoint/last.pt", "config.toml", "log.jsonl", "log.csv", ".lock"])
        return self.resumed()

    def sweep(self, rng: random.Random) -> str:
        """The sweep of a run whose share is found by itself."""
        self.copy("swept")
        shutil.rmtree(self.world.folder / "tried" / "checkpoint")
        self.spoil(rng, ["sweep.json"])
        return self.resumed("--active-share", "auto")

    def finished(self, rng: random.Random) -> str:
        """A file of a finished run, described, shown, or used."""
        self.copy("finished")
        self.spoil(rng, ["metrics.json"] * 4 + ["config.toml", "log.jsonl", "adapter.safetensors"])
        words = [["describe", "tried"]] * 4 + [["report", "tried", "--out", "page", "--max-frames", "1"]]
        return self.outcome(rng.choice(words))

    def compared(self, rng: random.Random) -> str:
        """A file of a comparison, which is then gone on with."""
        folder = self.copy("compared")
        (folder / "compare.json").unlink(missing_ok=rng.random() < 0.5)
        return self.gone_on(rng, folder, COMPARE)

    def demo(self, rng: random.Random) -> str:
        """A file of a demo, which is then gone on with."""
        return self.gone_on(rng, self.copy("demo"), DEMO)

    def store(self, rng: random.Random) -> str:
        """A file of a store, finished or not."""
        folder = self.copy("store")
        if rng.random() < 0.2:
            (folder / "store.json").unlink()
            (folder / "prepare.json").write_text(odd.json_text(rng))
            return self.gone_on(rng, folder, PREPARE)
        self.spoil(rng, names(folder))
        more = rng.choice((["--data", "tried"], ["--data", "tried@:1"]))
        return self.outcome(["evaluate", "--model", MODEL, *more])

    def disk(self, rng: random.Random) -> str:
        """No file can grow beyond some size while a run is begun, or gone on with; later it goes on."""
        is_new = rng.random() < 0.5
        self.world.clean()
        folder = self.world.folder / "tried" if is_new else self.copy("interrupted")
        before = {name: (folder / name).read_bytes() for name in names(folder)} if folder.is_dir() else {}
        words = [*self.words(), *([] if is_new else ["--resume"])]
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (rng.choice((0, 1, 100, 1000, 3000, 10_000, 30_000)), hard))
        try:
            status, _, said = self.world.run(words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if list(folder.rglob(".*.tmp")):
            raise BrokenLawError("a half-written file was left")
        if status == 0:
            return ACCEPTED
        for name in ("checkpoint/last.pt",):  # the old one, or a whole new one
            if name in before and not (folder / name).is_file():
                raise BrokenLawError(f"{name} is gone: {said[:200]}")
        more = ["--resume"] if (folder / "config.toml").exists() else []
        status, _, said = self.world.run([*self.words(), *more])
        if status != 0:
            raise BrokenLawError(f"does not go on: {said[:300]}")
        return REFUSED

    def words(self) -> list[str]:
        """A fit of two epochs into the folder that is tried."""
        found = [*self.world.fit, "--out", "tried", "--no-report", "--json"]
        found[found.index("--epochs") + 1] = "2"
        return found

    def resumed(self, *more: str) -> str:
        """What becomes of the run that goes on."""
        return self.outcome([*self.words(), "--resume", *more])

    def outcome(self, words: list[str]) -> str:
        """REFUSED, or ACCEPTED where the adapter of the folder, if it has one, is sound."""
        with quick_sweeps():
            status, _, _ = self.world.run(words)
        if status == 2:
            return REFUSED
        self.world.check_folders() if words[0] == "fit" else None
        adapter = self.world.folder / "tried" / "adapter.safetensors"
        if words[0] == "fit" and adapter.is_file():
            is_finite(read_adapter(adapter)[0])
        return ACCEPTED

    def gone_on(self, rng: random.Random, folder: pathlib.Path, words: list[str]) -> str:
        """A damaged file, and the command that made the folder once more."""
        self.spoil(rng, [n for n in names(folder) if n.endswith((".json", ".jsonl", ".toml", ".safetensors", ".txt"))])
        return self.outcome(words)

    def spoil(self, rng: random.Random, files: list[str]) -> None:
        """One of the files of the folder that is tried: bytes, a JSON value, or what it is."""
        file = self.world.folder / "tried" / rng.choice(files)
        data = file.read_bytes() if file.is_file() else b""
        kind = rng.randrange(10)
        if kind == 0:
            file.unlink(missing_ok=True)
            file.mkdir(parents=True) if rng.random() < 0.5 else file.symlink_to(rng.choice(("none", "/dev/full", ".")))
        elif kind == 1:
            file.unlink(missing_ok=True)
        elif kind < 7 and file.suffix in (".json", ".jsonl") and data.strip():
            lines = data.decode().splitlines() if file.suffix == ".jsonl" else [data.decode()]
            i = rng.randrange(len(lines))
            with contextlib.suppress(ValueError):  # what an earlier change left is no JSON
                lines[i] = json.dumps(changed(rng, json.loads(lines[i])), default=str)
            file.write_text("\n".join(lines))
        elif kind == 7:
            file.write_text(odd.json_text(rng), errors="replace")
        else:
            file.write_bytes(odd.changed_bytes(rng, data))

    def copy(self, name: str) -> pathlib.Path:
        """A copy of a good folder, named `tried`."""
        if not (self.good / name).exists():
            self.make(name)
        self.world.clean()
        return pathlib.Path(shutil.copytree(self.good / name, self.world.folder / "tried", symlinks=True))

    def make(self, name: str) -> None:
        """A good folder, by the command that users give."""
        self.world.clean()
        finish = loop.Loop._finish_epoch

        def interrupted(mine):
            finish(mine)
            if mine.folder:  # not in a sweep
                raise KeyboardInterrupt

        more = ["--active-share", "auto"] if name == "swept" else []
        words = {"compared": COMPARE, "demo": DEMO, "store": PREPARE}.get(name, [*self.words(), *more])
        is_cut = name in ("interrupted", "swept")
        try:
            loop.Loop._finish_epoch = interrupted if is_cut else finish
            with quick_sweeps():
                status, _, said = self.world.run(words, 130) if is_cut else self.world.run(words)
        finally:
            loop.Loop._finish_epoch = finish
        if status not in (0, 130):
            raise BrokenLawError(said)
        shutil.copytree(self.world.folder / "tried", self.good / name, symlinks=True)


class quick_sweeps:  # noqa: N801
    """In here a sweep tries two shares."""

    def __enter__(self):
        self.before = guidance.choose_share.__defaults__
        guidance.choose_share.__defaults__ = (None, None, (0.05, 0.5), *self.before[3:])

    def __exit__(self, *error):
        guidance.choose_share.__defaults__ = self.before


def names(folder: pathlib.Path) -> list[str]:
    """The files of a folder, without pictures and pages, in order."""
    skipped = (".png", ".html", ".svg", ".model")
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix not in skipped)


def changed(rng: random.Random, value):
    """A copy of a nested value with one place in it changed."""
    value = copy.deepcopy(value)
    place, key = None, None
    here = value
    while isinstance(here, (dict, list)) and here and (place is None or rng.random() < 0.85):
        place, key = here, rng.choice(list(here) if isinstance(here, dict) else range(len(here)))
        here = place[key]
    if place is None:
        return odd.value(rng)
    kind = rng.randrange(8)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place, list):
        place.insert(key, copy.deepcopy(here))
    elif kind == 2 and isinstance(place, dict):
        place[rng.choice(("new", 99, str(key)))] = copy.deepcopy(here)
    elif isinstance(here, torch.Tensor):
        place[key] = changed_tensor(rng, here)
    elif isinstance(here, (int, float)) and not isinstance(here, bool) and kind < 7:
        near = (here + 1, here - 1, -here, here * 2, float(here), 0)
        place[key] = rng.choice((*FLOATS, *near, 10**30, True))
    else:
        place[key] = odd.value(rng)
    return value


def changed_tensor(rng: random.Random, value: torch.Tensor) -> torch.Tensor:
    """A tensor of other values, another shape or type."""
    result = value.clone()
    kind = rng.randrange(7)
    if kind == 0 and value.numel():
        result.view(-1)[rng.randrange(value.numel())] = rng.choice((0, 1, -1, 100))
    elif kind == 1 and value.is_floating_point():
        result = torch.full_like(value, rng.choice(FLOATS), dtype=torch.float64).to(value.dtype)
    elif kind == 2:
        result = value.to(rng.choice((torch.float64, torch.float32, torch.int64, torch.float16, torch.bool)))
    elif kind == 3:
        result = value.reshape(-1)[:-1]
    elif kind == 4:
        result = value[None]
    elif kind == 5 and value.dim():
        result = value.flip(0)
    else:
        result = torch.zeros(rng.choice((0, 1, 7)), dtype=value.dtype)
    return result
