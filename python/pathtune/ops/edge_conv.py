"""edge_conv: formula and contract in csrc/edge_conv/edge_conv.hpp.

Three custom operators: the forward, its fused backward, and the fused backward of that. Each computes only
those gradients that the running pass uses; the others are empty tensors inside, None to autograd.
"""

from __future__ import annotations

import dataclasses

import torch

from pathtune.ops._autograd import needed_gradients
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._edge_conv_cuda import call_edge_conv
from pathtune.ops._kernels import call_cpu, uses_cuda
from pathtune.ops._operator import operator
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
    sender, receiver = sender.contiguous(), receiver.contiguous()
    n_edges = receiver.numel()
    check_size("conv_graph", "number of senders", sender.numel(), n_edges)
    own_rows = weight_row is None
    weight_row = torch.arange(n_edges, device=receiver.device) if own_rows else weight_row.contiguous()
    check_size("conv_graph", "number of weight rows", weight_row.numel(), n_edges)
    for name, index in (("sender", sender), ("receiver", receiver), ("weight_row", weight_row)):
        if index.dtype != torch.int64:
            raise TypeError(f"conv_graph: {name} is {index.dtype}, expected torch.int64")
        if n_edges and (int(index.min()) < 0 or (name != "weight_row" and int(index.max()) >= n_nodes)):
            raise ValueError(f"conv_graph: {name} spans {int(index.min())} to {int(index.max())}, "
                             f"with {n_nodes} nodes")  # fmt: skip
    if bool((receiver[1:] < receiver[:-1]).any()):
        at = int((receiver[1:] < receiver[:-1]).nonzero()[0])
        first, second = receiver[at : at + 2].tolist()
        raise ValueError(f"conv_graph: edges must be sorted by receiver, but edge {at} goes to node {first} "
                         f"and edge {at + 1} to node {second}")  # fmt: skip
    n_rows = int(weight_row.max()) + 1 if n_edges else 0
    row_edges = weight_row if own_rows else torch.argsort(weight_row, stable=True)
    row_ptr = _ptr(weight_row, n_rows)
    return ConvGraph(
        sender=sender, receiver=receiver, receiver_ptr=_ptr(receiver, n_nodes),
        sender_order=torch.argsort(sender, stable=True), sender_ptr=_ptr(sender, n_nodes),
        weight_row=weight_row, row_ptr=row_ptr, row_edges=row_edges, n_nodes=n_nodes,
        edges_per_row=1 if own_rows or n_edges == 0 else int(row_ptr.diff().max()),
    )  # fmt: skip


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
    return _forward(x, y, w, *_index(graph, table), table.dim_out)


def _index(graph: ConvGraph, table: EdgeConvTable) -> tuple[torch.Tensor | int, ...]:
    return (
        graph.sender, graph.receiver_ptr, graph.sender_order, graph.sender_ptr, graph.weight_row,
        graph.row_ptr, graph.row_edges, table.paths, table.coefficients, graph.edges_per_row,
    )  # fmt: skip


def _call(order: int, index, inputs, adjoints, outputs) -> None:
    """Hand addresses to the kernel of order 0 (forward), 1 (backward) or 2 (double backward).

    inputs (x, y, w, g), adjoints (ax, ay, aw), outputs (gg, gx, gy, gw); None where absent.
    """
    x, y, w, g = inputs
    x, y, w, g = inputs = (x.contiguous(), y.contiguous(), w.contiguous(), None if g is None else g.contiguous())
    adjoints = [None if t is None else t.contiguous() for t in adjoints]
    *graph, paths, coefficients, edges_per_row = index
    if uses_cuda(x):
        call_edge_conv(order, graph, (paths, coefficients), edges_per_row, inputs, adjoints, outputs)
        return
    out = outputs[0] if g is None else g
    sizes = (x.shape[0], y.shape[0], w.shape[0], x.shape[1], y.shape[1], out.shape[1], w.shape[1], paths.shape[0])
    name = ("edge_conv", "edge_conv_backward", "edge_conv_double_backward")[order]
    groups = ((*graph, paths, coefficients), inputs, adjoints, outputs)
    call_cpu(name, x, sizes, *(tuple(0 if t is None else t.data_ptr() for t in group) for group in groups))


def _outputs(needs: list[bool], *like: torch.Tensor) -> list[torch.Tensor]:
    """Uninitialised outputs, which the kernel overwrites; an empty tensor where none is needed."""
    return [torch.empty_like(t, memory_format=torch.contiguous_format) if need else t.new_empty(0)
            for need, t in zip(needs, like)]  # fmt: skip


def _only(needs: list[bool], tensors) -> list[torch.Tensor | None]:
    return [t if need else None for need, t in zip(needs, tensors)]


