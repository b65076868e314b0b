"""edge_conv: formula and contract in csrc/edge_conv/edge_conv.hpp.

Three custom operators: the forward, its fused backward, and the fused backward of that. Each computes only
those gradients that the running pass uses; the others are empty tensors inside, None to autograd.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch

from pathtune.ops import _edge_conv_cuda
from pathtune.ops._autograd import needed_gradients
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._edge_conv_records import (
    EdgeConvAdjoints,
    EdgeConvIndex,
    EdgeConvInputs,
    EdgeConvOutputs,
    EdgeConvSizes,
)
from pathtune.ops._kernels import call_cpu, uses_cuda
from pathtune.ops._operator import operator
from pathtune.ops._records import addresses
from pathtune.tables.edge_conv import EdgeConvTable


@dataclasses.dataclass(frozen=True)
class ConvGraph:
    """Edges sorted by receiver, and the ways back from senders and from rows of w. All int64."""

    sender: torch.Tensor  # [n_edges]
    receiver: torch.Tensor  # [n_edges] ascending
    receiver_ptr: torch.Tensor  # [n_nodes + 1] node n receives edges [receiver_ptr[n], receiver_ptr[n + 1])
    sender_order: torch.Tensor  # [n_edges] edges sorted by sender, stable
    sender_ptr: torch.Tensor  # [n_nodes + 1] into sender_order
    weight_row: torch.Tensor  # [n_edges] the row of w that an edge reads
    row_ptr: torch.Tensor  # [n_rows + 1] into row_edges
    row_edges: torch.Tensor  # [n_edges] edges sorted by row, stable
    n_nodes: int
    edges_per_row: int  # the most edges that share a row of w

    def to(self, device: torch.device) -> ConvGraph:
        """The same graph on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)}
        return dataclasses.replace(self, **moved)


def conv_graph(
    sender: torch.Tensor,  # [n_edges]
    receiver: torch.Tensor,  # [n_edges] ascending
    n_nodes: int,
    weight_row: torch.Tensor | None = None,  # [n_edges]
) -> ConvGraph:
    """Index the edges of a batch once, for every layer and pass.

    `weight_row` lets edges share rows of w (i -> j and j -> i, where the radial function is symmetric); by
    default each edge has its own. Raises ValueError when edges are not sorted by receiver or when an
    index lies outside its range.
    """
    sender = sender.contiguous()
    receiver = receiver.contiguous()
    n_edges = receiver.numel()
    check_size("conv_graph", "number of senders", sender.numel(), n_edges)
    own_rows = weight_row is None
    weight_row = torch.arange(n_edges, device=receiver.device) if own_rows else weight_row.contiguous()
    check_size("conv_graph", "number of weight rows", weight_row.numel(), n_edges)
    for name, index in (("sender", sender), ("receiver", receiver), ("weight_row", weight_row)):
        if index.dtype != torch.int64:
            raise TypeError(f"conv_graph: {name} is {index.dtype}, expected torch.int64")
        if n_edges and (int(index.min()) < 0 or (name != "weight_row" and int(index.max()) >= n_nodes)):
            span = f"{int(index.min())} to {int(index.max())}"
            raise ValueError(f"conv_graph: {name} spans {span}, with {n_nodes} nodes")
    if bool((receiver[1:] < receiver[:-1]).any()):
        at = int((receiver[1:] < receiver[:-1]).nonzero()[0])
        first, second = receiver[at : at + 2].tolist()
        found = f"edge {at} goes to node {first} and edge {at + 1} to node {second}"
        raise ValueError(f"conv_graph: edges must be sorted by receiver, but {found}")
    n_rows = int(weight_row.max()) + 1 if n_edges else 0
    row_edges = weight_row if own_rows else torch.argsort(weight_row, stable=True)
    row_ptr = _ptr(weight_row, n_rows)
    return ConvGraph(
        sender=sender,
        receiver=receiver,
        receiver_ptr=_ptr(receiver, n_nodes),
        sender_order=torch.argsort(sender, stable=True),
        sender_ptr=_ptr(sender, n_nodes),
        weight_row=weight_row,
        row_ptr=row_ptr,
        row_edges=row_edges,
        n_nodes=n_nodes,
        edges_per_row=1 if own_rows or n_edges == 0 else int(row_ptr.diff().max()),
    )


