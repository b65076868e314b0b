"""Linear layers whose weights W' = W + S are trained at few candidate entries only.

    F(x, S) = the linear with W'          G(g, S) = dF/dx^T g, the linear with W' transposed
    dF/dS = sampled_gradient(x, g)        dG/dS = sampled_gradient(adjoint of G, g)

W' is a plain tensor that autograd does not see, so that its dense gradient is never formed; S carries the
gradient in its place. The two forms and sampled_gradient are closed under differentiation: the derivative of
sampled_gradient is F or G with its cotangent written into an otherwise empty W'. Where S comes from
ops/delta_node.py, the products (x, g) are left with its node, which makes one call of all of them.
"""

from __future__ import annotations

import dataclasses
import functools

import torch

from pathtune.ops._autograd import needed_gradients, pass_number
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._operator import operator
from pathtune.ops.sampled_gradient import Candidates, _sampled, index_of, sizes_of
from pathtune.ops.species_linear import SpeciesGroups
from pathtune.ops.species_linear import _call as call_species_linear
from pathtune.tables.species_linear import SpeciesLinearTable


@dataclasses.dataclass(frozen=True)
class SparseWeights:
    """A layer's weights in two parts: their value, and what of it autograd sees.

    `effective` already contains `values`; whoever makes one keeps them consistent.
    """

    effective: torch.Tensor  # [weight_numel] W', outside of autograd
    values: torch.Tensor  # [n_candidates] S(D, d) at the candidates
    candidates: Candidates


def sparse_species_linear(
    x: torch.Tensor,  # [n_nodes, dim_in]
    weights: SparseWeights,
    groups: SpeciesGroups,
    table: SpeciesLinearTable,
) -> torch.Tensor:  # [n_nodes, dim_out]
    """species_linear with the weights W', differentiable any number of times in x and `weights.values`.

    Raises TypeError on dtype or device, ValueError on a size that disagrees with the table.
    """
    effective, values, candidates = weights.effective.detach(), weights.values, weights.candidates
    op = "sparse_linear"
    check_same_kind(op, x=x, effective=effective, values=values)
    check_size(op, "row length of x", x.shape[1], table.dim_in)
    check_size(op, "number of weights", effective.numel(), table.weight_numel)
    check_size(op, "number of weights of the candidates", candidates.weight_numel, table.weight_numel)
    check_size(op, "number of values", values.numel(), candidates.indices.numel())
    check_size(op, "number of grouped nodes", groups.order.numel(), x.shape[0])
    return _forward(x, values, effective, *index_of(candidates, groups, table), sizes_of(x, table))


def sparse_path_linear(
    x: torch.Tensor,  # [n_nodes, dim_in]
    weights: SparseWeights,
    table: SpeciesLinearTable,  # of one species
) -> torch.Tensor:  # [n_nodes, dim_out]
    """A path linear, which is a species linear of one species; see sparse_species_linear."""
    check_size("sparse_path_linear", "number of species of the table", table.n_species, 1)
    return sparse_species_linear(x, weights, _one_group(x.shape[0], x.device), table)


@functools.lru_cache(maxsize=8)
def _one_group(n_nodes: int, device: torch.device) -> SpeciesGroups:
    groups = SpeciesGroups(torch.arange(n_nodes), torch.tensor([0, n_nodes]), torch.zeros(1, dtype=torch.int64), (0,))
    return groups if device.type == "cpu" else groups.to(device)


def _product(
    a: torch.Tensor, effective: torch.Tensor, index: tuple, sizes: list[int], transposed: bool
) -> torch.Tensor:  # fmt: skip
    """F or, transposed, G; not by torch for path linears either: MKL takes twice as long on AMD processors."""
    out = a.new_zeros(sizes[0], sizes[1 if transposed else 2])
    name = "species_linear_grad_x" if transposed else "species_linear"
    return call_species_linear(name, a, effective, out, index, sizes)


# Index arguments of all operators: three of the groups, two of the table, seven of the candidates.


