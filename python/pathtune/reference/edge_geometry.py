"""edge_geometry by torch's own operations; the formula stands in csrc/edge_geometry/edge_geometry.hpp."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def edge_geometry(
    vectors: torch.Tensor,  # [n_rows, 3]
    c: Sequence[float],  # [l_max + 1], l_max <= 3
    row: torch.Tensor,  # [n_edges]
    sign: torch.Tensor,  # [n_edges]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths [n_rows] and spherical harmonics [n_edges, (l_max + 1)^2]."""
    lengths = vectors.norm(dim=1)
    x, y, z = torch.nn.functional.normalize(vectors, dim=1).unbind(1)
    round_y, a, b = x**2 + z**2, 3**0.5, (5 / 8) ** 0.5
    polar = (3 / 8) ** 0.5 * (4 * y**2 - round_y)
    by_l = [
        [torch.ones_like(x)],
        [x, y, z],
        [a * x * z, a * x * y, y**2 - round_y / 2, a * y * z, a / 2 * (z**2 - x**2)],
        [
            b * x * (3 * z**2 - x**2),
            15**0.5 * x * y * z,
            polar * x,
            y * (2 * y**2 - 3 * round_y) / 2,
            polar * z,
            15**0.5 / 2 * y * (z**2 - x**2),
            b * z * (z**2 - 3 * x**2),
        ],
    ]
    parts = [torch.stack(p, 1)[row] * (sign.unsqueeze(1) ** l * c[l]) for l, p in enumerate(by_l[: len(c)])]
    return lengths, torch.cat(parts, 1)
