"""sampled_gradient: formula and contract in csrc/sampled_gradient/sampled_gradient.hpp.

The candidates of a layer are grouped once, by `group_candidates`; a call sorts nothing. `sampled_gradient` is one
product of one layer, differentiable. `delta_gradients` is the kernel in full: all products of all layers, through the
soft threshold; it ends a backward pass and has no derivatives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from pathtune.ops import _bilinear
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._operator import operator
from pathtune.ops._sampled import fill_gradients
from pathtune.ops._sampled_layer import Layer, SampledTables, TermTensors, tables_of
from pathtune.ops.candidates import Candidates
from pathtune.ops.species_linear import SpeciesGroups, sizes_of
from pathtune.tables.species_linear import SpeciesLinearTable


def sampled_gradient(
    x: torch.Tensor,  # [n_nodes, dim_in]
    g: torch.Tensor,  # [n_nodes, dim_out]
    candidates: Candidates,
    groups: SpeciesGroups,
    table: SpeciesLinearTable,
) -> torch.Tensor:  # [n_candidates]
    """out[q] = c_p sum_{n of species s_q} sum_k x[n, in_p, k, u_q] g[n, out_p, k, v_q].

    Layout ir_mul; float32 or float64; candidates of absent species get zero. Float32 is summed in float64
    beyond a tile of rows. Raises TypeError on dtype or device, ValueError on a size that disagrees.
    """
    check_same_kind("sampled_gradient", x=x, g=g)
    _check_term("sampled_gradient", x, g, candidates, groups, table)
    return _bilinear.sampled(x, g, _bilinear.index_of(candidates, groups, table), sizes_of(x, groups, table))


def _check_term(
    op: str, x: torch.Tensor, g: torch.Tensor, candidates: Candidates, groups: SpeciesGroups, table: SpeciesLinearTable
) -> None:
    check_size(op, "row length of x", x.shape[1], table.dim_in)
    check_size(op, "row length of g", g.shape[1], table.dim_out)
    check_size(op, "number of rows of g", g.shape[0], x.shape[0])
    check_size(op, "number of grouped nodes", groups.order.numel(), x.shape[0])
    check_size(op, "number of weights of the candidates", candidates.weight_numel, table.weight_numel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeltaCotangent:
    """What reaches S(D, d) of one layer in a backward pass: products of its operator, and anything else."""

    delta: torch.Tensor  # [n_candidates] S(D, d)
    n_thresholds: int  # 0: none, every candidate is active
    segment: torch.Tensor | None = None  # [n_candidates] int64, which threshold an entry obeys; None: the only one
    other: torch.Tensor | None = None  # [n_candidates] cotangent of S beside the products
    terms: Sequence[tuple[torch.Tensor, torch.Tensor, SpeciesGroups]] = ()  # x [n_nodes, dim_in], g [n_nodes, dim_out]
    candidates: Candidates | None = None  # with terms only
    table: SpeciesLinearTable | None = None


def delta_gradients(layers: Sequence[DeltaCotangent]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """dL/dD [n_candidates] and dL/dd [n_thresholds] of every layer, in one call of the kernel, without derivatives.

    Raises TypeError on dtype or device, ValueError on a size that disagrees.
    """
    if not layers:
        return [], []
    if torch.compiler.is_compiling():
        outputs = _delta_gradients(*flattened(layers))
    else:
        outputs = _gradients_of([_layer_of(layer) for layer in layers])
    return outputs[::2], outputs[1::2]


def _layer_of(given: DeltaCotangent) -> Layer:
    dim_in, dim_out = _check_cotangent(given)
    tables = None
    if given.terms and given.candidates is not None and given.table is not None:
        tables = tables_of(given.candidates, given.table)
    return Layer(
        terms=[
            TermTensors(x.contiguous(), g.contiguous(), groups.order, groups.ptr, groups.present)
            for x, g, groups in given.terms
        ],
        tables=tables,
        dim_in=dim_in,
        dim_out=dim_out,
        other=None if given.other is None else given.other.contiguous(),
        delta=given.delta.contiguous() if given.n_thresholds else None,
        segment=None if given.segment is None else given.segment.contiguous(),
        grad_values=given.delta.new_empty(given.delta.numel()),
        grad_thresholds=given.delta.new_empty(given.n_thresholds),
    )


def _gradients_of(layers: Sequence[Layer]) -> list[torch.Tensor]:
    """dL/dD and dL/dd of each layer in turn."""
    fill_gradients(layers)
    return [gradient for layer in layers for gradient in (layer.grad_values, layer.grad_thresholds)]


def flattened(
    layers: Sequence[DeltaCotangent],
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], list[int]]:
    """The operator's arguments: TermTensors of the terms; SampledTables, three tensors, four sizes of each layer."""
    terms: list[torch.Tensor] = []
    tables: list[torch.Tensor] = []
    deltas: list[torch.Tensor] = []
    sizes: list[int] = []
    for layer in layers:
        dims = _check_cotangent(layer)
        for x, g, groups in layer.terms:
            terms += TermTensors(x.contiguous(), g.contiguous(), groups.order, groups.ptr, groups.present)
        if layer.terms and layer.candidates is not None and layer.table is not None:
            tables += tables_of(layer.candidates, layer.table)
        deltas += (layer.delta.contiguous(), _or_empty(layer.other, layer.delta), _or_empty(layer.segment, layer.delta))
        sizes += (len(layer.terms), layer.n_thresholds, *dims)
    return terms, tables, deltas, sizes