def _ptr(index: torch.Tensor, n: int) -> torch.Tensor:
    ptr = torch.zeros(n + 1, dtype=torch.int64, device=index.device)
    ptr[1:] = torch.bincount(index, minlength=n).cumsum(0)
    return ptr


def edge_conv(
    x: torch.Tensor,  # [n_nodes, dim_in]
    y: torch.Tensor,  # [n_edges, dim_y]
    w: torch.Tensor,  # [n_rows, weight_numel]
    graph: ConvGraph,
    table: EdgeConvTable,
) -> torch.Tensor:  # [n_nodes, dim_out]
    """out[r, k, u] = sum_{e to r, p, i, j} C_p[i,j,k] x[sender_e, i, u] y[e, j] w[row_e, p, u].

    Layout ir_mul; float32 or float64; differentiable twice in x, y and w.
    Raises TypeError on dtype or device, ValueError on a size that disagrees with the graph or the table.
    """
    check_same_kind("edge_conv", x=x, y=y, w=w)
    for name, tensor, columns, rows in (
        ("x", x, table.dim_in, graph.n_nodes),
        ("y", y, table.dim_y, graph.sender.numel()),
        ("w", w, table.weight_numel, graph.row_ptr.numel() - 1),
    ):
        check_size("edge_conv", f"number of dimensions of {name}", tensor.dim(), 2)
        check_size("edge_conv", f"number of rows of {name}", tensor.shape[0], rows)
        check_size("edge_conv", f"row length of {name}", tensor.shape[1], columns)
    return _forward(x, y, w, index_of(graph, table), [graph.edges_per_row, table.dim_out])


class Request(NamedTuple):
    """The integers of a backward's operator: the most edges that share a row of w, and which outputs are wanted."""

    edges_per_row: int
    gg: bool
    gx: bool
    gy: bool
    gw: bool


def index_of(graph: ConvGraph, table: EdgeConvTable) -> EdgeConvIndex:
    """The index argument of the operators."""
    return EdgeConvIndex(
        sender=graph.sender,
        receiver_ptr=graph.receiver_ptr,
        sender_order=graph.sender_order,
        sender_ptr=graph.sender_ptr,
        weight_row=graph.weight_row,
        row_ptr=graph.row_ptr,
        row_edges=graph.row_edges,
        paths=table.paths,
        coefficients=table.coefficients,
    )


KERNELS = ("edge_conv", "edge_conv_backward", "edge_conv_double_backward")  # by the order of the pass
NO_ADJOINTS = EdgeConvAdjoints(None, None, None)


def _call(
    order: int,
    index: Sequence[torch.Tensor],
    edges_per_row: int,
    inputs: EdgeConvInputs,
    adjoints: EdgeConvAdjoints,
    outputs: EdgeConvOutputs,
) -> None:
    """Hand addresses to the kernel of order 0 (forward), 1 (backward) or 2 (double backward); None where absent."""
    inputs = EdgeConvInputs._make(_contiguous(inputs))
    adjoints = EdgeConvAdjoints._make(_contiguous(adjoints))
    x, y, w, g = inputs
    index = EdgeConvIndex._make(index)
    sizes = EdgeConvSizes(
        n_nodes=x.shape[0],
        n_edges=y.shape[0],
        n_rows=w.shape[0],
        dim_in=x.shape[1],
        dim_y=y.shape[1],
        dim_out=(outputs.gg if g is None else g).shape[1],
        weight_numel=w.shape[1],
        n_paths=index.paths.shape[0],
    )
    if uses_cuda(x):
        _edge_conv_cuda.call_edge_conv(order, sizes, index, edges_per_row, inputs, adjoints, outputs)
        return
    call_cpu(
        KERNELS[order],
        x,
        sizes,
        addresses(EdgeConvIndex, index),
        addresses(EdgeConvInputs, inputs),
        addresses(EdgeConvAdjoints, adjoints),
        addresses(EdgeConvOutputs, outputs),
    )


