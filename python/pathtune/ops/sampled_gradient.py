"""sampled_gradient: formula and contract in csrc/sampled_gradient/sampled_gradient.hpp.

The candidates of a layer are grouped once, by `group_candidates`; a call sorts nothing. `sampled_gradient` is one
product of one layer; ops/sparse_linear.py gives it derivatives. `delta_gradients` is the kernel in full: all
products of all layers, through the soft threshold; it ends a backward pass and has no derivatives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from pathtune.ops import _sampled_cuda
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._kernels import call_cpu, uses_cuda
from pathtune.ops._operator import operator
from pathtune.ops.species_linear import SpeciesGroups
from pathtune.tables.species_linear import SpeciesLinearTable

TILE_CHANNELS = 16  # as in the header


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidate entries of a layer's flat weights, grouped by path, species and row of W."""

    indices: torch.Tensor  # [n_candidates] int64, ascending
    blocks: torch.Tensor  # [n_blocks, 10] int64, the fields of SampledBlock
    runs: torch.Tensor  # [n_runs, 2] int32: transposed row of x, one past the last candidate
    u_tiles: torch.Tensor  # [n_u_tiles] int32: first channel
    v_tiles: torch.Tensor  # [n_v_tiles] int32
    v_row: torch.Tensor  # [n_candidates] int32: transposed row of g
    place: torch.Tensor  # [n_candidates] int32: of the grouped candidate among `indices`
    weight_numel: int  # of the layer

    def index(self) -> tuple[torch.Tensor, ...]:
        """The tables that the kernel wants, in the order of the fields of the C++ struct."""
        return self.blocks, self.runs, self.u_tiles, self.v_tiles, self.v_row, self.place


def group_candidates(indices: torch.Tensor, shapes: Sequence[tuple[int, int, int]]) -> Candidates:
    """Group the flat `indices` of a layer whose paths have weights (mul_in, n_species, mul_out) in turn.

    A path linear has n_species = 1. Raises ValueError unless the indices ascend and lie in the layer.
    """
    sizes = torch.tensor(shapes, dtype=torch.int64).reshape(-1, 3)
    ends = sizes.prod(1).cumsum(0)
    weight_numel = int(ends[-1]) if len(shapes) else 0
    indices = indices.detach().to("cpu", torch.int64).contiguous()
    if indices.numel() and (int(indices[0]) < 0 or int(indices[-1]) >= weight_numel):
        raise ValueError(f"candidates span {int(indices[0])} to {int(indices[-1])}, "
                         f"expected 0 to {weight_numel - 1}")  # fmt: skip
    if bool((indices[1:] <= indices[:-1]).any()):
        raise ValueError("candidates must ascend without repeats")
    path = torch.bucketize(indices, ends, right=True)
    n_species, mul_out = sizes[path, 1], sizes[path, 2]
    local = indices - (ends - sizes.prod(1))[path]
    u, species, v = local // (n_species * mul_out), local // mul_out % n_species, local % mul_out
    key = path * (int(sizes[:, 1].max()) if len(shapes) else 1) + species
    place = torch.argsort(key, stable=True)  # within a block u and v ascend already
    _, block, n_of_block = torch.unique_consecutive(key[place], return_inverse=True, return_counts=True)
    first = n_of_block.cumsum(0) - n_of_block
    u, v = u[place], v[place]
    u_tiles, u_span, u_row = _tiles(block, u, n_of_block.numel())
    v_tiles, v_span, v_row = _tiles(block, v, n_of_block.numel())
    is_last = torch.ones_like(u, dtype=torch.bool)  # of a run: candidates of one block and one u
    is_last[:-1] = (u[1:] != u[:-1]) | (block[1:] != block[:-1])
    run_end = is_last.nonzero().flatten() + 1
    run_span = _span(block[run_end - 1], n_of_block.numel())
    head = torch.stack([path[place][first], species[place][first], first, first + n_of_block], dim=1)
    return Candidates(
        indices=indices, blocks=torch.cat([head, run_span, u_span, v_span], dim=1).contiguous(),
        runs=torch.stack([u_row[run_end - 1], run_end], dim=1).int().contiguous(), u_tiles=u_tiles.int(),
        v_tiles=v_tiles.int(), v_row=v_row.int(), place=place.int(), weight_numel=weight_numel,
    )  # fmt: skip


