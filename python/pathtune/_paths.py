"""Irreps and instructions become flat tables that the kernels read.

An irreps argument is anything that iterates as e3nn's `Irreps` does: `(mul, ir)` with `ir.l` and `ir.p`.
Inside pathtune a row of features is in layout ir_mul: for each irrep a block `[2l+1, mul]`, channels last.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import torch


def blocks(irreps: Iterable) -> list[tuple[int, int, int]]:
    """(offset, mul, 2l+1) of each irrep's block in a row of features."""
    result, offset = [], 0
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeciesLinearTable:
    """Paths of a species linear, as csrc/species_linear/species_linear.hpp wants them."""

    paths: torch.Tensor  # [n_paths, 6] int64: in_offset, out_offset, weight_offset, 2l+1, mul_in, mul_out
    coefficients: torch.Tensor  # [n_paths] float64
    dim_in: int
    dim_out: int
    n_species: int
    weight_numel: int


def species_linear_table(
    irreps_in: Sequence,
    irreps_out: Sequence,
    n_species: int,
    instructions: Sequence[tuple[int, int, float]],
) -> SpeciesLinearTable:
    """Table of the paths `(i_in, i_out, coefficient)`, weights `[mul_in, n_species, mul_out]` each in turn.

    Raises ValueError when a path connects two irreps of different l.
    """
    blocks_in, blocks_out = blocks(irreps_in), blocks(irreps_out)
    rows, coefficients, weight_offset = [], [], 0
    for i_in, i_out, coefficient in instructions:
        in_offset, mul_in, n_components = blocks_in[i_in]
        out_offset, mul_out, n_components_out = blocks_out[i_out]
        if n_components != n_components_out:
            raise ValueError(f"path {i_in} -> {i_out} has {n_components} components in, {n_components_out} out")
        rows.append((in_offset, out_offset, weight_offset, n_components, mul_in, mul_out))
        coefficients.append(coefficient)
        weight_offset += mul_in * n_species * mul_out
    return SpeciesLinearTable(
        paths=torch.tensor(rows, dtype=torch.int64).reshape(-1, 6),
        coefficients=torch.tensor(coefficients, dtype=torch.float64),
        dim_in=dim(irreps_in),
        dim_out=dim(irreps_out),
        n_species=n_species,
        weight_numel=weight_offset,
    )


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
    in1, in2, out = blocks(irreps_in1), blocks(irreps_in2), blocks(irreps_out)
    places = _joined(irreps_out) if joined else [(offset, mul) for offset, mul, _ in out]
    rows, coefficients, weight_offset, coefficient_offset = [], [], 0, 0
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
    result, offset = [], 0
    for (l, _), group in itertools.groupby(irreps, key=lambda part: (part[1].l, part[1].p)):
        muls = [int(mul) for mul, _ in group]
        result += [(offset + before, sum(muls)) for before in itertools.accumulate(muls[:-1], initial=0)]
        offset += sum(muls) * (2 * l + 1)
    return result