def _contiguous(tensors: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def _outputs(needs: Sequence[int], *like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Uninitialised outputs, which the kernel overwrites; an empty tensor where none is needed."""
    contiguous = torch.contiguous_format
    return tuple(
        torch.empty_like(t, memory_format=contiguous) if need else t.new_empty(0) for need, t in zip(needs, like)
    )


def _only(needs: Sequence[int], tensors: Sequence) -> list[torch.Tensor | None]:
    return [t if need else None for need, t in zip(needs, tensors)]


@operator("pathtune::edge_conv")
def _forward(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, index: Sequence[torch.Tensor], sizes: Sequence[int]
) -> torch.Tensor:
    edges_per_row, dim_out = sizes
    out = x.new_empty(x.shape[0], dim_out)
    inputs = EdgeConvInputs(x, y, w, None)
    _call(0, index, edges_per_row, inputs, NO_ADJOINTS, EdgeConvOutputs(out, None, None, None))
    return out


@operator("pathtune::edge_conv_backward")
def _first_backward(
    x: torch.Tensor,
    y: torch.Tensor,
    w: torch.Tensor,
    g: torch.Tensor,
    index: Sequence[torch.Tensor],
    request: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    edges_per_row, _, *needs = request
    gx, gy, gw = _outputs(needs, x, y, w)
    outputs = EdgeConvOutputs(None, *_only(needs, (gx, gy, gw)))
    _call(1, index, edges_per_row, EdgeConvInputs(x, y, w, g), NO_ADJOINTS, outputs)
    return gx, gy, gw


@operator("pathtune::edge_conv_double_backward")
def _second_backward(
    x: torch.Tensor,
    y: torch.Tensor,
    w: torch.Tensor,
    g: torch.Tensor,
    ax: torch.Tensor | None,
    ay: torch.Tensor | None,
    aw: torch.Tensor | None,
    index: Sequence[torch.Tensor],
    request: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    edges_per_row, *needs = request
    gg, gx, gy, gw = _outputs(needs, g, x, y, w)
    outputs = EdgeConvOutputs._make(_only(needs, (gg, gx, gy, gw)))
    _call(2, index, edges_per_row, EdgeConvInputs(x, y, w, g), EdgeConvAdjoints(ax, ay, aw), outputs)
    return gg, gx, gy, gw


@_forward.register_fake
def _(x, y, w, index, sizes):
    _, dim_out = sizes
    return x.new_empty(x.shape[0], dim_out)


@_first_backward.register_fake
def _(x, y, w, g, index, request):
    return _outputs(request[2:], x, y, w)


@_second_backward.register_fake
def _(x, y, w, g, ax, ay, aw, index, request):
    return _outputs(request[1:], g, x, y, w)


def _save_forward(ctx, inputs, output) -> None:
    *tensors, ctx.index, (ctx.edges_per_row, _) = inputs
    ctx.save_for_backward(*tensors)


def _backward_of_forward(ctx, g):
    x, y, w = ctx.saved_tensors
    needs = needed_gradients(ctx)[:3]
    if not any(needs):
        return None, None, None
    gradients = _first_backward(x, y, w, g, ctx.index, Request(ctx.edges_per_row, False, *needs))
    return _only(needs, gradients)


def _save_first_backward(ctx, inputs, output) -> None:
    *tensors, ctx.index, (ctx.edges_per_row, _, *ctx.computed) = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)  # an absent adjoint stays None, and the kernel skips it


def _backward_of_first_backward(ctx, *adjoints):
    x, y, w, g = ctx.saved_tensors
    ax, ay, aw = _only(ctx.computed, adjoints)
    needs_x, needs_y, needs_w, needs_g, *_ = needed_gradients(ctx)
    needs = [needs_g, needs_x, needs_y, needs_w]
    if not any(needs) or (ax is None and ay is None and aw is None):
        return None, None, None, None
    gradients = _second_backward(x, y, w, g, ax, ay, aw, ctx.index, Request(ctx.edges_per_row, *needs))
    gg, gx, gy, gw = _only(needs, gradients)
    return gx, gy, gw, gg


def _backward_of_second_backward(ctx, *_):
    raise NotImplementedError("edge_conv: third derivatives are not implemented")


_forward.register_autograd(_backward_of_forward, setup_context=_save_forward)
_first_backward.register_autograd(_backward_of_first_backward, setup_context=_save_first_backward)
_second_backward.register_autograd(_backward_of_second_backward)
