"""`compare`: arms with the same data, steps or seconds, and care for the learning rate, in one folder."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pathtune import processes
from pathtune._version import __version__
from pathtune.comparing.arms import Arm, Plan, Trial, arms_of, by_arm, sections_of
from pathtune.comparing.claim import claim, is_finished
from pathtune.comparing.figure import draw
from pathtune.comparing.options import CompareOptions
from pathtune.comparing.probe import Cost, costs
from pathtune.comparing.running import World, errors, open_world, run_trials
from pathtune.comparing.table import Row, add_ratios, arm_row, best_of, markdown, untrained_row
from pathtune.data import LabelKeys
from pathtune.errors import InputError
from pathtune.evaluation import evaluate
from pathtune.files import write_text
from pathtune.forms import read_json
from pathtune.model import Potential
from pathtune.options import to_mapping
from pathtune.training import FitConfig
from pathtune.training.agreement import check_alike
from pathtune.training.options import learning_rate
from pathtune.training.plans import Plans
from pathtune.training.progress import SeriesProgress
from pathtune.training.run import ModelOptions, adapt_as

COSTS = {...: {"step_seconds": float, "clock": str, "peak_bytes": (int, None)}}
MOST_SECONDS = 1e6  # of a step; above, the file is damaged
RESULT = {"rows": [{"arm": str, "title": str}], "runs": [{"name": str, "arm": str}], "equal": {...: object}}


def compare(
    model: Any,
    train: Any,
    valid: Any = None,
    test: Any = None,
    options: CompareOptions | None = None,
    config: FitConfig | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train every arm of `options` alike and return what compare.json in its folder `options.out` then holds.

    `model`: a name or file as `load` takes it, or a Potential. `train`, `valid`, `test`: as of `fit`; `options` may
    name files in their place. `more`: other sections of a config file by name, such as `model`, `data` or `delta`.
    With more than one job, model and structures must be names of files, and a script must guard its work by
    `if __name__ == "__main__"`. An interrupted comparison goes on where it was; asked for other arms, rates
    or more seeds it trains what is new. Raises InputError as fit does, for arms that are unknown or asked twice, and
    for a folder that holds something else.
    """
    options, more = options or CompareOptions(), dict(more or {})
    given = {name: data for name, data in (("train", train), ("valid", valid), ("test", test)) if data is not None}
    named = {name: _names(data) for name, data in given.items()}
    options = dataclasses.replace(options, **{name: found for name, found in named.items() if found is not None})
    in_memory = {name: data for name, data in given.items() if named[name] is None}
    asked = more.pop("model", ModelOptions())
    if isinstance(model, Potential):
        in_memory["model"] = model
    else:
        asked = dataclasses.replace(asked, model=str(model))
    plan = Plan(options, asked, more.pop("data", LabelKeys()), config or FitConfig(), more)
    if options.out is None:
        raise InputError("out is missing, expected a folder for the comparison")
    return run_comparison(plan, pathlib.Path(options.out), SeriesProgress(plan.fit.epochs, quiet=True), in_memory)


def _names(data: Any) -> tuple[str, ...] | None:
    """Files, where the data are named by them."""
    if isinstance(data, (str, pathlib.Path)):
        return (str(data),)
    is_list = isinstance(data, (list, tuple)) and bool(data)
    return tuple(map(str, data)) if is_list and all(isinstance(d, (str, pathlib.Path)) for d in data) else None


