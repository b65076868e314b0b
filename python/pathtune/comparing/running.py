"""Runs of a comparison: each in its folder, finished ones read, interrupted ones gone on with, several at once."""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from pathtune import processes
from pathtune.atomic_energies import E0Fit
from pathtune.comparing.arms import Plan, Trial, sections_of
from pathtune.conventions import check_conventions
from pathtune.data import Source, as_source, check_elements, outputs, split_off, subset
from pathtune.energy_offsets import settle_energies
from pathtune.errors import DivergedError, InputError
from pathtune.evaluation import evaluate
from pathtune.files import read_text, write_text
from pathtune.forms import from_json, read_json
from pathtune.loading import load
from pathtune.model import Potential
from pathtune.ops.allocator import keep_large_blocks
from pathtune.options import to_toml
from pathtune.training.agreement import model_hash
from pathtune.training.checkpoint import LINE
from pathtune.training.folder import RunFolder
from pathtune.training.progress import SeriesProgress
from pathtune.training.provenance import file_hash
from pathtune.training.run import adapt_as, run_arm

T = TypeVar("T")
METRICS = {
    "valid_loss": float,
    "epochs": int,
    "best_epoch": int,
    "valid": {...: object},
    "counts": {"active": int, "reachable_weights": int, "adapted_weights": int, "all_weights": int},
    "shares": {"reachable": float, "adapted": float, "all": float},
    "fingerprints": {...: str},
    "optimizer_bytes": int,
    "n_steps": int,
    "seconds": float,
    "dtype": ("float32", "float64"),
}
ITEM_BYTES = {"float32": 4, "float64": 8}
KNOWN = {...: float}


@dataclasses.dataclass
class World:
    """What every run shares."""

    plan: Plan
    folder: pathlib.Path
    base: Potential
    refitted: Potential  # base with E0 of the data
    e0_fit: E0Fit | None
    sets: Mapping[str, Source]  # train, valid, and where asked test and replay
    known: Source | None = None  # structures of what the base knows
    given: Mapping[str, Source] = dataclasses.field(default_factory=dict)  # all sets as they were read

    def content(self) -> dict[str, str]:
        """Hashes of the model and of every set, by name: what runs in one folder must have in common."""
        asked = getattr(self.plan.kinds.get("pull"), "pull_data", None)
        extra = {} if asked is None else {"pull": as_source(asked, self.plan.data, needs_labels=False)}
        sets = {**self.given, **extra}
        return {"model": model_hash(self.base), **{name: source.fingerprint for name, source in sets.items()}}


def open_world(plan: Plan, folder: pathlib.Path, given: Mapping[str, Any] | None = None) -> World:
    """Load model and structures, check them, refit E0; `given`: those that are in memory, by name.

    Raises InputError as load, as_source, check_conventions and refit_e0 do, and for an element that the model lacks.
    """
    given = given or {}
    base = given.get("model")
    if base is None:
        asked = plan.model
        if asked.model is None:
            raise InputError("--model is missing, expected a .model or checkpoint file or a known name")
        base = load(asked.model, asked.dtype, asked.head, asked.backend, asked.device)
    sets = _sets(plan, given)
    read = dict(sets)
    known = sets.pop("known", None)
    for source in [*sets.values(), *([] if known is None else [known])]:
        check_elements(source, base.atomic_numbers)
    plan.fit.check_config_types(sets["train"])
    if plan.fit.check_units:
        check_conventions(base, sets["train"])
    fit = plan.fit
    refitted, e0_fit, sets, _ = settle_energies(base, sets, fit.energy_offsets, fit.e0, fit.refit_e0)
    return World(plan, folder, base, refitted, e0_fit, sets, known, read)


def _sets(plan: Plan, given: Mapping[str, Any]) -> dict[str, Source]:
    asked, keys = plan.compare, plan.data
    needed = {"train": "a file of structures"}
    if asked.valid_fraction is None:
        needed["valid"] = "a file, or --valid-fraction"
    elif asked.valid is not None or "valid" in given:
        raise InputError("--valid and --valid-fraction are both given, expected one of them")
    sets: dict[str, Source] = {}
    for name in ("train", "valid", "test", "known", "replay"):
        data = given[name] if given.get(name) is not None else getattr(asked, name)
        if data is None and name in needed:
            raise InputError(f"--{name} is missing, expected {needed[name]}")
        if data is not None:
            needs_labels = name != "replay" or plan.fit.replay_labels == "own"
            sets[name] = as_source(data, keys, asked.max_frames if name == "train" else None, needs_labels)
    if asked.valid_fraction is not None:
        whole = sets["train"]
        train, valid = split_off(whole, asked.valid_fraction, asked.seeds[0])
        sets |= {"train": subset(whole, train), "valid": subset(whole, valid)}
    return sets


def run_trials(trials: Sequence[Trial], world: World, progress: SeriesProgress) -> list[dict[str, Any]]:
    """A summary of each run, in order, after training what is not trained yet; InputError as run_trial.

    Under torchrun each process takes the next run when it is free.
    """
    jobs = min(world.plan.compare.jobs, len(trials))
    if jobs <= 1:
        return processes.world().share([functools.partial(_shown, trial, world, progress) for trial in trials])
    n_threads = max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in whatever state they are
    arguments = (world.plan, world.folder, n_threads)
    found: dict[int, dict[str, Any]] = {}
    with ProcessPoolExecutor(jobs, context, _open, arguments) as pool:
        futures = {pool.submit(_run, trial): i for i, trial in enumerate(trials)}
        try:
            for future in as_completed(futures):
                found[futures[future]] = result_of(future)
                progress.end(_line(found[futures[future]]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[i] for i in range(len(trials))]


def result_of(future: Future[T]) -> T:
    """What a process of the comparison gave. Raises InputError where that process is gone."""
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a process of the comparison was lost (killed, or out of memory), expected all to end: the same command "
            "goes on from here"
        ) from error


