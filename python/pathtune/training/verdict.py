"""Whether a training was worth it: against the base before it, and against guesses that know no structure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pathtune.data import Label, Source, outputs
from pathtune.data.sample import sampled
from pathtune.training.options import History


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is said of a training."""

    is_worse: bool  # than the base, or than a guess that knows no structure
    warnings: tuple[str, ...]  # sentences


def judge(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    losses: tuple[float, float],
    guesses: Mapping[str, float],
    history: History,
) -> Verdict:
    """Compare validation scores (of `evaluate`) and `losses` before and after; `guesses`: of `trivial_errors`.

    Worse is a higher loss than the base's, or an error of one label that is above both the guess's and the base's.
    """
    warnings = []
    if losses[1] > losses[0]:
        warnings.append(
            f"the validation loss is {losses[1]:.4g}, worse than {losses[0]:.4g} before training: {_cause(history)}"
        )
    is_worse = bool(warnings)
    for label in outputs():
        key = label.rmse_key
        if key not in guesses or key not in after or after[key] <= guesses[key]:
            continue
        own = before.get(key, math.inf)  # of a base that does not predict it
        is_worse = is_worse or after[key] > own
        warnings.append(
            f"the {label.word} RMSE is {after[key]:.3g} {label.report_unit}, no better than the {guesses[key]:.3g} of "
            f"{_guess(label)}: {_cause_of(label, own, after[key])}"
        )
    return Verdict(is_worse, tuple(warnings))


def trivial_errors(train: Source, valid: Source) -> dict[str, float]:
    """Root mean square errors of guesses on `valid`, in reported units, by the labels' rmse_key.

    Zero for labels of an atom, the mean of `train` for those of a graph, and for extensive ones a constant for each
    element, fitted to `train`. Labels that either set lacks are absent. Of large sets, of samples.
    """
    result = {}
    for label in outputs():
        if label.per == "atom":
            values = _values(label, valid)
            errors = np.concatenate([v.ravel() for v in values]) if values else None
        else:
            errors = _errors_of_constants(label, train, valid)
        if errors is not None and errors.size:
            result[label.rmse_key] = float(np.sqrt(np.mean(errors**2)) * label.report_factor)
    return result


def _guess(label: Label) -> str:
    if label.per == "atom":
        return "zeros"
    return "a constant for each element" if label.is_extensive else "a constant"


def _cause_of(label: Label, before: float, after: float) -> str:
    labels = "the labels may have another unit, sign or level of theory than they are taken for"
    if after < before < math.inf:
        return f"it was {before:.3g} before, so train longer or give {label.name}_weight more; if it stays, {labels}"
    return f"{labels}, or the training was too short"


def _cause(history: History) -> str:
    losses = [line["train_loss"] for line in history.epochs]
    if losses and losses[-1] < losses[0]:
        return (
            f"the training loss fell ({losses[0]:.4g} to {losses[-1]:.4g}), so that the two sets may differ in level "
            "of theory or unit, or there are too few structures"
        )
    return "the training loss did not fall either: try a lower learning rate, a third of this one"


def _values(label: Label, source: Source) -> list[np.ndarray]:
    return [source.read(int(i)).labels[label.name] for i in sampled(source, label.name)]


def _errors_of_constants(label: Label, train: Source, valid: Source) -> np.ndarray | None:
    known, asked = _values(label, train), _values(label, valid)
    if not known or not asked:
        return None
    y, wanted = (np.array([v.ravel() for v in values]) for values in (known, asked))
    if not label.is_extensive:
        return wanted - y.mean(axis=0)
    shares, n_atoms = _shares(label, train, train.elements)
    asked_shares, n_asked = _shares(label, valid, train.elements)
    constants = np.linalg.lstsq(shares, y / n_atoms, rcond=None)[0]
    return wanted / n_asked - asked_shares @ constants


def _shares(label: Label, source: Source, elements: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Shares of `elements` [n_frames, n_elements] and numbers of atoms [n_frames, 1] of the labelled frames."""
    counts = source.composition[sampled(source, label.name)]
    n_atoms = counts.sum(axis=1, keepdims=True)
    columns = np.zeros((len(counts), len(elements)))
    for k, z in enumerate(source.elements):
        if z in elements:
            columns[:, list(elements).index(z)] = counts[:, k]
    return columns / n_atoms, n_atoms