# Index arguments of all three operators: seven of the graph, two of the table, and edges_per_row.


@operator("pathtune::edge_conv")
def _forward(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, sender: torch.Tensor, receiver_ptr: torch.Tensor,
    sender_order: torch.Tensor, sender_ptr: torch.Tensor, weight_row: torch.Tensor, row_ptr: torch.Tensor,
    row_edges: torch.Tensor, paths: torch.Tensor, coefficients: torch.Tensor, edges_per_row: int, dim_out: int,
) -> torch.Tensor:  # fmt: skip
    graph = (sender, receiver_ptr, sender_order, sender_ptr, weight_row, row_ptr, row_edges)
    out = x.new_empty(x.shape[0], dim_out)
    _call(0, (*graph, paths, coefficients, edges_per_row), (x, y, w, None), (None,) * 3, (out, None, None, None))
    return out


@operator("pathtune::edge_conv_backward")
def _first_backward(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, g: torch.Tensor, sender: torch.Tensor,
    receiver_ptr: torch.Tensor, sender_order: torch.Tensor, sender_ptr: torch.Tensor,
    weight_row: torch.Tensor, row_ptr: torch.Tensor, row_edges: torch.Tensor, paths: torch.Tensor,
    coefficients: torch.Tensor, edges_per_row: int, needs: list[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    graph = (sender, receiver_ptr, sender_order, sender_ptr, weight_row, row_ptr, row_edges)
    gx, gy, gw = _outputs(needs, x, y, w)
    outputs = (None, *_only(needs, (gx, gy, gw)))
    _call(1, (*graph, paths, coefficients, edges_per_row), (x, y, w, g), (None,) * 3, outputs)
    return gx, gy, gw


@operator("pathtune::edge_conv_double_backward")
def _second_backward(
    x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, g: torch.Tensor, ax: torch.Tensor | None,
    ay: torch.Tensor | None, aw: torch.Tensor | None, sender: torch.Tensor, receiver_ptr: torch.Tensor,
    sender_order: torch.Tensor, sender_ptr: torch.Tensor, weight_row: torch.Tensor, row_ptr: torch.Tensor,
    row_edges: torch.Tensor, paths: torch.Tensor, coefficients: torch.Tensor, edges_per_row: int, needs: list[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    graph = (sender, receiver_ptr, sender_order, sender_ptr, weight_row, row_ptr, row_edges)
    gg, gx, gy, gw = _outputs(needs, g, x, y, w)
    outputs = _only(needs, (gg, gx, gy, gw))
    _call(2, (*graph, paths, coefficients, edges_per_row), (x, y, w, g), (ax, ay, aw), outputs)
    return gg, gx, gy, gw


_forward.register_fake(lambda x, y, w, *rest: x.new_empty(x.shape[0], rest[-1]))
_first_backward.register_fake(lambda x, y, w, g, *rest: tuple(_outputs(rest[-1], x, y, w)))
_second_backward.register_fake(lambda x, y, w, g, *rest: tuple(_outputs(rest[-1], g, x, y, w)))


def _save_forward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:-2])
    ctx.edges_per_row = inputs[-2]


def _backward_of_forward(ctx, g):
    x, y, w, *index = ctx.saved_tensors
    needs = needed_gradients(ctx)[:3]
    gradients = _first_backward(x, y, w, g, *index, ctx.edges_per_row, needs) if any(needs) else (None,) * 3
    return (*_only(needs, gradients), *([None] * 11))


def _save_first_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:-2])
    ctx.edges_per_row, ctx.computed = inputs[-2:]
    ctx.set_materialize_grads(False)  # an absent adjoint stays None, and the kernel skips it


def _backward_of_first_backward(ctx, *adjoints):
    x, y, w, g, *index = ctx.saved_tensors
    ax, ay, aw = _only(ctx.computed, adjoints)
    needs_x, needs_y, needs_w, needs_g = needed_gradients(ctx)[:4]
    needs = [needs_g, needs_x, needs_y, needs_w]
    gg = gx = gy = gw = None
    if any(needs) and any(a is not None for a in (ax, ay, aw)):
        gradients = _second_backward(x, y, w, g, ax, ay, aw, *index, ctx.edges_per_row, needs)
        gg, gx, gy, gw = _only(needs, gradients)
    return (gx, gy, gw, gg, *([None] * 11))


def _backward_of_second_backward(ctx, *_):
    raise NotImplementedError("edge_conv: third derivatives are not implemented")


_forward.register_autograd(_backward_of_forward, setup_context=_save_forward)
_first_backward.register_autograd(_backward_of_first_backward, setup_context=_save_first_backward)
_second_backward.register_autograd(_backward_of_second_backward)
