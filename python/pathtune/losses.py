"""Losses on the labelled outputs; labels that a structure lacks do not count."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pathtune.data import Batch, Label, Source, outputs
from pathtune.data.sample import sampled
from pathtune.errors import InputError
from pathtune.model import Potential, Prediction

LEAST_SPREAD = 1e-12  # below: a label that does not vary, whose errors are left as they are


@dataclasses.dataclass(frozen=True)
class Term:
    """One label's part of a loss. Those of several batches, or devices, add up before they are divided."""

    sum: torch.Tensor  # of the costs of its labelled numbers
    count: int  # how many numbers are labelled

    @property
    def mean(self) -> torch.Tensor:
        """Mean cost; zero without labels."""
        return self.sum / max(self.count, 1)


class TermSums:
    """Terms of several batches, added up."""

    def __init__(self):
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: Mapping[str, Term]) -> None:
        """One more batch."""
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(term.sum.detach())
            self._counts[name] = self._counts.get(name, 0) + term.count

    def merge(self, other: TermSums) -> None:
        """Those of another process."""
        _add(self._sums, other._sums)
        _add(self._counts, other._counts)

    def means(self) -> dict[str, float]:
        """Mean cost by label, of those that some structure has."""
        return {name: self._sums[name] / count for name, count in self._counts.items() if count}


class ErrorSums:
    """Absolute errors of several batches, added up."""

    def __init__(self):
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, prediction: Prediction, batch: Batch) -> None:
        """One more batch."""
        for label in outputs():
            if label.name in prediction.outputs and label.name in batch.labels:
                mask = batch.labels[label.name].mask
                error = _error(label, prediction, batch).detach()[mask].abs()
                self._sums[label.mae_key] = self._sums.get(label.mae_key, 0.0) + label.report_factor * float(
                    error.sum()
                )
                self._counts[label.mae_key] = self._counts.get(label.mae_key, 0) + error.numel()

    def merge(self, other: ErrorSums) -> None:
        """Those of another process."""
        _add(self._sums, other._sums)
        _add(self._counts, other._counts)

    def means(self) -> dict[str, float]:
        """Mean absolute errors in reported units, by the labels' mae_key, of those that some structure has."""
        return {name: self._sums[name] / count for name, count in self._counts.items() if count}


def _add(sums: dict[str, Any], others: Mapping[str, Any]) -> None:
    for name, value in others.items():
        sums[name] = sums.get(name, 0) + value


def loss_terms(
    prediction: Prediction,
    batch: Batch,
    kind: str = "huber",
    huber_delta: float = 0.01,
    spreads: Mapping[str, float] | None = None,
    type_weights: Mapping[str, float] | None = None,
) -> dict[str, Term]:
    """The terms, by label, of everything that is predicted and may be labelled.

    `kind`: "weighted" squares the errors, "huber" is quadratic up to huber_delta and linear beyond. An extensive
    label's error is per atom. Energies are compared as interaction energies: the sum of E0 is taken off the label
    in float64, so that float32 keeps its digits. A structure's weight multiplies its costs and counts nothing.
    `spreads`: by label, what its errors are divided by first; huber_delta is then in these units. `type_weights`: by
    config_type, what its structures' weights are multiplied by; 1 where it is not named.
    """
    by_type = _type_weights(batch, type_weights) if type_weights else None
    return {
        label.name: _term(label, prediction, batch, kind, huber_delta, (spreads or {}).get(label.name, 1.0), by_type)
        for label in outputs()
        if label.name in prediction.outputs and label.name in batch.labels
    }


def _type_weights(batch: Batch, type_weights: Mapping[str, float]) -> torch.Tensor:
    """[n_graphs]; made once for a batch."""
    kept = [type_weights.get(t, 1.0) for t in batch.config_type]
    key = ("type weights", *sorted(type_weights.items()))
    return batch.made_on_host(key, lambda host: torch.tensor(kept, dtype=host.positions.dtype))


FACTORS = "factors of the loss"


def keep_factors(
    host: Batch,
    counts: Mapping[str, int],
    weights: Mapping[str, float],
    type_weights: Mapping[str, float] | None = None,
) -> None:
    """Keep with a batch on the host what a loss by `total_of_kept` reads, so that it is moved with the batch.

    `counts`: labelled numbers, by label.
    """

    def make(batch: Batch) -> dict[str, torch.Tensor]:
        asked = [label for label in outputs() if counts.get(label.name)]
        factors = {label.name: weights.get(label.name, label.weight) / counts[label.name] for label in asked}
        return {name: torch.tensor(f, dtype=batch.positions.dtype) for name, f in factors.items()}

    host.made_on_host(FACTORS, make)
    if type_weights:
        _type_weights(host, type_weights)


def total_of_kept(terms: Mapping[str, Term], batch: Batch) -> torch.Tensor:
    """`total`, with denominators that are tensors of the batch (keep_factors) in place of numbers of the host."""
    factors: dict[str, torch.Tensor] = batch.made_on_host(FACTORS, lambda host: {})
    counted = [factors[name] * term.sum for name, term in terms.items() if name in factors]
    return functools.reduce(torch.add, counted or [0.0 * term.sum for term in terms.values()])


