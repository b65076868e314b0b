"""Paths of an edge_conv become the flat table that its kernels read."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch

from pathtune.tables.irreps import blocks, dim


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeConvTable:
    """Paths of an edge_conv, as csrc/edge_conv/edge_conv.hpp wants them."""

    # int64: in_offset, y_offset, out_offset, weight_offset, coefficient_offset, mul, 2l+1 of x, y and out, out_mul
    paths: torch.Tensor  # [n_paths, 10]
    coefficients: torch.Tensor  # float64: each path's C [2l1+1, 2l2+1, 2l3+1], one after the other
    dim_in: int
    dim_y: int
    dim_out: int
    weight_numel: int


def edge_conv_table(
    irreps_in1: Sequence,
    irreps_in2: Sequence,
    irreps_out: Sequence,
    instructions: Sequence[tuple[int, int, int, torch.Tensor]],
    joined: bool = False,
) -> EdgeConvTable:
    """Table of the paths `(i_in1, i_in2, i_out, C)`, weights `[mul]` each in turn.

    C [2l1+1, 2l2+1, 2l3+1] is the 3j symbol times e3nn's path_weight. `joined`: neighbours of one irrep in
    irreps_out form one block [2l+1, sum of mul] of out, as e3nn's simplify() reads them. Raises ValueError when
    C's shape or a multiplicity disagrees with the irreps: 'uvu' needs equal ones of x and out, and one of y.
    """
    in1 = blocks(irreps_in1)
    in2 = blocks(irreps_in2)
    out = blocks(irreps_out)
    places = _joined(irreps_out) if joined else [(offset, mul) for offset, mul, _ in out]
    rows = []
    coefficients = []
    weight_offset = 0
    coefficient_offset = 0
    for path, (i_in1, i_in2, i_out, c) in enumerate(instructions):
        offset1, mul, dim1 = in1[i_in1]
        offset2, mul2, dim2 = in2[i_in2]
        _, mul3, dim3 = out[i_out]
        if mul2 != 1:
            raise ValueError(f"path {path}: multiplicity of y's irrep is {mul2}, expected 1")
        if mul3 != mul:
            raise ValueError(f"path {path}: multiplicity of the output is {mul3}, expected {mul}")
        if tuple(c.shape) != (dim1, dim2, dim3):
            raise ValueError(f"path {path}: C has shape {tuple(c.shape)}, expected {(dim1, dim2, dim3)}")
        offset3, out_mul = places[i_out]
        rows.append((offset1, offset2, offset3, weight_offset, coefficient_offset, mul, dim1, dim2, dim3, out_mul))
        coefficients.append(c.detach().to("cpu", torch.float64).reshape(-1))
        weight_offset += mul
        coefficient_offset += c.numel()
    return EdgeConvTable(
        paths=torch.tensor(rows, dtype=torch.int64).reshape(-1, 10),
        coefficients=torch.cat(coefficients) if coefficients else torch.zeros(0, dtype=torch.float64),
        dim_in=dim(irreps_in1),
        dim_y=dim(irreps_in2),
        dim_out=dim(irreps_out),
        weight_numel=weight_offset,
    )


def _joined(irreps: Sequence) -> list[tuple[int, int]]:
    """(offset of the first channel, mul of the joined block) of each irrep, neighbours of one irrep joined."""
    result = []
    offset = 0
    for (l, _), group in itertools.groupby(irreps, key=lambda part: (part[1].l, part[1].p)):
        muls = [int(mul) for mul, _ in group]
        result += [(offset + before, sum(muls)) for before in itertools.accumulate(muls[:-1], initial=0)]
        offset += sum(muls) * (2 * l + 1)
    return result
