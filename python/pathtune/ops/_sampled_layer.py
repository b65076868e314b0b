"""One layer of a call of sampled_gradient's kernel, as the CPU's and CUDA's calls take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pathtune.ops._records import record
from pathtune.ops.candidates import Candidates
from pathtune.tables.species_linear import SpeciesLinearTable


class SampledTables(NamedTuple):
    """The candidates of a layer, and its paths."""

    blocks: torch.Tensor
    runs: torch.Tensor
    u_tiles: torch.Tensor
    v_tiles: torch.Tensor
    v_row: torch.Tensor
    place: torch.Tensor
    paths: torch.Tensor
    coefficients: torch.Tensor


class TermTensors(NamedTuple):
    """One product of a layer."""

    x: torch.Tensor  # [n_nodes, dim_in]
    g: torch.Tensor  # [n_nodes, dim_out]
    order: torch.Tensor  # these three as in SpeciesGroups
    ptr: torch.Tensor
    present: torch.Tensor


class Layer(NamedTuple):
    """What a layer hands in, and the gradients that the kernel fills."""

    terms: Sequence[TermTensors]
    tables: SampledTables | None  # None without terms
    dim_in: int
    dim_out: int
    other: torch.Tensor | None  # [n_candidates] what reaches S beside the products
    delta: torch.Tensor | None  # [n_candidates] S(D, d); None without a threshold
    segment: torch.Tensor | None  # [n_candidates] int64
    grad_values: torch.Tensor  # [n_candidates]
    grad_thresholds: torch.Tensor  # [n_thresholds]


@record
class SampledTerm(NamedTuple):
    """A term as the kernels read it."""

    x: int
    g: int
    order: int
    ptr: int
    present: int
    n_present: int


def tables_of(candidates: Candidates, table: SpeciesLinearTable) -> SampledTables:
    """The tables of a layer."""
    return SampledTables(
        blocks=candidates.blocks,
        runs=candidates.runs,
        u_tiles=candidates.u_tiles,
        v_tiles=candidates.v_tiles,
        v_row=candidates.v_row,
        place=candidates.place,
        paths=table.paths,
        coefficients=table.coefficients,
    )


def address(tensor: torch.Tensor | None) -> int:
    """Of a tensor's data; 0 where there is none."""
    return 0 if tensor is None else tensor.data_ptr()


def term_records(layer: Layer) -> list[SampledTerm]:
    """The terms of a layer."""
    return [
        SampledTerm(
            x=term.x.data_ptr(),
            g=term.g.data_ptr(),
            order=term.order.data_ptr(),
            ptr=term.ptr.data_ptr(),
            present=term.present.data_ptr(),
            n_present=term.present.numel(),
        )
        for term in layer.terms
    ]