def total(terms: Mapping[str, Term], weights: Mapping[str, float] | None = None) -> torch.Tensor:
    """The loss: the sum of the terms' means, times `weights` by label, by default the labels' own."""
    result = None
    for label in outputs():
        if label.name in terms:
            weight = label.weight if weights is None else weights.get(label.name, label.weight)
            term = terms[label.name]
            factor = weight / max(term.count, 1)
            result = factor * term.sum if result is None else torch.add(result, term.sum, alpha=factor)
    return torch.zeros(()) if result is None else result


def loss(
    prediction: Prediction,
    batch: Batch,
    kind: str = "huber",
    weights: Mapping[str, float] | None = None,
    huber_delta: float = 0.01,
) -> torch.Tensor:
    """`total` of `loss_terms` for one batch. Default weights and huber_delta are those of mace-torch."""
    return total(loss_terms(prediction, batch, kind, huber_delta), weights)


def check_outputs(model: Potential, source: Source, weights: Mapping[str, float]) -> None:
    """Raise InputError where the frames have a label that counts in the loss and that the model does not predict."""
    for label in outputs():
        is_labelled = label.name in source.present and bool(source.present[label.name].any())
        if label.conjugate_to and label.conjugate_to not in model.inputs:
            continue  # not defined for this model
        if label.length_of and label.name not in model.outputs:
            continue  # it follows from an input, which may be all that is asked of the moments
        if is_labelled and label.name not in model.outputs and weights.get(label.name, label.weight):
            raise InputError(
                f"the data have {label.name} labels, but a {model.backbone.name} predicts "
                f"{', '.join(model.outputs)}, expected {label.name}_weight 0 or a model that predicts them"
            )


def spreads(source: Source) -> dict[str, float]:
    """Root mean square of each output's label, by name, in its unit; of an extensive one per atom, about the best sum
    of a constant for each element. Of a large set from a sample (data/sample.py)."""
    found = {}
    for label in outputs():
        held = sampled(source, label.name) if label.name in source.present else np.zeros(0, dtype=int)
        values = [source.read(int(i)).labels[label.name] for i in held]
        if not values:
            continue
        if label.is_extensive:
            counts = source.composition[held]
            flat = np.stack([v.ravel() for v in values])
            rest = flat - counts @ np.linalg.lstsq(counts, flat, rcond=None)[0]
            squares = (rest / counts.sum(axis=1, keepdims=True)) ** 2
        else:
            squares = np.concatenate([v.ravel() for v in values]) ** 2
        rms = float(np.sqrt(squares.mean()))
        found[label.name] = rms if rms > LEAST_SPREAD else 1.0
    return found


def _error(label: Label, prediction: Prediction, batch: Batch) -> torch.Tensor:
    """Prediction minus label, per atom where extensive."""
    value = batch.labels[label.name].value
    found = prediction.outputs[label.name]
    if label.name == "energy":
        value = (value - prediction.e0_energy).to(found.dtype)
    if label.name in prediction.comparisons:
        inputs = {name: labelled.value for name, labelled in batch.labels.items()}
        error = prediction.comparisons[label.name].error(found, value, inputs)
    else:
        error = found - value
    if label.is_extensive:
        error = error / batch.n_atoms.reshape(-1, *[1] * (error.dim() - 1))
    return error


def _term(
    label: Label,
    prediction: Prediction,
    batch: Batch,
    kind: str,
    huber_delta: float,
    spread: float,
    by_type: torch.Tensor | None,
) -> Term:
    error = _error(label, prediction, batch)
    if spread != 1.0:
        error = error / spread
    shape = (-1, *[1] * (error.dim() - 1))
    n_labelled, mask = _labelled(label, batch, error.dtype)
    factors = [] if mask is None else [mask.reshape(shape)]
    for weight in (batch.weights.get(label.name), by_type):
        if weight is not None:
            weight = weight if label.per == "graph" else weight[batch.node_graph]
            factors.append(weight.reshape(shape))
    n_numbers = error[0].numel() if error.dim() > 1 and len(error) else 1
    return Term(_sum_of_costs(error, factors, kind, huber_delta), n_labelled * n_numbers)


def _labelled(label: Label, batch: Batch, dtype: torch.dtype) -> tuple[int, torch.Tensor | None]:
    """How many structures or atoms have the label, and the mask as numbers, None where all have it; kept."""
    mask, on_host = (one.labels[label.name].mask for one in (batch, batch.host or batch))

    def make() -> tuple[int, torch.Tensor | None]:
        n_labelled = int(on_host.sum())
        return n_labelled, None if n_labelled == on_host.numel() else mask.to(dtype)

    return batch.made(("labelled", label.name), make, (mask,))


def _sum_of_costs(error: torch.Tensor, factors: list[torch.Tensor], kind: str, huber_delta: float) -> torch.Tensor:
    """Sum of the costs of the errors, each times its factors."""
    if kind == "huber":
        zero = _zero(error.dtype, error.device).expand_as(error)
        reduction = "none" if factors else "sum"
        cost = torch.nn.functional.huber_loss(error, zero, reduction=reduction, delta=huber_delta)
    else:
        cost = error**2
    for factor in factors:
        cost = cost * factor
    return cost.sum() if cost.dim() else cost


@functools.cache
def _zero(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):  # autograd may save it
        return torch.zeros((), dtype=dtype, device=device)
