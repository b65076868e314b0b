"""Which weights an identity start may change: scores of all reachable weights from a short pass over the data.

    gradient          |sum_s dL_s/dW'|          over the training structures s, at the user's model
    fisher            sum_s (dL_s/dW')^2
    gradient_weight   |sum_s dL_s/dW'| * rms(W of the path)

The fourth choice, "random", needs no data and is the default: what docs/results.md measured is that the weights
with the largest gradients at the start are no better than drawn ones, since many of them say the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from pathtune.adaptations.base import Loss
from pathtune.adaptations.gradients import weight_gradients
from pathtune.adaptations.sparse.delta import DeltaParameter
from pathtune.adaptations.sparse.narrowing import largest
from pathtune.data import Batch
from pathtune.errors import InputError

if TYPE_CHECKING:
    from pathtune.adaptations.sparse.adaptation import Sparse
    from pathtune.model import Potential

MOST_FRAMES = 64  # of the pass


def score_layers(
    sparse: Sparse, model: Potential, batches: Iterable[Batch], loss: Loss, score: str
) -> list[torch.Tensor]:
    """Scores of every adapted layer's reachable weights; `batches` of one structure each.

    Raises InputError where there is none.
    """
    sums: list[torch.Tensor] = []
    for batch in batches:
        found = weight_gradients(model, batch, loss)
        new = [found[d.layer.parameter].flatten()[sparse.reachable[d.layer.name]] for d in sparse.deltas]
        new = [g.square() for g in new] if score == "fisher" else new
        sums = [a + b for a, b in zip(sums, new)] if sums else new
    if not sums:
        raise InputError("the scoring set has 0 structures, expected at least one")
    sums = [s.abs() for s in sums]
    if score != "gradient_weight":
        return sums
    return [s * _path_scale(sparse, model, d) for s, d in zip(sums, sparse.deltas)]


def choose_candidates(sparse: Sparse, model: Potential, batches: Iterable[Batch], loss: Loss) -> None:
    """Give the zero deltas of `sparse`, which adapts `model`, their first candidates, those of the highest scores."""
    config = sparse.config
    scores = score_layers(sparse, model, batches, loss, config.score)
    n = max(1, round(config.first_share * sum(d.n_reachable for d in sparse.deltas)))
    for d, mask in zip(sparse.deltas, largest(scores, n, [d.n_reachable for d in sparse.deltas])):
        indices = sparse.reachable[d.layer.name][mask]
        d.set_candidates(indices, torch.zeros(indices.numel(), dtype=d.values.dtype))


def _path_scale(sparse: Sparse, model: Potential, d: DeltaParameter) -> torch.Tensor:  # [n_reachable]
    """Root mean square of the path's base weights, for each reachable weight."""
    flat = model.backbone.parameters[d.layer.parameter].detach().flatten()
    rms = torch.stack([flat[p.offset : p.offset + p.numel].square().mean().sqrt() for p in d.layer.paths])
    return rms[d.layer.path_of_entries(sparse.reachable[d.layer.name])]
