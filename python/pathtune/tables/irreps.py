"""Where each irrep lies in a row of features.

An irreps argument is anything that iterates as e3nn's `Irreps` does: `(mul, ir)` with `ir.l` and `ir.p`.
Inside pathtune a row of features is in layout ir_mul: for each irrep a block `[2l+1, mul]`, channels last.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


def blocks(irreps: Iterable) -> list[tuple[int, int, int]]:
    """(offset, mul, 2l+1) of each irrep's block in a row of features."""
    result = []
    offset = 0
    for mul, ir in irreps:
        n_components = 2 * ir.l + 1
        result.append((offset, int(mul), n_components))
        offset += int(mul) * n_components
    return result


def dim(irreps: Iterable) -> int:
    """Length of a row of features."""
    return sum(mul * n_components for _, mul, n_components in blocks(irreps))


def layout_permutation(irreps: Iterable) -> torch.Tensor:
    """`index` such that `x_mul_ir[:, index]` is the same row in layout ir_mul; its argsort goes back."""
    parts = []
    for offset, mul, n_components in blocks(irreps):
        block = torch.arange(offset, offset + mul * n_components).reshape(mul, n_components)
        parts.append(block.T.reshape(-1))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
