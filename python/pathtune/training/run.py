"""One run from a model to its folder: train an arm, then write adapter, merged model and errors."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import time
from collections.abc import Mapping
from typing import Any

from pathtune._version import __version__
from pathtune.adaptations import Composition, Stored, adaptation_class, adaptation_kinds, option_sections
from pathtune.adapter_file import save_adapter
from pathtune.adapting import adapt, merge
from pathtune.atomic_energies import E0Fit, refit_e0
from pathtune.data import LabelKeys, Source, check_elements, elements_of, heads_of
from pathtune.errors import InputError
from pathtune.evaluation import evaluate, mean_loss
from pathtune.files import write_text
from pathtune.loading import load, save
from pathtune.model import Potential
from pathtune.options import check_fields, check_positive, fields_of, option
from pathtune.processes import world
from pathtune.training.fitting import fit, see
from pathtune.training.folder import RunFolder
from pathtune.training.loggers import PACKAGES
from pathtune.training.options import FitConfig, History
from pathtune.training.plans import Plans
from pathtune.training.predictions import write_predictions
from pathtune.training.progress import Progress
from pathtune.training.provenance import provenance
from pathtune.training.verdict import judge, trivial_errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it computes."""

    model: str | None = option(
        None,
        "a .model or checkpoint file (a pickle: name only files you trust), a .nqx file, or a name such as demo or "
        "sevennet:7net-0",
    )
    head: str | None = option(None, "head of a multi-head model, its first by default; or modality")
    dtype: str | None = option(None, "precision; the file's own by default", choices=("float32", "float64"))
    device: str = option("cpu", "where to compute", choices=("cpu", "cuda"))
    backend: str = option("auto", "kernels to compute with", choices=("auto", "cpu", "reference", "cueq"))

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Data, arm and folder of a run."""

    train: tuple[str, ...] | None = option(
        None, "labelled structures to train on: files, folders, globs, slices such as run.traj@:20"
    )
    valid: tuple[str, ...] | None = option(None, "labelled structures that choose the best epoch")
    valid_fraction: float | None = option(None, "in their place this share of --train, drawn by --seed")
    test: tuple[str, ...] | None = option(None, "labelled structures whose errors are reported at the end")
    replay: str | None = option(None, "structures of what the base knows, mixed in against forgetting")
    out: str | None = option(None, "folder to make")
    arm: tuple[str, ...] = option(("sparse",), "what to train; several build on one another", choices=adaptation_kinds)
    max_frames: int | None = option(None, "only the first so many training structures")
    report: bool = option(True, "write the cheap panels of `pathtune report` at the end: report/index.html")
    logger: tuple[str, ...] = option(
        (), "tell these of every epoch too, through their own packages; only the first process does", tuple(PACKAGES)
    )
    timeout_minutes: float = option(10.0, "several processes: how long one waits for the others")

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "timeout_minutes")


def sections() -> dict[str, type]:
    """Sections of a config file, with their dataclasses: those of a run, and those of the kinds of adaptation.

    Raises InputError for a section, or an option in any of them, that is there twice: each is one flag.
    """
    core = {"run": RunOptions, "model": ModelOptions, "data": LabelKeys}
    kinds = option_sections()
    for name in kinds:
        if name in core or name == "fit":
            raise InputError(f"section [{name}] of an adaptation is a section of every run, expected a new name")
    result = {**core, **kinds, "fit": FitConfig}
    owners: dict[str, str] = {}
    for name, cls in result.items():
        for field in fields_of(cls):
            if field.name in owners:
                raise InputError(
                    f"option {field.name!r} of section [{name}] is one of [{owners[field.name]}] too, "
                    "expected a name of its own"
                )
            owners[field.name] = name
    return result


def check_arm(options: Mapping[str, Any]) -> None:
    """Raise InputError for options (by section) that are asked of a kind which the arm does not name."""
    named = {adaptation_class(kind).section for kind in options["run"].arm}
    for section, cls in option_sections().items():
        asked = options.get(section)
        if asked is None or section in named:
            continue
        field = next((f for f in fields_of(cls) if getattr(asked, f.name) != f.default), None)
        if field is not None:
            kinds = " or ".join(kind for kind in adaptation_kinds() if adaptation_class(kind).section == section)
            raise InputError(
                f"{field.name} is {getattr(asked, field.name)!r} beside arm {' '.join(options['run'].arm)}, "
                f"expected {kinds} among the arm's kinds"
            )


def adapt_as(base: Potential, train: Source, options: Mapping[str, Any], replay: Source | None = None) -> Potential:
    """The arm that `options` (by section) names, ready to train; InputError as adapt, and for an impossible plan.

    `replay`: structures that are mixed into those of `train`.
    """
    run: RunOptions = options["run"]
    config: FitConfig = options["fit"]
    n_steps = Plans(config, *([train] if replay is None else [train, replay])).before(config.epochs)
    for kind in run.arm:
        cls = adaptation_class(kind)
        cls.check(options.get(cls.section), n_steps)
    model = adapt(base, run.arm, elements_of(train), options, config.seed, heads_of(train))
    if replay is not None:
        check_elements(replay, base.atomic_numbers)
        see(model, replay)
    if config.refit_e0 and config.e0 is None and any(c.starts_anew for c in model.adaptation.parts()):
        model.set_e0(refit_e0(model, train)[0].e0)
    return model


def run_arm(
    model: Potential,
    base: Potential,
    sets: Mapping[str, Source],
    config: FitConfig,
    folder: RunFolder,
    e0_fit: E0Fit | None = None,
    progress: Progress | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train `model`, made by `adapt_as` from `base`, and fill its folder, claimed by `start`.

    E0 of `base` have been set and labels checked. `sets`: train and valid, replay where there is one, and test
    where its errors are wanted. `facts`: what else metrics.json is to hold. Returns what metrics.json holds, which is
    written last. Raises InputError as fit does.
    """
    began = time.monotonic()
    before = evaluate(base, sets["valid"])
    start, loss_of = (
        model.adaptation.state(),
        functools.partial(config.loss_of, scale=config.scale_of(model, sets["train"])),
    )
    losses = [mean_loss(model, sets["valid"], config.batch_size, loss_of)]
    shown = progress or False
    history = fit(model, sets["train"], sets["valid"], config.after_e0(), None, folder, shown, sets.get("replay"))
    scores = evaluate(model, sets["valid"])
    losses.append(mean_loss(model, sets["valid"], config.batch_size, loss_of))
    guesses = trivial_errors(sets["train"], sets["valid"])
    verdict = judge(before, scores, (losses[0], losses[1]), guesses, history)
    is_start = verdict.is_worse and not config.keep_worse
    if is_start:
        model.adaptation.restore(start)
        model.set_e0(base.e0)
        scores = evaluate(model, sets["valid"])
    metrics = _metrics(model, history, scores) | {
        "valid_before": before,
        "e0_fit": dataclasses.asdict(e0_fit) if e0_fit else None,
        "is_worse": verdict.is_worse,
        "is_start": is_start,  # whether the result is the model as it was before training
        "warnings": list(verdict.warnings),
        **provenance(model, sets, config),
        **(facts or {}),
    }
    if "test" in sets:
        metrics["test"] = evaluate(model, sets["test"])
    metrics["wall_seconds"] = time.monotonic() - began  # of this process, where the run was resumed
    return world().first(lambda: _write(model, sets, folder, metrics))


