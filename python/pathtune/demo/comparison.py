"""Zero-shot, E0 refit, full fine-tuning and sparse on the shipped data: a comparison with rows of its own."""

from __future__ import annotations

import dataclasses
import json
import numbers
import pathlib
import shutil
import sys
import time
from typing import Any

import torch

from pathtune._version import __version__
from pathtune.adapter_file import load_adapter
from pathtune.atomic_energies import refit_e0
from pathtune.comparing.arms import Arm, Plan, Trial, arms_of
from pathtune.comparing.comparison import compare_arms
from pathtune.comparing.options import CompareOptions
from pathtune.comparing.running import World, errors, run_trials
from pathtune.comparing.table import best_of
from pathtune.data import Source, as_source, batches, demo_file
from pathtune.demo.figure import draw
from pathtune.errors import InputError
from pathtune.evaluation import evaluate
from pathtune.files import checked_path, read_text, write_text
from pathtune.forms import read_json
from pathtune.loading import load
from pathtune.model import Potential
from pathtune.options import check_fields, check_positive, option, to_mapping, to_toml
from pathtune.training import FitConfig
from pathtune.training.folder import RunFolder
from pathtune.training.progress import SeriesProgress
from pathtune.training.run import ModelOptions

SPLITS = ("train", "valid", "test")
LEARNING_RATES = (0.01, 0.02, 0.13)  # of both trained arms: the second is the default of full, the last of sparse
ACTIVE_SHARE = 0.05
OTHER_SHARES = (0.003, 0.01, 0.15)  # at the sparse arm's learning rate, for the plot
BATCH_SIZE = 5
ERRORS = ("energy_mae_mev_atom", "forces_mae_mev_a")
ARMS = ("zero-shot", "zero-shot, E0 refit", "full fine-tuning", "sparse")  # rows of the table

# What is read of the file of a finished demo.
SCORES = dict.fromkeys(ERRORS, numbers.Real)
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
    world = _world(folder, options)
    with progress:
        runs, shares = _runs(world, progress)
    full, sparse = (best_of([run for run in runs if run["arm"] == arm]) for arm in ("full", "sparse"))
    best = RunFolder(folder / "runs" / sparse["name"])
    for file in (best.adapter, best.merged):
        shutil.copyfile(file, folder / file.name)
    zero, refitted = (errors(evaluate(model, world.sets["test"])) for model in (world.base, world.refitted))
    result = {
        "pathtune": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "options": to_mapping(options),
        "learning_rates": LEARNING_RATES,
        "batch_size": BATCH_SIZE,
        "n_structures": {name: len(structures) for name, structures in world.sets.items()},
        "rows": _rows(zero, refitted, full, sparse),
        "runs": runs,
        "shares": shares,
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


def _world(folder: pathlib.Path, options: DemoOptions) -> World:
    """The shipped model and structures, of each set the first ones."""
    files = {name: (str(demo_file(name)),) for name in SPLITS}
    asked = CompareOptions(
        train=files["train"],
        valid=files["valid"],
        test=files["test"],
        arms=("full", "sparse"),
        active_share=(ACTIVE_SHARE,),
        lrs=LEARNING_RATES,
        seeds=(options.seed,),
        max_frames=options.max_frames,
    )
    plan = Plan(asked, ModelOptions(model="demo"), fit=FitConfig(epochs=options.epochs, batch_size=BATCH_SIZE))
    base = load("demo")
    sets = {name: as_source(demo_file(name), max_frames=options.max_frames) for name in SPLITS}
    refitted, e0_fit = refit_e0(base, sets["train"])
    return World(plan, folder, base, refitted, e0_fit, sets)


def _runs(world: World, progress: SeriesProgress) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Both arms at every rate; and the sparse one at its best rate with other shares beside it, ascending."""
    arms, epochs, seed = arms_of(world.plan), world.plan.fit.epochs, world.plan.compare.seeds[0]
    _, runs = compare_arms(arms, world, progress, {arm.key: epochs for arm in arms})
    sparse = best_of([run for run in runs if run["kinds"] == ["sparse"]])
    others = [Trial(Arm(("sparse",), share), sparse["lr"], seed, epochs) for share in OTHER_SHARES]
    progress.n_fits += len(others)
    shares = [sparse, *run_trials(others, world, progress)]
    return [_named(run) for run in runs], sorted((_named(run) for run in shares), key=lambda run: run["active_share"])


def _named(run: dict[str, Any]) -> dict[str, Any]:
    """A summary under the name of its kind."""
    return {**run, "arm": "+".join(run["kinds"]), "active_share": run.get("shares", {}).get("reachable")}


def _rows(zero: dict, refitted: dict, full: dict, sparse: dict) -> list[dict[str, Any]]:
    """The table; weights changed are counted in all weights for the full arm, bytes are what must be kept."""
    nothing = {"changed": 0, "share": 0.0, "bytes": 0, "seconds": 0.0}
    rows = [{"arm": name, **errors, **nothing} for name, errors in zip(ARMS, (zero, refitted))]
    for name, run in zip(ARMS[2:], (full, sparse)):
        rows.append(
            {
                "arm": name,
                **run["test"],
                "changed": run["counts"]["active"],
                "share": run["active_share"],
                "bytes": run["stored_bytes"],
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
