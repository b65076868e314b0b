"""How many weights to change: by the amount of data, or by a short sweep over active shares.

The first is a rule that costs nothing, read off measured errors (docs/results.md, bench/frontier.py). The second
trains, and applies the one-standard-error rule on validation.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import numbers
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pathtune.adaptations import SparseDelta
from pathtune.adapting import adapt, sparsify
from pathtune.conventions import check_conventions
from pathtune.data import Source, as_source, elements_of, heads_of
from pathtune.data.plan import labelled_numbers
from pathtune.energy_offsets import settle_energies
from pathtune.errors import DivergedError, InputError
from pathtune.evaluation import losses
from pathtune.files import write_text
from pathtune.forms import read_json
from pathtune.layers import select_layers
from pathtune.model import Potential
from pathtune.options import to_toml
from pathtune.plots import BLUE, ORANGE, draw_share_axis, new_figure, save_png
from pathtune.processes import world
from pathtune.training import FitConfig, fit
from pathtune.training.agreement import model_hash

WEIGHTS_PER_LABEL = 1.6  # that may change, for each labelled number
LEAST_SHARE = 0.3
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
EPOCHS_SHARE = 0.2  # of the run's epochs, for each run of the sweep
LEAST_STEPS = 50  # of each run of the sweep, as far as the whole run has so many
SWEEP = {"epochs": int, "points": [{"share": float, "active": int, "losses": [numbers.Real]}]}  # of a sweep's file


@dataclasses.dataclass(frozen=True)
class SweepPoint:
    """One short run."""

    share: float
    active: int  # weights changed
    losses: list[float]  # of each validation structure
    is_full: bool = False  # full fine-tuning, whose share is 1

    @property
    def mean(self) -> float:
        """Mean validation loss."""
        return statistics.fmean(self.losses)


@dataclasses.dataclass(frozen=True)
class ShareChoice:
    """The chosen share, why, and the sweep that says so, where there was one."""

    share: float
    reason: str
    points: list[SweepPoint] = dataclasses.field(default_factory=list)  # ascending in the share
    epochs: int = 0  # of each run of the sweep
    full: SweepPoint | None = None  # full fine-tuning, where it was tried
    is_full_better: bool = False  # than the chosen share, clearly


def share_for(base: Potential, train: Any, delta: SparseDelta | None = None) -> ShareChoice:
    """The active share that the amount of data asks for; nothing is trained.

        share = 1.6 n_labels / n_reachable, at least 0.3 and at most 1

    n_labels: numbers among the labels of `train` (as of `fit`): one for an energy, three for the force of an atom, six
    for a stress. n_reachable: weights in the scope and targets of `delta` that these data can change. The rule was read
    off bench/results/frontier.jsonl: docs/decisions/0010-optimiser.md. Raises InputError as `adapt` for elements, heads
    and targets.
    """
    delta, train = delta or SparseDelta(), as_source(train)
    base = base.for_heads(heads_of(train))
    species = base.species_of(elements_of(train))
    layers = select_layers(base.backbone.layers, delta.targets, delta.scope)
    n_reachable = sum(layer.reachable(species, base.tuned_heads).numel() for layer in layers)
    n_labels = sum(labelled_numbers(train, np.arange(len(train))).values())
    share = round(min(1.0, max(LEAST_SHARE, WEIGHTS_PER_LABEL * n_labels / n_reachable)), 2)
    why = f"{n_labels:,d} labelled numbers for {n_reachable:,d} weights that they can change"
    others = "; --arm full changes the other kinds of weights too" if share == 1 else ""
    return ShareChoice(share, f"{_percent(share)}, by the amount of data: {why}{others}")


def choose_share(
    base: Potential,
    train: Any,
    valid: Any,
    delta: SparseDelta | None = None,
    config: FitConfig | None = None,
    shares: Sequence[float] = SHARES,
    file: str | pathlib.Path | None = None,
    report: Callable[[str], None] | None = None,
    has_full: bool = True,
) -> ShareChoice:
    """The smallest active share that is not clearly worse than the best of a short sweep.

    `train` and `valid`: as of `fit`. One run for each share, and with `has_full` one of full fine-tuning unless
    `config` has a rate, which would be one arm's; each a fifth of the epochs of `config` long, all on `base`
    with the E0 that `fit` would find, unless `config.refit_e0` is off.
    With a `file` (JSON), finished runs are kept there and not repeated. Several processes share the runs.
    Raises InputError for fewer than two validation structures, shares outside (0, 1], a `file` that is no sweep's, or
    when no share means as much as one weight.
    """
    delta, config = delta or SparseDelta(), config or FitConfig()
    train, valid = as_source(train), as_source(valid)
    if len(valid) < 2:
        raise InputError(f"the sweep has {len(valid)} validation structures, expected at least 2")
    least = -(-LEAST_STEPS // -(-len(train) // config.batch_size))
    epochs = min(config.epochs, max(1, least, round(EPOCHS_SHARE * config.epochs)))
    given = {"train": train, "valid": valid}
    base, _, sets, _ = settle_energies(base, given, config.energy_offsets, config.e0, config.refit_e0)
    train, valid = sets["train"], sets["valid"]
    if config.check_units:
        check_conventions(base, train)
    config = dataclasses.replace(config.after_e0(), epochs=epochs, patience=0, keep_worse=True)
    said = report or (lambda line: None)
    of = _digest(base, delta, config, train, valid)
    points = world().first(lambda: _read(file, of))
    arms = [(share, False) for share in sorted(set(shares))]
    arms += [(1.0, True)] if has_full and config.lr is None else []
    asked = [arm for arm in arms if all((p.share, p.is_full) != arm for p in points)]
    for first in range(0, len(asked), world().size):  # as many runs at a time as there are processes
        jobs = [functools.partial(_run, base, train, valid, delta, config, *a) for a in asked[first:][: world().size]]
        found = world().share(jobs)
        points += [point for point in found if point is not None]
        for arm, point in zip(asked[first:], found):
            name = _name(*arm)
            if point is None:
                said(f"{name}: no run, or it diverged")
            else:
                said(f"{name:16s}  {point.active:8,d} weights  validation {point.mean:.4g}")
        if file is not None:
            text = json.dumps({"of": of, "epochs": epochs, "points": _plain(points)}, indent=1) + "\n"
            world().first(functools.partial(write_text, pathlib.Path(file), text))
    sparse = sorted((p for p in points if not p.is_full), key=lambda p: p.share)
    if not sparse:
        tried = ", ".join(map(str, shares))
        raise InputError(f"shares are {tried}: each is less than one weight or its run diverged, expected others")
    full = next((p for p in points if p.is_full), None)
    return beside_full(one_standard_error(sparse, epochs), full)


def _run(
    base: Potential, train: Source, valid: Source, delta: SparseDelta, config: FitConfig, share: float, is_full: bool
) -> SweepPoint | None:
    """One short run; None where the share is less than one weight of a small model, or the run diverges."""
    try:
        model = _model(base, train, delta, config, share, is_full)
        if model is None:
            return None
        fit(model, train, valid, config, progress=False)
    except DivergedError:
        return None
    return SweepPoint(share, model.counts()["active"], losses(model, valid, config.loss_of), is_full)


def _model(
    base: Potential, train: Source, delta: SparseDelta, config: FitConfig, share: float, is_full: bool
) -> Potential | None:
    if is_full:
        return adapt(base, ["full"], elements_of(train), seed=config.seed, heads=heads_of(train))
    try:
        plan = dataclasses.replace(delta, active_share=share, by_step=None)
        return sparsify(base, plan, elements_of(train), config.seed, heads=heads_of(train))
    except InputError:
        if 0 < share <= 1:
            return None
        raise


def one_standard_error(points: Sequence[SweepPoint], epochs: int = 0) -> ShareChoice:
    """The smallest share whose mean loss exceeds the best's by no more than one standard error.

    The rule of Breiman et al., Classification and Regression Trees (1984), section 3.4.3, with the standard error
    of the paired difference, since all runs are judged on the same structures. `points` ascend in the share.
    """
    best = min(points, key=lambda p: p.mean)
    for point in points:
        excess, error = _excess(point, best)
        if excess <= error:
            break
    if point is best:
        is_first = point is points[0]
        smaller = "and is the smallest" if is_first else "no smaller one comes within one standard error of it"
        reason = f"{_percent(point.share)} has the lowest validation loss, {point.mean:.4g}; {smaller}"
    else:
        reason = (
            f"{_percent(point.share)} is the smallest share within one standard error of the best, "
            f"{_percent(best.share)}: its validation loss is {excess:.2g} higher, {point.mean:.4g} against "
            f"{best.mean:.4g}, and the standard error of that difference is {error:.2g}"
        )
    return ShareChoice(point.share, reason, list(points), epochs)


def beside_full(choice: ShareChoice, full: SweepPoint | None) -> ShareChoice:
    """The choice, and whether full fine-tuning is better by more than one standard error of the paired difference."""
    if full is None:
        return choice
    chosen = next(p for p in choice.points if p.share == choice.share)
    gain, error = _excess(chosen, full)
    is_better = gain > error
    words = (
        f"; full fine-tuning is better, {full.mean:.4g} (--arm full)"
        if is_better
        else f"; full fine-tuning is not clearly better, {full.mean:.4g}"
    )
    return dataclasses.replace(choice, reason=choice.reason + words, full=full, is_full_better=is_better)


def _excess(point: SweepPoint, other: SweepPoint) -> tuple[float, float]:
    """Mean loss above the other's, and the standard error of that paired difference."""
    differences = [a - b for a, b in zip(point.losses, other.losses)]
    return point.mean - other.mean, statistics.stdev(differences) / math.sqrt(len(differences))