def _check_cotangent(layer: DeltaCotangent) -> tuple[int, int]:
    """dim_in and dim_out, zeros without terms."""
    op = "delta_gradients"
    n = layer.delta.numel()
    if layer.other is not None:
        check_same_kind(op, delta=layer.delta, other=layer.other)
        check_size(op, "number of entries of other", layer.other.numel(), n)
    if layer.segment is not None:
        check_size(op, "number of segments", layer.segment.numel(), n)
    if not layer.terms:
        return 0, 0
    if layer.candidates is None or layer.table is None:
        raise ValueError(f"{op}: a layer has {len(layer.terms)} terms, but no candidates or no table")
    check_size(op, "number of candidates", layer.candidates.indices.numel(), n)
    for x, g, groups in layer.terms:
        check_same_kind(op, delta=layer.delta, x=x, g=g)
        _check_term(op, x, g, layer.candidates, groups, layer.table)
    return layer.table.dim_in, layer.table.dim_out


def _or_empty(tensor: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return like.new_empty(0) if tensor is None else tensor.contiguous()


def _chunks(values: Sequence, n: int) -> Iterator[Sequence]:
    return (values[i : i + n] for i in range(0, len(values), n))


@operator("pathtune::delta_gradients")
def _delta_gradients(
    terms: Sequence[torch.Tensor], tables: Sequence[torch.Tensor], deltas: Sequence[torch.Tensor], sizes: Sequence[int]
) -> list[torch.Tensor]:
    """For each layer dL/dD and dL/dd; the lists hold what DeltaCotangent does, flattened."""
    layers = []
    next_term = _chunks(terms, len(TermTensors._fields))
    next_tables = _chunks(tables, len(SampledTables._fields))
    for (delta, other, segment), (n_terms, n_thresholds, dim_in, dim_out) in zip(_chunks(deltas, 3), _chunks(sizes, 4)):
        layers.append(
            Layer(
                terms=[TermTensors._make(next(next_term)) for _ in range(n_terms)],
                tables=SampledTables._make(next(next_tables)) if n_terms else None,
                dim_in=dim_in,
                dim_out=dim_out,
                other=other,
                delta=delta if n_thresholds else None,
                segment=segment,
                grad_values=delta.new_empty(delta.numel()),
                grad_thresholds=delta.new_empty(n_thresholds),
            )
        )
    return _gradients_of(layers)


@_delta_gradients.register_fake
def _(terms, tables, deltas, sizes):
    shapes = zip(deltas[::3], sizes[1::4])
    return [delta.new_empty(n) for delta, n_thresholds in shapes for n in (delta.numel(), n_thresholds)]
