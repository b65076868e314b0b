"""Zero-shot, E0 refit, full fine-tuning and sparse on the shipped data, in one folder that can be resumed."""

from __future__ import annotations

import dataclasses
import json
import numbers
import pathlib
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from pathtune._version import __version__
from pathtune.adaptations import SparseDelta
from pathtune.adapter_file import load_adapter
from pathtune.atomic_energies import E0Fit, refit_e0
from pathtune.data import LabelKeys, Source, as_source, batches, demo_file
from pathtune.demo.figure import draw
from pathtune.errors import InputError
from pathtune.evaluation import evaluate
from pathtune.files import checked_path, read_text, write_text
from pathtune.forms import from_json, read_json
from pathtune.loading import load
from pathtune.model import Potential
from pathtune.options import check_fields, check_positive, option, to_mapping, to_toml
from pathtune.training import FitConfig
from pathtune.training.folder import RunFolder
from pathtune.training.progress import SeriesProgress
from pathtune.training.run import ModelOptions, RunOptions, adapt_as, run_arm

SPLITS = ("train", "valid", "test")
LEARNING_RATES = (0.01, 0.02, 0.13)  # of both trained arms: the second is the default of full, the last of sparse
ACTIVE_SHARE = 0.05
OTHER_SHARES = (0.003, 0.01, 0.15)  # at the sparse arm's learning rate, for the plot
BATCH_SIZE = 5
ERRORS = ("energy_mae_mev_atom", "forces_mae_mev_a")
ARMS = ("zero-shot", "zero-shot, E0 refit", "full fine-tuning", "sparse")  # rows of the table