def run_comparison(
    plan: Plan, folder: pathlib.Path, progress: SeriesProgress, in_memory: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Train what is not trained yet, and write compare.json, compare.md and compare.png; returns what the first holds.

    A finished folder is only read, once model and structures are found to be those of its runs. Under torchrun the
    processes share the runs; each run is one process's own. InputError as compare.
    """
    arms, here = arms_of(plan), processes.world()
    if plan.compare.jobs > 1 and (in_memory or here.size > 1):
        several = f"in each of {here.size} processes of torchrun, expected 1"
        why = "beside data in memory, expected files that each job can read" if in_memory else several
        raise InputError(f"jobs is {plan.compare.jobs} {why}")
    is_done = here.first(lambda: is_finished(folder, plan))
    with processes.alone():
        opened = dataclasses.replace(plan, fit=plan.fit.after_e0()) if is_done else plan
        world = open_world(opened, folder, in_memory)
    reference = next((arm for arm in arms if arm.kinds == ("full",)), arms[0]).key
    reference = here.first(lambda: claim(folder, plan, world.content(), reference))
    if is_done:
        return read_json(folder / "compare.json", RESULT)
    check_alike(here, world.base, world.sets, plan.fit)
    found = here.share([lambda: _costs(arms, world, reference, is_on_disk=not in_memory)])[0]
    lengths, equal = _lengths(arms, found, plan, reference)
    with progress:
        rows, runs = compare_arms(arms, world, progress, lengths, found)
    result = {
        "pathtune": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "options": {name: to_mapping(options) for name, options in plan.sections().items()},
        "n_structures": {name: len(source) for name, source in world.sets.items()},
        "equal": equal,
        "rows": [*here.share([lambda: _untrained(world)])[0], *rows],
        "runs": runs,
    }
    add_ratios(result["rows"])
    here.first(lambda: _write(folder, result))
    return result


def _write(folder: pathlib.Path, result: Mapping[str, Any]) -> None:
    write_text(folder / "compare.md", markdown(result["rows"]))
    draw(folder / "compare.png", result["rows"])
    write_text(folder / "compare.json", json.dumps(result, indent=1) + "\n")


def compare_arms(
    arms: Sequence[Arm],
    world: World,
    progress: SeriesProgress,
    epochs: Mapping[str, int],
    found: Mapping[str, Cost] | None = None,
) -> tuple[list[Row], list[dict[str, Any]]]:
    """A row for each arm, and summaries of all runs. `epochs` and `found` (costs) by the key of the arm.

    Every rate is tried with the first seed; the one with the lowest validation loss runs with the others.
    """
    first, *others = world.plan.compare.seeds
    trials = [Trial(arm, lr, first, epochs[arm.key]) for arm in arms for lr in rates(arm, world, epochs[arm.key])]
    progress.n_fits = progress.n_done + len(trials) + len(others) * len(arms)
    tried = by_arm(run_trials(trials, world, progress))
    for _ in range(world.plan.compare.more_rates):
        further = [(arm, lr) for arm in arms if (lr := rate_beyond(tried[arm.key], world.plan.compare)) is not None]
        progress.n_fits += len(further)
        trials = [Trial(arm, lr, first, epochs[arm.key]) for arm, lr in further]
        for key, runs in by_arm(run_trials(trials, world, progress) if trials else []).items():
            tried[key] += runs
    chosen = {key: best_of(runs) for key, runs in tried.items()}
    more = [Trial(arm, chosen[arm.key]["lr"], seed, epochs[arm.key], is_first=False) for arm in arms for seed in others]
    repeated = by_arm(run_trials(more, world, progress)) if more else {}
    rows = []
    for arm in arms:
        runs = [chosen[arm.key], *repeated.get(arm.key, ())]
        rows.append(arm_row(arm, tried[arm.key], runs, (found or {}).get(arm.key)))
    return rows, [run for runs in (*tried.values(), *repeated.values()) for run in runs]


def rates(arm: Arm, world: World, epochs: int) -> list[float]:
    """The learning rates that are tried: those asked, or the arm's default times powers of two."""
    asked = world.plan.compare
    if asked.lrs:
        return list(asked.lrs)
    options = sections_of(Trial(arm, 1.0, asked.seeds[0], epochs), world.plan)
    config = dataclasses.replace(options["fit"], lr=None)
    train, replay = world.sets["train"], world.sets.get("replay")
    with processes.alone():
        model = adapt_as(world.refitted, train, {**options, "fit": config}, replay)
    n_steps = Plans(config, *([train] if replay is None else [train, replay])).before(config.epochs)
    default = learning_rate(model, config, n_steps)
    return [float(f"{default * 2 ** (i - (asked.n_rates - 1) / 2):.3g}") for i in range(asked.n_rates)]


def rate_beyond(tried: Sequence[dict[str, Any]], asked: CompareOptions) -> float | None:
    """Twice the highest rate of runs of an arm, or half the lowest, where that was the best; else None."""
    lrs = [run["lr"] for run in tried]
    if asked.lrs or len(lrs) == 1 or all(run["valid_loss"] is None for run in tried):
        return None
    best = best_of(tried)["lr"]
    factor = {min(lrs): 0.5, max(lrs): 2.0}.get(best)
    return None if factor is None else float(f"{best * factor:.3g}")


def _costs(arms: Sequence[Arm], world: World, reference: str, is_on_disk: bool) -> dict[str, Cost]:
    """Of each arm by its key: measured once and kept in costs.json.

    The `reference` is timed again beside arms that come later, whose times are scaled to its first: a machine is not as
    fast on every day.
    """
    file = world.folder / "costs.json"
    kept = {key: Cost(**cost) for key, cost in read_json(file, COSTS).items()} if file.exists() else {}
    for key, cost in kept.items():
        if not 0 < cost.step_seconds < MOST_SECONDS:
            found = f"{key}, step_seconds is {cost.step_seconds:g}"
            raise InputError(f"{file}: {found}, expected a number between 0 and {MOST_SECONDS:g}")
    if any(arm.key not in kept for arm in arms):
        timed = [arm for arm in arms if arm.key not in kept or arm.key == reference]
        found = dict(zip([arm.key for arm in timed], costs(timed, world, is_on_disk)))
        before, again = kept.get(reference), found.get(reference)
        if before and again and before.clock == again.clock:
            found = {key: _scaled(cost, before.step_seconds / again.step_seconds) for key, cost in found.items()}
        kept = {**found, **kept}
        write_text(file, json.dumps({key: dataclasses.asdict(cost) for key, cost in kept.items()}, indent=1) + "\n")
    return kept


def _scaled(cost: Cost, factor: float) -> Cost:
    return dataclasses.replace(cost, step_seconds=factor * cost.step_seconds)


def _lengths(
    arms: Sequence[Arm], found: Mapping[str, Cost], plan: Plan, reference: str
) -> tuple[dict[str, int], dict[str, Any]]:
    """Epochs by the key of the arm, and what was the same for all, for the record."""
    mode, asked = plan.compare.equal, plan.fit.epochs
    clocks = {found[key].clock for key in (reference, *(arm.key for arm in arms))}
    if mode == "seconds" and len(clocks) > 1:
        raise InputError(
            "the steps of some arms were timed with one thread and those of others with several, expected as many "
            "threads as in the first call on this folder"
        )
    ratio = {arm.key: found[reference].step_seconds / found[arm.key].step_seconds for arm in arms}
    epochs = {arm.key: asked if mode == "steps" else max(1, round(asked * ratio[arm.key])) for arm in arms}
    return epochs, {"mode": mode, "reference": reference, "step_time_ratio": ratio, "epochs": epochs}


def _untrained(world: World) -> list[Row]:
    """The base as it is, and with E0 refitted."""
    rows = []
    models = [("zero-shot", world.base)]
    if world.e0_fit is not None:
        models.append(("zero-shot, E0 refit", world.refitted))
    for name, model in models:
        sets = {split: world.sets.get(split) for split in ("valid", "test")} | {"known": world.known}
        own = {"known": world.base}  # with the base's own E0, as the tuned ones are judged
        scores = {
            split: None if source is None else errors(evaluate(own.get(split, model), source))
            for split, source in sets.items()
        }
        rows.append(untrained_row(name, scores))
    return rows