_world: World | None = None  # of a worker process


def _open(plan: Plan, folder: pathlib.Path, n_threads: int) -> None:
    global _world
    keep_large_blocks()
    torch.set_num_threads(n_threads)
    _world = open_world(plan, folder)


def _run(trial: Trial) -> dict[str, Any]:
    assert _world is not None
    return run_trial(trial, _world, SeriesProgress(trial.epochs, quiet=True))


def _shown(trial: Trial, world: World, progress: SeriesProgress) -> dict[str, Any]:
    progress.begin(trial.name)
    found = run_trial(trial, world, progress)
    progress.end(_line(found))
    return found


def _line(found: Mapping[str, Any]) -> str:
    if found["diverged"]:
        return f"{found['name']:35s} diverged"
    return f"{found['name']:35s} validation loss {found['valid_loss']:.5f}  {found['seconds']:6.1f} s"


def run_trial(trial: Trial, world: World, progress: SeriesProgress) -> dict[str, Any]:
    """Train, go on training, or read what an earlier call trained.

    A run that diverged is kept as that. Raises InputError for a folder with a run of other options or structures,
    and for files in it that are damaged.
    """
    run, options = RunFolder(world.folder / "runs" / trial.name), sections_of(trial, world.plan)
    text, said = to_toml(**options), run.folder / "diverged.txt"
    is_old = run.metrics.exists() or said.exists()
    if is_old and run.difference(text):
        raise InputError(f"{run.folder}: holds a run of another version's options, expected a new folder")
    if not is_old:
        named = world.plan.model.model
        units = list(world.plan.data.units or ())
        facts = {"model": named, "model_sha256": file_hash(named) if named else None, "units": units}
        model = adapt_as(world.refitted, world.sets["train"], options, world.sets.get("replay"))
        with run.start(text, resume=True):
            try:
                run_arm(model, world.refitted, world.sets, options["fit"], run, world.e0_fit, progress, facts)
            except DivergedError as error:
                write_text(said, f"{error}\n")
    if said.exists():
        return _identity(trial) | {"diverged": read_text(said).strip(), "valid_loss": None}
    metrics = read_json(run.metrics, METRICS)
    if metrics["epochs"] != trial.epochs and not world.plan.fit.patience:
        raise InputError(f"{run.folder}: has {metrics['epochs']} epochs, expected {trial.epochs} or a new folder")
    for name, source in world.sets.items():
        if metrics["fingerprints"].get(name) != source.fingerprint:
            raise InputError(f"{run.folder}: holds a run on other {name} structures, expected a new folder")
    return _summary(trial, metrics, run) | {"known": _known(run, world)}


def _identity(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "arm": trial.arm.key,
        "kinds": list(trial.arm.kinds),
        "lr": trial.lr,
        "seed": trial.seed,
        "target_share": trial.arm.share,
        "rank": trial.arm.rank,
    }


def _summary(trial: Trial, metrics: Mapping[str, Any], run: RunFolder) -> dict[str, Any]:
    texts = read_text(run.log).splitlines()
    lines = [from_json(text, LINE, str(run.log), f"line {i}") for i, text in enumerate(texts, 1)]
    if len(lines) != metrics["epochs"]:
        raise InputError(f"{run.log}: has {len(lines)} lines, expected one for each of {metrics['epochs']} epochs")
    kept = ("valid_loss", "best_epoch", "epochs", "n_steps", "counts", "shares", "optimizer_bytes")
    return _identity(trial) | {
        "diverged": None,
        **{key: metrics[key] for key in kept},
        "valid": errors(metrics["valid"]),
        "test": errors(metrics["test"]) if "test" in metrics else None,
        "adapter_bytes": metrics.get("adapter_bytes"),
        "stored_bytes": metrics.get("adapter_bytes", _n_values(metrics["counts"]) * ITEM_BYTES[metrics["dtype"]]),
        "seconds": round(metrics["seconds"], 2),
        "curve": [round(line["valid_loss"], 6) for line in lines],
    }


def _n_values(counts: Mapping[str, int]) -> int:
    return counts["active"] + counts.get("added", 0)


def errors(scores: Mapping[str, Any]) -> dict[str, float]:
    """Mean absolute errors over all structures, in reported units, by the labels' mae_key."""
    return {label.mae_key: round(scores[label.mae_key], 4) for label in outputs() if label.mae_key in scores}


def _known(run: RunFolder, world: World) -> dict[str, float] | None:
    """Errors on what the base knows, with the E0 of the base, kept in the run's folder."""
    if world.known is None:
        return None
    file = run.folder / "known.json"
    if file.exists():
        return read_json(file, KNOWN)
    tuned = load(run.merged, head=world.plan.model.head, device=str(world.base.device))
    found = errors(evaluate(tuned.with_e0(world.base.e0), world.known))
    write_text(file, json.dumps(found) + "\n")
    return found