# What is read of the files of a demo.
SCORES = dict.fromkeys(ERRORS, numbers.Real)
LINE = {"valid_loss": numbers.Real}
METRICS = {
    **LINE,
    "epochs": int,
    "best_epoch": int,
    "valid": SCORES,
    "test": SCORES,
    "counts": {"active": int, "reachable_weights": int},
    "seconds": float,
}
RESULT = {
    "rows": [{"arm": str, "changed": int, "share": float, "bytes": int, "seconds": float, **SCORES}],
    "shares": [{"counts": {"reachable_weights": int}}],
    "learning_rates": [float],
    "n_structures": {"test": int},
    "seconds": float,
    "peak_bytes": int,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What `pathtune demo` does."""

    epochs: int = option(60, "passes over the training data, the same for every run")
    seed: int = option(0, "of the order of structures and the initial delta")
    max_frames: int | None = option(None, "only the first so many structures of each set")

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "epochs")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run of the comparison."""

    arm: str  # full or sparse
    lr: float
    share: float | None = None  # target of the sparse arm

    @property
    def name(self) -> str:
        """Also its folder's name."""
        return f"{self.arm}{'' if self.share is None else f'_share{self.share:g}'}_lr{self.lr:g}"


@dataclasses.dataclass
class World:
    """What every trial shares."""

    options: DemoOptions
    base: Potential
    refitted: Potential  # base with E0 of the domain
    e0_fit: E0Fit
    sets: dict[str, Source]
    progress: SeriesProgress


def sparse_config(share: float) -> SparseDelta:
    """The sparse arm's delta: the one place where it is set."""
    return SparseDelta(active_share=share)


def claim(folder: pathlib.Path, options: DemoOptions) -> None:
    """Write the options into the folder. Raises InputError where it holds something else or cannot be written."""
    file, text = folder / "demo.toml", to_toml(demo=options)
    if checked_path(folder).exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder for the demo")
    if file.exists():
        if read_text(file) != text:
            raise InputError(f"{folder}: holds a demo with other options ({file}), expected the same or a new folder")
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty and holds no demo, expected a new folder")
    write_text(file, text)  # also when it is there: this says whether the folder can be written to


def run_demo(folder: pathlib.Path, options: DemoOptions, progress: SeriesProgress | None = None) -> dict[str, Any]:
    """Train what is not trained yet, compare, and write demo.json and demo.png; returns what demo.json holds.

    A finished folder is only read. Raises InputError for a folder that is no demo's or holds one with other
    options, for files in it that are damaged, ImportError that says what to install without mace-torch.
    """
    claim(folder, options)
    if (folder / "demo.json").exists():
        return _read(folder / "demo.json")
    began = time.monotonic()
    progress = progress or SeriesProgress(options.epochs, quiet=True)
    world = _world(options, progress)
    with progress:
        trials = [Trial("full", lr) for lr in LEARNING_RATES]
        trials += [Trial("sparse", lr, ACTIVE_SHARE) for lr in LEARNING_RATES]
        progress.n_fits = len(trials) + len(OTHER_SHARES)
        runs = [_run(trial, world, folder) for trial in trials]
        full, sparse = (min((r for r in runs if r["arm"] == arm), key=_validation) for arm in ("full", "sparse"))
        others = [_run(Trial("sparse", sparse["lr"], share), world, folder) for share in OTHER_SHARES]
    best = RunFolder(folder / "runs" / sparse["name"])
    for file in (best.adapter, best.merged):
        shutil.copyfile(file, folder / file.name)
    zero, refitted = (_errors(evaluate(model, world.sets["test"])) for model in (world.base, world.refitted))
    result = {
        "pathtune": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "options": to_mapping(options),
        "learning_rates": LEARNING_RATES,
        "batch_size": BATCH_SIZE,
        "n_structures": {name: len(structures) for name, structures in world.sets.items()},
        "rows": _rows(zero, refitted, full, sparse, world.base),
        "runs": runs,
        "shares": sorted([sparse, *others], key=_share),
        "seconds": round(time.monotonic() - began, 1),
        "peak_bytes": _peak_bytes(),
    }
    draw(folder / "demo.png", result, _parity(world, best))
    write_text(folder / "demo.json", json.dumps(result, indent=1) + "\n")
    return result


def _read(file: pathlib.Path) -> dict[str, Any]:
    result = read_json(file, RESULT)
    if [row["arm"] for row in result["rows"]] != list(ARMS) or not result["shares"]:
        raise InputError(f"{file}: has other rows than {', '.join(ARMS)}, expected the file of a finished demo")
    return result


def _world(options: DemoOptions, progress: SeriesProgress) -> World:
    base = load("demo")
    sets = {name: as_source(demo_file(name), max_frames=options.max_frames) for name in SPLITS}
    refitted, e0_fit = refit_e0(base, sets["train"])
    return World(options, base, refitted, e0_fit, sets, progress)


def _run(trial: Trial, world: World, folder: pathlib.Path) -> dict[str, Any]:
    """Train, go on training, or read what an earlier call trained."""
    run, options = RunFolder(folder / "runs" / trial.name), _sections(trial, world.options)
    world.progress.begin(trial.name)
    if not run.metrics.exists():
        model = adapt_as(world.refitted, world.sets["train"], options)
        with run.start(to_toml(**options), resume=True):
            run_arm(model, world.refitted, world.sets, options["fit"], run, world.e0_fit, world.progress)
    elif run.difference(to_toml(**options)):
        raise InputError(f"{run.folder}: holds a run of another version's options, expected a new folder for the demo")
    result = _summary(trial, read_json(run.metrics, METRICS), run)
    world.progress.end(f"{trial.name:25s} validation loss {result['valid_loss']:.5f}  {result['seconds']:5.1f} s")
    return result


def _sections(trial: Trial, options: DemoOptions) -> dict[str, Any]:
    """What a config file of `pathtune fit` would say."""
    return {
        "run": RunOptions(
            train=(str(demo_file("train")),),
            valid=(str(demo_file("valid")),),
            arm=(trial.arm,),
            max_frames=options.max_frames,
        ),
        "model": ModelOptions(model="demo"),
        "data": LabelKeys(),
        "delta": SparseDelta() if trial.share is None else sparse_config(trial.share),
        "fit": FitConfig(epochs=options.epochs, batch_size=BATCH_SIZE, lr=trial.lr, seed=options.seed, keep_worse=True),
    }


def _summary(trial: Trial, metrics: Mapping[str, Any], run: RunFolder) -> dict[str, Any]:
    texts = read_text(run.log).splitlines()
    lines = [from_json(text, LINE, str(run.log), f"line {i}") for i, text in enumerate(texts, 1)]
    if len(lines) != metrics["epochs"]:
        raise InputError(f"{run.log}: has {len(lines)} lines, expected one for each of {metrics['epochs']} epochs")
    counts = metrics["counts"]
    return {
        "name": trial.name,
        "arm": trial.arm,
        "lr": trial.lr,
        "target_share": trial.share,
        "valid_loss": metrics["valid_loss"],
        "best_epoch": metrics["best_epoch"],
        "valid": _errors(metrics["valid"]),
        "test": _errors(metrics["test"]),
        "counts": counts,
        "active_share": 1.0 if trial.share is None else counts["active"] / counts["reachable_weights"],
        "adapter_bytes": metrics.get("adapter_bytes"),
        "seconds": round(metrics["seconds"], 2),
        "curve": [round(line["valid_loss"], 6) for line in lines],
    }


def _validation(run: Mapping[str, Any]) -> float:
    return run["valid_loss"]


def _share(run: Mapping[str, Any]) -> float:
    return run["active_share"]


def _errors(scores: Mapping[str, Any]) -> dict[str, float]:
    return {key: round(scores[key], 4) for key in ERRORS}


def _rows(zero: dict, refitted: dict, full: dict, sparse: dict, base: Potential) -> list[dict[str, Any]]:
    """The table; weights changed are counted in all weights for the full arm, bytes are what must be kept."""
    weights = list(base.backbone.parameters.values())
    n_weights, n_bytes = sum(w.numel() for w in weights), sum(w.numel() * w.element_size() for w in weights)
    nothing = {"changed": 0, "share": 0.0, "bytes": 0, "seconds": 0.0}
    rows = [{"arm": name, **errors, **nothing} for name, errors in zip(ARMS, (zero, refitted))]
    for name, run in zip(ARMS[2:], (full, sparse)):
        is_full = run["arm"] == "full"
        changed = n_weights if is_full else run["counts"]["active"]
        rows.append(
            {
                "arm": name,
                **run["test"],
                "changed": changed,
                "share": run["active_share"],
                "bytes": n_bytes if is_full else run["adapter_bytes"],
                "seconds": run["seconds"],
                "lr": run["lr"],
            }
        )
    return rows


def _parity(world: World, run: RunFolder) -> dict[str, Any]:
    """Force components on test [n], eV/A: the reference's, and those of zero-shot and sparse."""
    test = world.sets["test"]
    return {
        "reference": torch.cat([torch.as_tensor(test.read(i).forces).flatten() for i in range(len(test))]),
        "zero-shot": _forces(world.base, test),
        "sparse": _forces(load_adapter(world.base, run.adapter), test),
    }


def _forces(model: Potential, source: Source) -> torch.Tensor:
    return torch.cat([model(batch).forces.detach().double().flatten() for batch in batches(model, source, 16)])


def _peak_bytes() -> int:
    import resource  # of Unix only

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