@operator("pathtune::sparse_linear")
def _forward(
    x: torch.Tensor, values: torch.Tensor, effective: torch.Tensor, order: torch.Tensor, ptr: torch.Tensor,
    present: torch.Tensor, paths: torch.Tensor, coefficients: torch.Tensor, blocks: torch.Tensor,
    runs: torch.Tensor, u_tiles: torch.Tensor, v_tiles: torch.Tensor, v_row: torch.Tensor,
    place: torch.Tensor, indices: torch.Tensor, sizes: list[int],
) -> torch.Tensor:  # fmt: skip
    return _product(x, effective, (order, ptr, present, paths, coefficients), sizes, transposed=False)


@operator("pathtune::sparse_linear_grad_x")
def _grad_x(
    g: torch.Tensor, values: torch.Tensor, effective: torch.Tensor, order: torch.Tensor, ptr: torch.Tensor,
    present: torch.Tensor, paths: torch.Tensor, coefficients: torch.Tensor, blocks: torch.Tensor,
    runs: torch.Tensor, u_tiles: torch.Tensor, v_tiles: torch.Tensor, v_row: torch.Tensor,
    place: torch.Tensor, indices: torch.Tensor, sizes: list[int],
) -> torch.Tensor:  # fmt: skip
    return _product(g, effective, (order, ptr, present, paths, coefficients), sizes, transposed=True)


_forward.register_fake(lambda x, values, effective, *rest: x.new_empty(rest[-1][0], rest[-1][2]))
_grad_x.register_fake(lambda g, values, effective, *rest: g.new_empty(rest[-1][0], rest[-1][1]))


def _save(ctx, inputs, output) -> None:
    *tensors, sizes = inputs
    ctx.save_for_backward(*tensors)
    ctx.sizes = sizes


def _backward_of_forward(ctx, g):
    x, values, effective, *index = ctx.saved_tensors
    needs_x, needs_values = needed_gradients(ctx)[:2]
    return (
        _grad_x(g, values, effective, *index, ctx.sizes) if needs_x else None,
        _gradient_of_values(ctx, x, g, index) if needs_values else None,
        *([None] * 14),
    )


def _backward_of_grad_x(ctx, adjoint):
    g, values, effective, *index = ctx.saved_tensors
    needs_g, needs_values = needed_gradients(ctx)[:2]
    return (
        _forward(adjoint, values, effective, *index, ctx.sizes) if needs_g else None,
        _gradient_of_values(ctx, adjoint, g, index) if needs_values else None,
        *([None] * 14),
    )


def _gradient_of_values(ctx, x: torch.Tensor, g: torch.Tensor, index) -> torch.Tensor | None:
    """sampled_gradient(x, g), or None when the product was left with the node that made S.

    To be called only when the engine has said that it will run that node.
    """
    node, output = ctx.next_functions[1]  # of the second tensor, values
    products = getattr(node, "products", None)
    number = pass_number()
    if products is None or number < 0 or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _sampled(x, g, *index, ctx.sizes)
    _, dim_in, dim_out, n_species, weight_numel = ctx.sizes
    table = SpeciesLinearTable(paths=index[3], coefficients=index[4], dim_in=dim_in, dim_out=dim_out,
                               n_species=n_species, weight_numel=weight_numel)  # fmt: skip
    products.setdefault(number, {}).setdefault(output, []).append((x, g, SpeciesGroups(*index[:3]), table))
    return None


def _backward_of_sampled(ctx, adjoint):
    """Bilinear in x and g with `adjoint` as the weights; dense, but a force loss never comes here."""
    x, g, *index = ctx.saved_tensors
    needs_x, needs_g = needed_gradients(ctx)[:2]
    weights = adjoint.new_zeros(ctx.sizes[4]).index_copy(0, index[-1].to(adjoint.device), adjoint.detach())
    return (
        _grad_x(g, adjoint, weights, *index, ctx.sizes) if needs_x else None,
        _forward(x, adjoint, weights, *index, ctx.sizes) if needs_g else None,
        *([None] * 13),
    )


_forward.register_autograd(_backward_of_forward, setup_context=_save)
_grad_x.register_autograd(_backward_of_grad_x, setup_context=_save)
_sampled.register_autograd(_backward_of_sampled, setup_context=_save)
