"""symmetric_contraction: formula and contract in csrc/symmetric_contraction/symmetric_contraction.hpp.

Three custom operators, forward, backward and double backward; each computes only what the running
backward pass uses (an output that is skipped is an empty tensor). Third derivatives are refused.
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
from pathtune.ops.species_linear import SpeciesGroups
from pathtune.tables.contraction import ContractionTable

NAME = "pathtune::symmetric_contraction"


def symmetric_contraction(
    a: torch.Tensor,  # [n_nodes, n_ell, mul]
    coefficients: torch.Tensor,  # [n_present, n_terms, mul], from contraction_coefficients
    groups: SpeciesGroups,
    table: ContractionTable,
) -> torch.Tensor:  # [n_nodes, n_out, mul]
    """out[n, o, u] = sum_{q: o_q = o} coefficients[s_n, q, u] prod(a[n, i, u] for i in monomial m_q).

    s_n is the place of the node's species in `groups.present`. Float32 or float64; differentiable twice in
    a and coefficients. Raises TypeError on dtype or device, ValueError on a size that disagrees.
    """
    op = "symmetric_contraction"
    check_same_kind(op, a=a, coefficients=coefficients)
    check_size(op, "number of dimensions of a", a.ndim, 3)
    check_size(op, "number of dimensions of coefficients", coefficients.ndim, 3)
    check_size(op, "number of components of a", a.shape[1], table.n_ell)
    check_size(op, "number of channels of coefficients", coefficients.shape[2], a.shape[2])
    check_size(op, "number of terms of coefficients", coefficients.shape[1], table.n_terms)
    check_size(op, "number of species of coefficients", coefficients.shape[0], groups.present.numel())
    check_size(op, "number of grouped nodes", groups.order.numel(), a.shape[0])
    return _forward(a, coefficients, index_of(groups, table, a.device), sizes_of(a, groups, table))


@record
class ContractionIndex(NamedTuple):
    """The groups, the table that the CPU's kernels read, and in `segments` and `more` the one that CUDA's read."""

    order: torch.Tensor
    ptr: torch.Tensor
    present: torch.Tensor
    branches: torch.Tensor
    last: torch.Tensor
    runs: torch.Tensor
    term_monomial: torch.Tensor
    first_use: torch.Tensor
    uses: torch.Tensor
    segments: torch.Tensor
    more: torch.Tensor


@record
class ContractionSizes(NamedTuple):
    """All integers of a call."""

    n_nodes: int
    mul: int
    n_present: int
    n_ell: int
    n_out: int
    n_monomials: int
    n_inner: int
    n_terms: int
    n_branches: int
    n_runs: int
    n_segments: int
    n_more: int


def index_of(groups: SpeciesGroups, table: ContractionTable, device: torch.device) -> ContractionIndex:
    """The index argument of the operators."""
    return ContractionIndex(order=groups.order, ptr=groups.ptr, present=groups.present, **table.index(device))


def sizes_of(a: torch.Tensor, groups: SpeciesGroups, table: ContractionTable) -> ContractionSizes:
    """The sizes of the operators."""
    return ContractionSizes(
        n_nodes=a.shape[0],
        mul=a.shape[2],
        n_present=groups.present.numel(),
        n_ell=table.n_ell,
        n_out=table.n_out,
        n_monomials=table.n_monomials,
        n_inner=table.n_inner,
        n_terms=table.n_terms,
        n_branches=table.branches.shape[0],
        n_runs=table.runs.shape[0],
        n_segments=table.segments.shape[0],
        n_more=table.more.shape[1],
    )


def _call(
    name: str,
    index: Sequence[torch.Tensor],
    sizes: Sequence[int],
    inputs: Sequence[torch.Tensor | None],
    outputs: Sequence[torch.Tensor],
) -> None:
    """Run one kernel; None in `inputs` and empty tensors in `outputs` are absent."""
    inputs = [None if t is None else t.contiguous() for t in inputs]
    call = call_cuda if uses_cuda(outputs[0]) else call_cpu
    call(
        name,
        outputs[0],
        ContractionSizes._make(sizes),
        addresses(ContractionIndex, index),
        *(0 if t is None else t.data_ptr() for t in inputs),
        *(t.data_ptr() if t.numel() else 0 for t in outputs),
    )


def _out_like(a: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    return a.new_empty(a.shape[0], ContractionSizes._make(sizes).n_out, a.shape[2])


def _like(x: torch.Tensor, needed: bool) -> torch.Tensor:
    return x.new_empty(x.shape if needed else 0)


@operator(NAME)
def _forward(
    a: torch.Tensor, coefficients: torch.Tensor, index: Sequence[torch.Tensor], sizes: Sequence[int]
) -> torch.Tensor:
    out = _out_like(a, sizes)
    _call("symmetric_contraction", index, sizes, (a, coefficients), (out,))
    return out


@operator(f"{NAME}_backward")
def _backward(
    grad_out: torch.Tensor,
    a: torch.Tensor,
    coefficients: torch.Tensor,
    index: Sequence[torch.Tensor],
    sizes: Sequence[int],
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    grad_a = _like(a, needs[0])
    grad_coefficients = _like(coefficients, needs[1])
    inputs = (grad_out, a, coefficients)
    _call("symmetric_contraction_backward", index, sizes, inputs, (grad_a, grad_coefficients))
    return grad_a, grad_coefficients


@operator(f"{NAME}_double_backward")
def _double_backward(
    adjoint_a: torch.Tensor,
    grad_out: torch.Tensor,
    a: torch.Tensor,
    coefficients: torch.Tensor,
    adjoint_coefficients: torch.Tensor | None,
    index: Sequence[torch.Tensor],
    sizes: Sequence[int],
    needs: Sequence[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    outputs = _like(grad_out, needs[0]), _like(a, needs[1]), _like(coefficients, needs[2])
    inputs = (adjoint_a, adjoint_coefficients, grad_out, a, coefficients)
    _call("symmetric_contraction_double_backward", index, sizes, inputs, outputs)
    return outputs


@_forward.register_fake
def _(a, coefficients, index, sizes):
    return _out_like(a, sizes)


@_backward.register_fake
def _(grad_out, a, coefficients, index, sizes, needs):
    return _like(a, needs[0]), _like(coefficients, needs[1])


@_double_backward.register_fake
def _(adjoint_a, grad_out, a, coefficients, adjoint_coefficients, index, sizes, needs):
    return _like(grad_out, needs[0]), _like(a, needs[1]), _like(coefficients, needs[2])


def _save_forward(ctx, inputs, output) -> None:
    *tensors, ctx.index, ctx.sizes = inputs
    ctx.save_for_backward(*tensors)


def _save_backward(ctx, inputs, output) -> None:
    *tensors, ctx.index, ctx.sizes, ctx.computed = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)  # None, not zeros, for an output that nothing uses


def _forward_autograd(ctx, grad_out):
    a, coefficients = ctx.saved_tensors
    needs = needed_gradients(ctx)[:2]
    return _where(needs, _backward(grad_out, a, coefficients, ctx.index, ctx.sizes, needs))


def _backward_autograd(ctx, *adjoints):
    # A skipped output is empty, and so is its adjoint.
    adjoint_a, adjoint_coefficients = _where(ctx.computed, adjoints)
    grad_out, a, coefficients = ctx.saved_tensors
    needs = needed_gradients(ctx)[:3]
    rest = (ctx.index, ctx.sizes)
    if adjoint_a is not None:
        gradients = _double_backward(adjoint_a, grad_out, a, coefficients, adjoint_coefficients, *rest, needs)
        return _where(needs, gradients)
    if adjoint_coefficients is None:
        return None, None, None
    # <ac, gc> is the polynomial itself with ac in place of c, and does not depend on c.
    grad_grad_out = _forward(a, adjoint_coefficients, *rest) if needs[0] else None
    grad_a, _ = _backward(grad_out, a, adjoint_coefficients, *rest, [needs[1], False])
    return grad_grad_out, grad_a if needs[1] else None, None


def _where(needs: Sequence[bool], gradients: Sequence) -> list[torch.Tensor | None]:
    return [gradient if need else None for need, gradient in zip(needs, gradients)]


def _third(ctx, *adjoints):
    raise NotImplementedError("symmetric_contraction: third derivatives (first and second are implemented)")


_forward.register_autograd(_forward_autograd, setup_context=_save_forward)
_backward.register_autograd(_backward_autograd, setup_context=_save_backward)
_double_backward.register_autograd(_third)
