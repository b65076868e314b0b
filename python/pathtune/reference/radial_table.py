"""radial_table by torch's own operations; the formula stands in csrc/radial_table/radial_table.hpp."""

from __future__ import annotations

import math

import torch

N_TERMS = 8


def radial_expand(
    r: torch.Tensor,  # [n_rows] A
    a: torch.Tensor | None,  # [n_rows]; None: one
    coefficients: torch.Tensor,  # [n_segments of all, N_TERMS, n_columns]
    slot: torch.Tensor | None,  # [n_rows]; None: all read table 0
    slots: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],  # first, n_segments, begin, width
    order: int = 0,
) -> torch.Tensor:  # [n_rows, n_columns]
    """a times the derivative of that order of every radial function at r; differentiable in r and a."""
    first, n_segments, begin, width = (t if slot is None else t[slot] for t in slots)
    # where a row stands does not depend on r as far as derivatives are concerned
    x = (r.double() - begin) / width
    segment = torch.minimum(x.detach().clamp(min=0).to(torch.int64), n_segments - 1)
    t = (2 * (x - segment) - 1).to(r.dtype)
    c = coefficients[first + segment]
    value = sum(
        (math.perm(k, order) * c[:, k] * t.unsqueeze(1) ** (k - order) for k in range(order, N_TERMS)),
        start=torch.zeros_like(c[:, 0]),
    )
    value = value * ((2 / width) ** order * (x.detach() < n_segments)).to(r.dtype).reshape(-1, 1)
    return value if a is None else value * a.unsqueeze(1)


def radial_contract(r, g, coefficients, slot, slots, order=0) -> torch.Tensor:  # [n_rows]
    """Sum over the columns of g [n_rows, n_columns] times those derivatives; arguments as of radial_expand."""
    return (g * radial_expand(r, None, coefficients, slot, slots, order)).sum(1)
