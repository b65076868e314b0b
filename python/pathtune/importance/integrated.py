"""Integrated gradients of the validation loss along the straight line from the base to the tuned weights.

    a_i = -D_i integral over t in [0, 1] of dL/dW_i at W + t D,        D = W' - W

so that sum_i a_i = L(W) - L(W'), the loss that tuning took off. Sundararajan et al., ICML 2017 (arXiv:1703.01365),
of weights instead of inputs. D_i dL/dW_i does not change when a weight is multiplied by c and its coefficient divided
by c. The integral is a Gauss-Legendre sum; how nearly the a_i add up (`completeness`, 1 where they do) says whether it
has nodes enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from pathtune.data import Batch, Request
from pathtune.importance.parts import Change
from pathtune.model import Potential

NODES = (4, 8, 16)  # tried in turn until the sum is complete
TOLERANCE = 0.05  # of completeness, around 1

Loss = Callable[..., torch.Tensor]


def integrated_gradients(
    model: Potential, change: Change, frames: Sequence[Batch], loss_of: Loss, n_nodes: int
) -> dict[str, torch.Tensor]:
    """a of every weight of the parameters that differ, by name, in units of the loss, float64."""
    points, weights = np.polynomial.legendre.leggauss(n_nodes)
    result = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in change.base.items()}
    for point, weight in zip((points + 1) / 2, weights / 2):
        at = {name: change.base[name] + float(point) * change.delta(name) for name in change.base}
        for name, gradient in loss_gradient(model, at, frames, loss_of).items():
            result[name] -= float(weight) * gradient * change.delta(name).double()
    return result


def loss_gradient(
    model: Potential, weights: Mapping[str, torch.Tensor], frames: Sequence[Batch], loss_of: Loss
) -> dict[str, torch.Tensor]:
    """Gradient of the mean loss by these weights, by name, float64."""
    n_graphs = sum(batch.n_graphs for batch in frames)
    result = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}
    for batch in frames:
        leaves = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
        value = loss_of(model.predict(leaves, batch, Request(batch.wanted, training=True)), batch)
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
        for name, gradient in zip(leaves, found):
            result[name] += gradient.double() * (batch.n_graphs / n_graphs)
    return result


def complete_gradients(
    model: Potential,
    change: Change,
    frames: Sequence[Batch],
    loss_of: Loss,
    removed: float,
    nodes: Sequence[int] = NODES,
) -> tuple[dict[str, torch.Tensor], int, float]:
    """As integrated_gradients with the first of `nodes` that is complete, or the last; that number; completeness.

    `removed`: L(W) - L(W').
    """
    found: dict[str, torch.Tensor] = {}
    completeness, used = 0.0, 0
    for used in nodes:
        found = integrated_gradients(model, change, frames, loss_of, used)
        completeness = float(sum(a.sum() for a in found.values())) / removed if removed else 0.0
        if is_complete(completeness):
            break
    return found, used, completeness


def is_complete(completeness: float) -> bool:
    """Whether the gradients add up well enough to be shown."""
    return abs(completeness - 1) <= TOLERANCE
