"""symmetric_contraction: formula and contract in csrc/symmetric_contraction/symmetric_contraction.hpp.

Three custom operators, forward, backward and double backward; each computes only what the running
backward pass uses (an output that is skipped is an empty tensor). Third derivatives are refused.
"""

from __future__ import annotations

import torch

from pathtune.ops._autograd import needed_gradients
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._kernels import call_cpu, call_cuda, uses_cuda
from pathtune.ops._operator import operator
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
    return _forward(a, coefficients, *_index(groups, table, a.device), table.sizes())


def _index(groups: SpeciesGroups, table: ContractionTable, device: torch.device) -> tuple[torch.Tensor, ...]:
    return groups.order, groups.ptr, groups.present, *table.index(device)


def _call(name: str, a: torch.Tensor, index, sizes, inputs, outputs) -> None:
    """Run one kernel; None in `inputs` and empty tensors in `outputs` are absent."""
    inputs = [None if t is None else t.contiguous() for t in inputs]
    n_nodes, _, mul = a.shape
    *index, segments, more = index  # those two are the table that the CUDA kernels read
    if uses_cuda(a):
        call, index = call_cuda, (*index[:3], segments, more)
        sizes = sizes[0], sizes[1], sizes[4], segments.shape[0], more.shape[1]
    else:
        call = call_cpu
    call(
        f"symmetric_contraction{name}", a, (n_nodes, mul, index[2].numel(), *sizes),
        tuple(t.data_ptr() for t in index),
        *(0 if t is None else t.data_ptr() for t in inputs),
        *(t.data_ptr() if t.numel() else 0 for t in outputs),
    )  # fmt: skip


def _out_like(a: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    return a.new_empty(a.shape[0], sizes[1], a.shape[2])


def _like(x: torch.Tensor, needed: bool) -> torch.Tensor:
    return x.new_empty(x.shape if needed else 0)


@operator(NAME)
def _forward(
    a: torch.Tensor, coefficients: torch.Tensor, order: torch.Tensor, ptr: torch.Tensor,
    present: torch.Tensor, branches: torch.Tensor, last: torch.Tensor, runs: torch.Tensor,
    term_monomial: torch.Tensor, first_use: torch.Tensor, uses: torch.Tensor, segments: torch.Tensor,
    more: torch.Tensor, sizes: list[int],
) -> torch.Tensor:  # fmt: skip
    out = _out_like(a, sizes)
    index = (order, ptr, present, branches, last, runs, term_monomial, first_use, uses, segments, more)
    _call("", a, index, sizes, (a, coefficients), (out,))
    return out


@operator(f"{NAME}_backward")
def _backward(
    grad_out: torch.Tensor, a: torch.Tensor, coefficients: torch.Tensor, order: torch.Tensor,
    ptr: torch.Tensor, present: torch.Tensor, branches: torch.Tensor, last: torch.Tensor,
    runs: torch.Tensor, term_monomial: torch.Tensor, first_use: torch.Tensor, uses: torch.Tensor,
    segments: torch.Tensor, more: torch.Tensor,
    sizes: list[int], needs: list[bool],
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    grad_a, grad_coefficients = _like(a, needs[0]), _like(coefficients, needs[1])
    index = (order, ptr, present, branches, last, runs, term_monomial, first_use, uses, segments, more)
    _call("_backward", a, index, sizes, (grad_out, a, coefficients), (grad_a, grad_coefficients))
    return grad_a, grad_coefficients


@operator(f"{NAME}_double_backward")
def _double_backward(
    adjoint_a: torch.Tensor, grad_out: torch.Tensor, a: torch.Tensor, coefficients: torch.Tensor,
    order: torch.Tensor, ptr: torch.Tensor, present: torch.Tensor, branches: torch.Tensor, last: torch.Tensor,
    runs: torch.Tensor, term_monomial: torch.Tensor, first_use: torch.Tensor, uses: torch.Tensor,
    segments: torch.Tensor, more: torch.Tensor,
    adjoint_coefficients: torch.Tensor | None,
    sizes: list[int], needs: list[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    outputs = _like(grad_out, needs[0]), _like(a, needs[1]), _like(coefficients, needs[2])
    index = (order, ptr, present, branches, last, runs, term_monomial, first_use, uses, segments, more)
    inputs = (adjoint_a, adjoint_coefficients, grad_out, a, coefficients)
    _call("_double_backward", a, index, sizes, inputs, outputs)
    return outputs


_forward.register_fake(lambda a, coefficients, *rest: _out_like(a, rest[-1]))
_backward.register_fake(lambda g, a, c, *rest: (_like(a, rest[-1][0]), _like(c, rest[-1][1])))
_double_backward.register_fake(
    lambda aa, g, a, c, *rest: (_like(g, rest[-1][0]), _like(a, rest[-1][1]), _like(c, rest[-1][2]))
)


def _save_forward(ctx, inputs, output) -> None:
    *tensors, ctx.sizes = inputs
    ctx.save_for_backward(*tensors)


def _save_backward(ctx, inputs, output) -> None:
    *tensors, ctx.sizes, ctx.computed = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)  # None, not zeros, for an output that nothing uses


def _forward_autograd(ctx, grad_out):
    a, coefficients, *index = ctx.saved_tensors
    needs = needed_gradients(ctx)[:2]
    gradients = _backward(grad_out, a, coefficients, *index, ctx.sizes, needs)
    return (*_where(needs, gradients), *[None] * 12)


def _backward_autograd(ctx, *adjoints):
    # A skipped output is empty, and so is its adjoint.
    adjoint_a, adjoint_coefficients = _where(ctx.computed, adjoints)
    grad_out, a, coefficients, *index = ctx.saved_tensors
    needs = needed_gradients(ctx)[:3]
    rest = (*index, ctx.sizes)
    if adjoint_a is not None:
        gradients = _double_backward(
            adjoint_a, grad_out, a, coefficients, *index, adjoint_coefficients, ctx.sizes, needs
        )
    elif adjoint_coefficients is not None:
        # <ac, gc> is the polynomial itself with ac in place of c, and does not depend on c.
        needs = [needs[0], needs[1], False]
        grad_grad_out = _forward(a, adjoint_coefficients, *rest) if needs[0] else None
        grad_a = _backward(grad_out, a, adjoint_coefficients, *rest, [needs[1], False])[0]
        gradients = grad_grad_out, grad_a, None
    else:
        needs, gradients = [False] * 3, (None, None, None)
    return (*_where(needs, gradients), *[None] * 13)


def _where(needs, gradients):
    return (gradient if need else None for need, gradient in zip(needs, gradients))


def _third(ctx, *adjoints):
    raise NotImplementedError("symmetric_contraction: third derivatives (first and second are implemented)")


_forward.register_autograd(_forward_autograd, setup_context=_save_forward)
_backward.register_autograd(_backward_autograd, setup_context=_save_backward)
_double_backward.register_autograd(_third)
