"""Dense gradients of a loss with respect to W', for what chooses weights by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pathtune.adaptations.base import Loss
from pathtune.data import Batch, Request

if TYPE_CHECKING:
    from pathtune.model import Potential


def weight_gradients(model: Potential, batch: Batch, loss: Loss) -> dict[str, torch.Tensor]:
    """dL/dW' of every weight that the model's adaptations write, by parameter name, of the shape of W."""
    weights = {name: w.detach().requires_grad_() for name, w in model.effective_weights().items()}
    value = loss(model.predict(weights, batch, Request(batch.wanted, training=True)), batch)
    found = torch.autograd.grad(value, list(weights.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(weights, found))
