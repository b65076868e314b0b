"""The three forms of a linear layer with weights W' = W + S, closed under differentiation.

    F(x, S) = the linear with W'          G(g, S) = dF/dx^T g, the linear with W' transposed
    dF/dS = sampled_gradient(x, g)        dG/dS = sampled_gradient(adjoint of G, g)

F and G are one operator, `product`. The derivative of `sampled` is F or G with its cotangent written into an
otherwise empty W'. Where S comes from ops/delta_node.py, the products (x, g) are left with its node, which makes
one call of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pathtune.ops._autograd import needed_gradients, pass_number
from pathtune.ops._operator import operator
from pathtune.ops._sampled import fill_gradients
from pathtune.ops._sampled_layer import Layer, SampledTables, TermTensors
from pathtune.ops.candidates import Candidates
from pathtune.ops.species_linear import SpeciesGroups, SpeciesLinearIndex, SpeciesLinearSizes, written
from pathtune.tables.species_linear import SpeciesLinearTable


class BilinearIndex(NamedTuple):
    """Three tensors of the groups, two of the table and seven of the candidates."""

    order: torch.Tensor
    ptr: torch.Tensor
    present: torch.Tensor
    paths: torch.Tensor
    coefficients: torch.Tensor
    blocks: torch.Tensor
    runs: torch.Tensor
    u_tiles: torch.Tensor
    v_tiles: torch.Tensor
    v_row: torch.Tensor
    place: torch.Tensor
    indices: torch.Tensor


def index_of(candidates: Candidates, groups: SpeciesGroups, table: SpeciesLinearTable) -> BilinearIndex:
    """The index argument of the operators; their sizes are those of species_linear."""
    return BilinearIndex(
        order=groups.order,
        ptr=groups.ptr,
        present=groups.present,
        paths=table.paths,
        coefficients=table.coefficients,
        blocks=candidates.blocks,
        runs=candidates.runs,
        u_tiles=candidates.u_tiles,
        v_tiles=candidates.v_tiles,
        v_row=candidates.v_row,
        place=candidates.place,
        indices=candidates.indices,
    )


@operator("pathtune::sparse_linear")
def product(
    a: torch.Tensor,  # x, or transposed g
    values: torch.Tensor,  # [n_candidates] S, for autograd only
    effective: torch.Tensor,  # [weight_numel] W'
    index: Sequence[torch.Tensor],
    sizes: Sequence[int],
    transposed: bool,
) -> torch.Tensor:
    """F or, transposed, G; not by torch for path linears either: MKL takes twice as long on AMD processors."""
    name = "species_linear_grad_x" if transposed else "species_linear"
    groups_and_table = index[: len(SpeciesLinearIndex._fields)]
    return written(_new(a, sizes, transposed), name, a, effective, groups_and_table, sizes)


def _new(like: torch.Tensor, sizes: Sequence[int], transposed: bool) -> torch.Tensor:
    sizes = SpeciesLinearSizes._make(sizes)
    return like.new_empty(sizes.n_nodes, sizes.dim_in if transposed else sizes.dim_out)


@product.register_fake
def _(a, values, effective, index, sizes, transposed):
    return _new(a, sizes, transposed)


@operator("pathtune::sampled_gradient")
def sampled(x: torch.Tensor, g: torch.Tensor, index: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
    """dF/dS [n_candidates]."""
    of = BilinearIndex._make(index)
    dims = SpeciesLinearSizes._make(sizes)
    out = x.new_empty(of.place.numel())
    layer = Layer(
        terms=[TermTensors(x.contiguous(), g.contiguous(), of.order, of.ptr, of.present)],
        tables=SampledTables._make(getattr(of, name) for name in SampledTables._fields),
        dim_in=dims.dim_in,
        dim_out=dims.dim_out,
        other=None,
        delta=None,
        segment=None,
        grad_values=out,
        grad_thresholds=out[:0],
    )
    fill_gradients([layer])
    return out


@sampled.register_fake
def _(x, g, index, sizes):
    return x.new_empty(BilinearIndex._make(index).place.shape[0])


def _save_product(ctx, inputs, output) -> None:
    a, values, effective, ctx.index, ctx.sizes, ctx.transposed = inputs
    ctx.save_for_backward(a, values, effective)


def _backward_of_product(ctx, b):
    a, values, effective = ctx.saved_tensors
    needs_a, needs_values, *_ = needed_gradients(ctx)
    x, g = (b, a) if ctx.transposed else (a, b)
    return (
        product(b, values, effective, ctx.index, ctx.sizes, not ctx.transposed) if needs_a else None,
        _gradient_of_values(ctx, x, g) if needs_values else None,
    )


def _gradient_of_values(ctx, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor | None:
    """sampled_gradient(x, g), or None when the product was left with the node that made S.

    To be called only when the engine has said that it will run that node.
    """
    node, output = ctx.next_functions[1]  # of the second tensor, values
    products = getattr(node, "products", None)
    number = pass_number()
    if products is None or number < 0 or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return sampled(x, g, ctx.index, ctx.sizes)
    of = BilinearIndex._make(ctx.index)
    sizes = SpeciesLinearSizes._make(ctx.sizes)
    table = SpeciesLinearTable(
        paths=of.paths,
        coefficients=of.coefficients,
        dim_in=sizes.dim_in,
        dim_out=sizes.dim_out,
        n_species=sizes.n_species,
        weight_numel=sizes.weight_numel,
    )
    groups = SpeciesGroups(of.order, of.ptr, of.present)
    products.setdefault(number, {}).setdefault(output, []).append((x, g, groups, table))
    return None


def _save_sampled(ctx, inputs, output) -> None:
    x, g, ctx.index, ctx.sizes = inputs
    ctx.save_for_backward(x, g)


def _backward_of_sampled(ctx, adjoint):
    """Bilinear in x and g with `adjoint` as the weights; dense, but a force loss never comes here."""
    x, g = ctx.saved_tensors
    needs_x, needs_g, *_ = needed_gradients(ctx)
    indices = BilinearIndex._make(ctx.index).indices.to(adjoint.device)
    weights = adjoint.new_zeros(SpeciesLinearSizes._make(ctx.sizes).weight_numel)
    weights = weights.index_copy(0, indices, adjoint.detach())
    return (
        product(g, adjoint, weights, ctx.index, ctx.sizes, True) if needs_x else None,
        product(x, adjoint, weights, ctx.index, ctx.sizes, False) if needs_g else None,
    )


product.register_autograd(_backward_of_product, setup_context=_save_product)
sampled.register_autograd(_backward_of_sampled, setup_context=_save_sampled)