def _tiles(block: torch.Tensor, channel: torch.Tensor, n_blocks: int) -> tuple[torch.Tensor, ...]:
    """First channels of the tiles that each block uses, their span per block, each channel's compact row."""
    n = int(channel.max()) // TILE_CHANNELS + 1 if channel.numel() else 1
    used, tile = torch.unique(block * n + channel // TILE_CHANNELS, return_inverse=True)
    span = _span(used // n, n_blocks)
    row = (tile - span[block, 0]) * TILE_CHANNELS + channel % TILE_CHANNELS
    return used % n * TILE_CHANNELS, span, row


def _span(block: torch.Tensor, n_blocks: int) -> torch.Tensor:  # [n_blocks, 2]
    """Where each block's stretch of the ascending `block` begins and ends."""
    ids = torch.arange(n_blocks)
    return torch.stack([torch.searchsorted(block, ids), torch.searchsorted(block, ids, right=True)], dim=1)


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
    return _sampled(x, g, *index_of(candidates, groups, table), sizes_of(x, table))


def _check_term(
    op: str, x: torch.Tensor, g: torch.Tensor, candidates: Candidates, groups: SpeciesGroups, table: SpeciesLinearTable
) -> None:
    check_size(op, "row length of x", x.shape[1], table.dim_in)
    check_size(op, "row length of g", g.shape[1], table.dim_out)
    check_size(op, "number of rows of g", g.shape[0], x.shape[0])
    check_size(op, "number of grouped nodes", groups.order.numel(), x.shape[0])
    check_size(op, "number of weights of the candidates", candidates.weight_numel, table.weight_numel)


def index_of(candidates: Candidates, groups: SpeciesGroups, table: SpeciesLinearTable) -> list[torch.Tensor]:
    """Index arguments of the operators, in the order of their signatures."""
    return [groups.order, groups.ptr, groups.present, table.paths, table.coefficients, *candidates.index(),
            candidates.indices]  # fmt: skip


def sizes_of(x: torch.Tensor, table: SpeciesLinearTable) -> list[int]:
    """n_nodes, dim_in, dim_out, n_species, weight_numel."""
    return [x.shape[0], table.dim_in, table.dim_out, table.n_species, table.weight_numel]


def _record(index: Sequence[torch.Tensor]) -> tuple[int, ...]:
    blocks, *_, place = index
    return (*[t.data_ptr() for t in index], blocks.shape[0], place.numel())


@operator("pathtune::sampled_gradient")
def _sampled(
    x: torch.Tensor, g: torch.Tensor, order: torch.Tensor, ptr: torch.Tensor, present: torch.Tensor,
    paths: torch.Tensor, coefficients: torch.Tensor, blocks: torch.Tensor, runs: torch.Tensor,
    u_tiles: torch.Tensor, v_tiles: torch.Tensor, v_row: torch.Tensor, place: torch.Tensor,
    indices: torch.Tensor, sizes: list[int],
) -> torch.Tensor:  # fmt: skip
    x, g, out = x.contiguous(), g.contiguous(), x.new_empty(place.numel())
    if uses_cuda(x):
        tables = (blocks, runs, u_tiles, v_tiles, v_row, place, paths, coefficients)
        _sampled_cuda.run([_sampled_cuda.Layer(
            terms=[(x, g, order, ptr, present)], tables=tables, dims=(sizes[1], sizes[2]), other=None, delta=None,
            segment=None, grad_values=out, grad_thresholds=out[:0],
        )])  # fmt: skip
        return out
    layer = (*_record((blocks, runs, u_tiles, v_tiles, v_row, place)), paths.data_ptr(), coefficients.data_ptr(),
             sizes[1], sizes[2], 0, 1, 0, 0, 0, 0, out.data_ptr(), 0)  # fmt: skip
    call_cpu("sampled_gradient", x, [layer], [_term(x, g, order, ptr, present)])
    return out


_sampled.register_fake(lambda x, g, *rest: x.new_empty(rest[-3].shape[0]))


def _term(x: torch.Tensor, g: torch.Tensor, *groups: torch.Tensor) -> tuple[int, ...]:
    return (x.data_ptr(), g.data_ptr(), *[t.data_ptr() for t in groups], groups[-1].numel())


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
    outputs = (_delta_gradients if torch.compiler.is_compiling() else _run)(*flattened(layers))
    return outputs[::2], outputs[1::2]


def flattened(
    layers: Sequence[DeltaCotangent],
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], list[int]]:
    """Arguments of the operator: five tensors of each term, eight and three of each layer, four sizes."""
    terms: list[torch.Tensor] = []
    tables: list[torch.Tensor] = []
    deltas: list[torch.Tensor] = []
    sizes: list[int] = []
    for layer in layers:
        dims = _check_cotangent(layer)
        for x, g, groups in layer.terms:
            terms += (x.contiguous(), g.contiguous(), groups.order, groups.ptr, groups.present)
        if layer.terms and layer.candidates is not None and layer.table is not None:
            tables += (*layer.candidates.index(), layer.table.paths, layer.table.coefficients)
        deltas += (layer.delta.contiguous(), _or_empty(layer.other, layer.delta), _or_empty(layer.segment, layer.delta))
        sizes += (len(layer.terms), layer.n_thresholds, *dims)
    return terms, tables, deltas, sizes


def _check_cotangent(layer: DeltaCotangent) -> tuple[int, int]:
    """dim_in and dim_out, zeros without terms."""
    op, n = "delta_gradients", layer.delta.numel()
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


def _run(
    terms: list[torch.Tensor], tables: list[torch.Tensor], deltas: list[torch.Tensor], sizes: list[int]
) -> list[torch.Tensor]:
    """For each layer dL/dD and dL/dd; the lists hold what DeltaCotangent does, flattened."""
    if uses_cuda(deltas[0]):
        return _run_cuda(terms, tables, deltas, sizes)
    layers, outputs, first, table = [], [], 0, 0
    for at, (delta, other, segment) in enumerate(zip(deltas[::3], deltas[1::3], deltas[2::3])):
        n_terms, n_thresholds, dim_in, dim_out = sizes[4 * at : 4 * at + 4]
        index = (*[0] * 7, delta.numel(), 0, 0)
        if n_terms:
            *candidates, paths, coefficients = tables[table : table + 8]
            index, table = (*_record(candidates), paths.data_ptr(), coefficients.data_ptr()), table + 8
        out = delta.new_empty(delta.numel()), delta.new_empty(n_thresholds)
        layers.append((*index, dim_in, dim_out, first, first + n_terms, other.data_ptr(),
                       delta.data_ptr() if n_thresholds else 0, segment.data_ptr(), n_thresholds,
                       out[0].data_ptr(), out[1].data_ptr()))  # fmt: skip
        first += n_terms
        outputs += out
    products = [_term(*terms[i : i + 5]) for i in range(0, len(terms), 5)]
    call_cpu("sampled_gradient", deltas[0], layers, products)
    return outputs


def _run_cuda(
    terms: list[torch.Tensor], tables: list[torch.Tensor], deltas: list[torch.Tensor], sizes: list[int]
) -> list[torch.Tensor]:
    """As _run."""
    layers, outputs, first, table = [], [], 0, 0
    for at, (delta, other, segment) in enumerate(zip(deltas[::3], deltas[1::3], deltas[2::3])):
        n_terms, n_thresholds, dim_in, dim_out = sizes[4 * at : 4 * at + 4]
        out = delta.new_empty(delta.numel()), delta.new_empty(n_thresholds)
        layers.append(_sampled_cuda.Layer(
            terms=[terms[i : i + 5] for i in range(5 * first, 5 * (first + n_terms), 5)],
            tables=tables[table : table + 8] if n_terms else (), dims=(dim_in, dim_out), other=other,
            delta=delta if n_thresholds else None, segment=segment, grad_values=out[0], grad_thresholds=out[1],
        ))  # fmt: skip
        first, table = first + n_terms, table + 8 * (n_terms > 0)
        outputs += out
    _sampled_cuda.run(layers)
    return outputs


@operator("pathtune::delta_gradients")
def _delta_gradients(
    terms: list[torch.Tensor], tables: list[torch.Tensor], deltas: list[torch.Tensor], sizes: list[int]
) -> list[torch.Tensor]:
    return _run(terms, tables, deltas, sizes)


@_delta_gradients.register_fake
def _(terms, tables, deltas, sizes):
    return [like for delta, n in zip(deltas[::3], sizes[1::4]) for like in (delta.new_empty(delta.numel()),
                                                                          delta.new_empty(n))]  # fmt: skip
