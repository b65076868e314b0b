"""edge_geometry: formula and contract in csrc/edge_geometry/edge_geometry.hpp.

Three custom operators: the forward, its backward, and the backward of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pathtune.ops._autograd import needed_gradients
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._kernels import call_cpu, call_cuda, uses_cuda
from pathtune.ops._operator import operator
from pathtune.ops._records import addresses, record
from pathtune.ops.edge_conv import ConvGraph

MOST_L = 3  # as in the header


@record
class EdgeGeometryIndex(NamedTuple):
    """Which edges share a row, and the factors c, which are read on the host on every device."""

    row_ptr: torch.Tensor
    row_edges: torch.Tensor
    sign: torch.Tensor
    c: torch.Tensor


@record
class EdgeGeometrySizes(NamedTuple):
    """All integers of a call."""

    n_rows: int
    l_max: int


def edge_geometry(
    vectors: torch.Tensor,  # [n_rows, 3]
    c: Sequence[float],  # [l_max + 1], what e3nn's normalisation "norm" is to be multiplied by for each l
    graph: ConvGraph,  # says which edges share a row
    sign: torch.Tensor,  # [n_edges] -1 on edges that run against their row's vector, else +1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths [n_rows] and spherical harmonics [n_edges, (l_max + 1)^2], l_max <= 3; differentiable twice.

    float32 or float64. Raises TypeError on dtype or device, ValueError on sizes that disagree, NotImplementedError
    for a third derivative.
    """
    check_same_kind("edge_geometry", vectors=vectors, sign=sign)
    if not 1 <= len(c) <= MOST_L + 1:
        raise ValueError(f"edge_geometry: c has {len(c)} numbers, expected 1 to {MOST_L + 1}")
    check_size("edge_geometry", "number of vectors", vectors.shape[0], graph.row_ptr.numel() - 1)
    check_size("edge_geometry", "number of signs", sign.numel(), graph.sender.numel())
    return _forward(vectors, graph.row_ptr, graph.row_edges, sign, list(c))


def _call(name: str, rows: Sequence[torch.Tensor], c: list[float], *tensors: torch.Tensor | None) -> None:
    like = tensors[0]
    assert like is not None
    contiguous = [None if t is None else t.contiguous() for t in tensors]
    factors = torch.tensor(c, dtype=torch.float64)
    call = call_cuda if uses_cuda(like) else call_cpu
    sizes = EdgeGeometrySizes(like.shape[0], len(c) - 1)
    index = addresses(EdgeGeometryIndex, (*rows, factors))
    call(name, like, sizes, index, *(0 if t is None else t.data_ptr() for t in contiguous))


@operator("pathtune::edge_geometry")
def _forward(
    vectors: torch.Tensor, row_ptr: torch.Tensor, row_edges: torch.Tensor, sign: torch.Tensor, c: list[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    lengths, y = vectors.new_empty(vectors.shape[0]), vectors.new_empty(sign.shape[0], len(c) ** 2)
    _call("edge_geometry", (row_ptr, row_edges, sign), c, vectors, lengths, y)
    return lengths, y


@operator("pathtune::edge_geometry_backward")
def _first_backward(
    vectors: torch.Tensor,
    g_lengths: torch.Tensor,
    gy: torch.Tensor,
    row_ptr: torch.Tensor,
    row_edges: torch.Tensor,
    sign: torch.Tensor,
    c: list[float],
) -> torch.Tensor:
    gv = torch.empty_like(vectors, memory_format=torch.contiguous_format)
    _call("edge_geometry_backward", (row_ptr, row_edges, sign), c, vectors, g_lengths, gy, gv)
    return gv


@operator("pathtune::edge_geometry_double_backward")
def _second_backward(
    vectors: torch.Tensor,
    g_lengths: torch.Tensor,
    gy: torch.Tensor,
    av: torch.Tensor,
    row_ptr: torch.Tensor,
    row_edges: torch.Tensor,
    sign: torch.Tensor,
    c: list[float],
    needs_vectors: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a_lengths, ay, gv = _outputs_of_second(vectors, sign, c, needs_vectors)
    _call(
        "edge_geometry_double_backward",
        (row_ptr, row_edges, sign),
        c,
        vectors,
        g_lengths,
        gy,
        av,
        a_lengths,
        ay,
        gv if needs_vectors else None,
    )
    return a_lengths, ay, gv


def _outputs_of_second(vectors, sign, c, needs_vectors):
    like = vectors.contiguous() if needs_vectors else vectors.new_empty(0)
    return vectors.new_empty(vectors.shape[0]), vectors.new_empty(sign.shape[0], len(c) ** 2), torch.empty_like(like)


_forward.register_fake(
    lambda vectors, row_ptr, row_edges, sign, c: (
        vectors.new_empty(vectors.shape[0]),
        vectors.new_empty(sign.shape[0], len(c) ** 2),
    )
)
_first_backward.register_fake(lambda vectors, *rest: vectors.new_empty(vectors.shape))
_second_backward.register_fake(lambda vectors, *rest: _outputs_of_second(vectors, rest[5], rest[6], rest[7]))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.c = inputs
    ctx.save_for_backward(*tensors)


def _backward_of_forward(ctx, g_lengths, gy):
    vectors, *rows = ctx.saved_tensors
    needs = needed_gradients(ctx)[0]
    return _first_backward(vectors, g_lengths, gy, *rows, ctx.c) if needs else None, *[None] * 4


def _backward_of_first_backward(ctx, av):
    vectors, g_lengths, gy, *rows = ctx.saved_tensors
    needs_vectors, needs_lengths, needs_y = needed_gradients(ctx)[:3]
    if not (needs_vectors or needs_lengths or needs_y):
        return (None,) * 7
    a_lengths, ay, gv = _second_backward(vectors, g_lengths, gy, av, *rows, ctx.c, needs_vectors)
    return (gv if needs_vectors else None, a_lengths if needs_lengths else None, ay if needs_y else None, *[None] * 4)


def _backward_of_second_backward(ctx, *_):
    raise NotImplementedError("edge_geometry: third derivatives (first and second are implemented)")


_forward.register_autograd(_backward_of_forward, setup_context=_save)
_first_backward.register_autograd(_backward_of_first_backward, setup_context=_save)
_second_backward.register_autograd(_backward_of_second_backward)