def _name(share: float, is_full: bool) -> str:
    return "full fine-tuning" if is_full else f"share {100 * share:5.2f} %"


def draw_sweep(choice: ShareChoice, file: str | pathlib.Path) -> None:
    """A PNG of the validation loss against the active share, with the choice marked."""
    figure = new_figure(4.5, 3.2)
    axes = figure.subplots()
    shares = [p.share for p in choice.points]
    errors = [statistics.stdev(p.losses) / math.sqrt(len(p.losses)) for p in choice.points]
    axes.errorbar([100 * s for s in shares], [p.mean for p in choice.points], errors, fmt="o-", color=BLUE, capsize=3)
    axes.axvline(100 * choice.share, color=ORANGE, ls="--", label=f"chosen: {_percent(choice.share)}")
    if choice.full is not None:
        axes.axhline(choice.full.mean, color=BLUE, ls=":", label="full fine-tuning")
    draw_share_axis(axes, shares)
    axes.set_ylabel(f"validation loss after {choice.epochs} epochs")
    axes.legend(frameon=False, fontsize=8)
    save_png(figure, file)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _plain(points: Sequence[SweepPoint]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(p) for p in points]


def _read(file: str | pathlib.Path | None, of: str) -> list[SweepPoint]:
    if file is None or not pathlib.Path(file).exists():
        return []
    state = read_json(file, SWEEP)
    points = [SweepPoint(p["share"], p["active"], p["losses"], p.get("is_full") is True) for p in state["points"]]
    return points if state.get("of") == of else []


def _digest(base: Potential, delta: SparseDelta, config: FitConfig, train: Source, valid: Source) -> str:
    """A hash of all that the runs of a sweep depend on."""
    options = to_toml(delta=delta, fit=config)
    parts = (options, model_hash(base), train.fingerprint, valid.fingerprint)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
