"""SiLU, x sigmoid(x), whose derivatives of all orders are few operations of torch.

torch's own second derivative is that of a product written out: twenty operations on a handful of numbers.
"""

from __future__ import annotations

from typing import Any

import torch


def silu(x: torch.Tensor) -> torch.Tensor:
    """x sigmoid(x), differentiable any number of times."""
    return _Silu.apply(x)


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.nn.functional.silu(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> torch.Tensor:
        return _Slope.apply(cotangents[0], *ctx.saved_tensors)


class _Slope(torch.autograd.Function):
    """(g, x) -> g f'(x)."""

    @staticmethod
    def forward(ctx: Any, g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(g, x)
        return torch.ops.aten.silu_backward(g, x)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        (a,), (g, x) = cotangents, ctx.saved_tensors
        # f'' = s (1 - s) (2 + x - 2 x s), s = sigmoid(x)
        s = torch.sigmoid(x)
        bend = torch.sub(x, x * s, alpha=2) + 2
        return _Slope.apply(a, x), torch.ops.aten.sigmoid_backward(a * g, s) * bend