def _write(model: Potential, sets: Mapping[str, Source], folder: RunFolder, metrics: dict[str, Any]) -> dict[str, Any]:
    """Predictions, model and, last, metrics.json, which is returned."""
    judged = {name: sets[name] for name in ("valid", "test") if name in sets}
    write_predictions(model, judged, folder.predictions)
    _save_model(model, folder, {key: metrics[key] for key in ("pathtune", "best_epoch", "epochs")})
    if folder.adapter.exists():
        metrics["adapter_bytes"] = folder.adapter.stat().st_size
    write_text(folder.metrics, json.dumps(metrics, indent=1) + "\n")
    for logger in folder.loggers:
        logger.end(metrics)
    return metrics


def _save_model(model: Potential, folder: RunFolder, summary: dict[str, Any]) -> None:
    """The adapter, where one holds the model, and the merged model, where a plain one does.

    Where only a part of the adaptations has an adapter and the rest are weights, such as full fine-tuning with a spin
    layer: the merged model holds the weights, and the adapter, made for that one, holds terms and heads.
    """
    parts, is_stored = model.adaptation.parts(), model.adaptation.is_stored
    terms = [c for c in parts if c.energy_term() is not None or c.predictors()]
    if is_stored:
        save_adapter(model, folder.adapter, summary)
    if not is_stored or not model.adaptation.energy_terms():
        weights = Composition([c for c in parts if c not in terms], model.base, model.elements, model.e0)
        plain = copy.copy(model)
        plain._modules, plain._buffers = dict(model._modules), dict(model._buffers)
        save(merge(plain.use(weights) if terms else model), folder.merged)
    if terms and not is_stored and all(c.is_stored for c in terms):
        head = model.base.heads[model.head]
        base = load(folder.merged, head=None if head == "Default" else head, device=str(model.device))
        n_species = len(model.atomic_numbers)
        moved = [
            type(c).from_tensors(base, Stored(c.tensors(model.atomic_numbers), str(folder.adapter), n_species))
            for c in terms
        ]
        save_adapter(base.use(Composition(moved, base.base, model.elements, base.e0)), folder.adapter, summary)


def _metrics(model: Potential, history: History, scores: dict[str, Any]) -> dict[str, Any]:
    best = history.epochs[history.best_epoch - 1] if history.best_epoch else {}
    summaries = zip(model.adaptation.names(), [c.summary() for c in model.adaptation.parts()])
    return {
        "pathtune": __version__,
        **{name: summary for name, summary in summaries if summary},
        "arm": model.adaptation.kind,
        "valid": scores,
        "valid_loss": best.get("valid_loss"),
        "counts": model.counts(),
        "active_share": model.active_share(),
        "shares": model.shares(),
        "optimizer_bytes": history.optimizer_bytes,
        "best_epoch": history.best_epoch,
        "best_reason": history.reason,
        "epochs": len(history.epochs),
        "seconds": history.epochs[-1]["seconds"] if history.epochs else 0.0,
    }
