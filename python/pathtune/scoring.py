"""Which weights an identity start may change: scores of all reachable weights from a short pass over the data.

    gradient          |sum_s dL_s/dW'|          over the training structures s, at the user's model
    fisher            sum_s (dL_s/dW')^2
    gradient_weight   |sum_s dL_s/dW'| * rms(W of the path)

The fourth choice, "random", needs no data and is the default: what docs/results.md measured is that the weights
with the largest gradients at the start are no better than drawn ones, since many of them say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from pathtune.data import Batch, Request
from pathtune.delta import DeltaParameter
from pathtune.errors import InputError
from pathtune.model import Potential, Prediction
from pathtune.narrowing import largest

Loss = Callable[[Prediction, Batch], torch.Tensor]
MOST_FRAMES = 64  # of the pass


def gradients(model: Potential, batch: Batch, loss: Loss) -> list[torch.Tensor]:
    """dL/dW' of every adapted layer at its reachable weights, dense, whatever the candidates are."""
    deltas: list[DeltaParameter] = model.adapted()  # type: ignore
    weights = {name: w.detach().requires_grad_() for name, w in model.effective_weights().items()}
    value = loss(model.predict(weights, batch, Request(batch.wanted, training=True)), batch)
    found = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
    return [g.flatten()[model.reachable(d.layer)] for d, g in zip(deltas, found)]


def score_layers(model: Potential, batches: Iterable[Batch], loss: Loss, score: str) -> list[torch.Tensor]:
    """Scores of every adapted layer's reachable weights; `batches` of one structure each.

    Raises InputError where there is none.
    """
    sums: list[torch.Tensor] = []
    for batch in batches:
        new = gradients(model, batch, loss)
        new = [g.square() for g in new] if score == "fisher" else new
        sums = [a + b for a, b in zip(sums, new)] if sums else new
    if not sums:
        raise InputError("the scoring set has 0 structures, expected at least one")
    sums = [s.abs() for s in sums]
    if score != "gradient_weight":
        return sums
    return [s * _path_scale(model, d) for s, d in zip(sums, model.adapted())]  # type: ignore


def choose_candidates(model: Potential, batches: Iterable[Batch], loss: Loss) -> None:
    """Give the model's zero deltas their first candidates, those of the highest scores."""
    config = model.config
    assert config is not None
    deltas: list[DeltaParameter] = model.adapted()  # type: ignore
    scores = score_layers(model, batches, loss, config.score)
    n = max(1, round(config.first_share * sum(d.n_reachable for d in deltas)))
    for d, mask in zip(deltas, largest(scores, n, [d.n_reachable for d in deltas])):
        indices = model.reachable(d.layer)[mask]
        d.set_candidates(indices, torch.zeros(indices.numel(), dtype=d.values.dtype))


def _path_scale(model: Potential, d: DeltaParameter) -> torch.Tensor:  # [n_reachable]
    """Root mean square of the path's base weights, for each reachable weight."""
    flat = model.backbone.parameters[d.layer.parameter].detach().flatten()
    rms = torch.stack([flat[p.offset : p.offset + p.numel].square().mean().sqrt() for p in d.layer.paths])
    return rms[d.layer.path_of_entries(model.reachable(d.layer))]
