"""species_linear: formula and contract in csrc/species_linear/species_linear.hpp.

The operator is trilinear in (x, weights, cotangent of y), so three custom operators, the form and its two
slots, are closed under differentiation: each one's backward is made of the other two.
"""

from __future__ import annotations

import dataclasses

import torch

from pathtune.ops._autograd import needed_gradients
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._kernels import call_cpu, call_cuda, uses_cuda
from pathtune.ops._operator import operator
from pathtune.tables.species_linear import SpeciesLinearTable


@dataclasses.dataclass(frozen=True)
class SpeciesGroups:
    """Nodes grouped by species: nodes `order[ptr[s]:ptr[s + 1]]` are of species `present[s]`."""

    order: torch.Tensor  # [n_nodes] int64
    ptr: torch.Tensor  # [n_present + 1] int64
    present: torch.Tensor  # [n_present] int64
    species: tuple[int, ...] = ()  # `present` on the host, which a launch must not wait for

    def to(self, device: torch.device) -> SpeciesGroups:
        """The same groups on another device."""
        return SpeciesGroups(self.order.to(device), self.ptr.to(device), self.present.to(device), self.species)


def group_by_species(species: torch.Tensor, n_species: int) -> SpeciesGroups:
    """Group nodes by their species index `species` [n_nodes], stable in the order of nodes.

    Raises ValueError when an index lies outside [0, n_species).
    """
    if species.numel() and not (int(species.min()) >= 0 and int(species.max()) < n_species):
        raise ValueError(f"species indices span {int(species.min())} to {int(species.max())}, "
                         f"expected 0 to {n_species - 1}")  # fmt: skip
    order = torch.argsort(species, stable=True)
    counts = torch.bincount(species, minlength=n_species)
    present = counts.nonzero().flatten()
    ptr = torch.zeros(present.numel() + 1, dtype=torch.int64, device=species.device)
    ptr[1:] = counts[present].cumsum(0)
    return SpeciesGroups(order, ptr, present, tuple(present.tolist()))


def species_linear(
    x: torch.Tensor,  # [n_nodes, dim_in]
    weights: torch.Tensor,  # [weight_numel]
    groups: SpeciesGroups,
    table: SpeciesLinearTable,
) -> torch.Tensor:  # [n_nodes, dim_out]
    """y[n, out_p, k, v] = sum_p c_p sum_u x[n, in_p, k, u] weights_p[u, species[n], v].

    Layout ir_mul; float32 or float64; differentiable any number of times in x and weights.
    Raises TypeError on dtype or device, ValueError on a size that disagrees with the table.
    """
    check_same_kind("species_linear", x=x, weights=weights)
    check_size("species_linear", "row length of x", x.shape[1], table.dim_in)
    check_size("species_linear", "number of weights", weights.numel(), table.weight_numel)
    check_size("species_linear", "number of grouped nodes", groups.order.numel(), x.shape[0])
    sizes = [x.shape[0], table.dim_in, table.dim_out, table.n_species, table.weight_numel]
    return _forward(x, weights, *_index(groups, table), sizes)


def _index(groups: SpeciesGroups, table: SpeciesLinearTable) -> tuple[torch.Tensor, ...]:
    return groups.order, groups.ptr, groups.present, table.paths, table.coefficients


def _call(name: str, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, index, sizes) -> torch.Tensor:
    n_nodes, dim_in, dim_out, n_species, _ = sizes
    order, ptr, present, paths, coefficients = index
    a, b = a.contiguous(), b.contiguous()
    call = call_cuda if uses_cuda(out) else call_cpu  # paths and coefficients are read on the host by both
    call(
        name, out, (n_nodes, dim_in, dim_out, n_species, present.numel(), paths.shape[0]),
        *(t.data_ptr() for t in (order, ptr, present, paths, coefficients, a, b, out)),
    )  # fmt: skip
    return out


@operator("pathtune::species_linear")
def _forward(
    x: torch.Tensor, weights: torch.Tensor, order: torch.Tensor, ptr: torch.Tensor, present: torch.Tensor,
    paths: torch.Tensor, coefficients: torch.Tensor, sizes: list[int],
) -> torch.Tensor:  # fmt: skip
    out = x.new_zeros(sizes[0], sizes[2])
    return _call("species_linear", x, weights, out, (order, ptr, present, paths, coefficients), sizes)


@operator("pathtune::species_linear_grad_x")
def _grad_x(
    grad_y: torch.Tensor, weights: torch.Tensor, order: torch.Tensor, ptr: torch.Tensor, present: torch.Tensor,
    paths: torch.Tensor, coefficients: torch.Tensor, sizes: list[int],
) -> torch.Tensor:  # fmt: skip
    out = grad_y.new_zeros(sizes[0], sizes[1])
    return _call("species_linear_grad_x", grad_y, weights, out, (order, ptr, present, paths, coefficients), sizes)


@operator("pathtune::species_linear_grad_weights")
def _grad_weights(
    x: torch.Tensor, grad_y: torch.Tensor, order: torch.Tensor, ptr: torch.Tensor, present: torch.Tensor,
    paths: torch.Tensor, coefficients: torch.Tensor, sizes: list[int],
) -> torch.Tensor:  # fmt: skip
    out = x.new_zeros(sizes[4])
    return _call("species_linear_grad_weights", x, grad_y, out, (order, ptr, present, paths, coefficients), sizes)


_forward.register_fake(lambda x, weights, *rest: x.new_empty(rest[-1][0], rest[-1][2]))
_grad_x.register_fake(lambda grad_y, weights, *rest: grad_y.new_empty(rest[-1][0], rest[-1][1]))
_grad_weights.register_fake(lambda x, grad_y, *rest: x.new_empty(rest[-1][4]))


def _save(ctx, inputs, output) -> None:
    first, second, *index, sizes = inputs
    ctx.save_for_backward(first, second, *index)
    ctx.sizes = sizes


def _backward(grad_first, grad_second):
    """Backward of a bilinear operator from its two slots; both get (saved first, saved second, cotangent)."""

    def backward(ctx, cotangent):
        first, second, *index = ctx.saved_tensors
        needs_first, needs_second = needed_gradients(ctx)[:2]
        rest = (*index, ctx.sizes)
        return (
            grad_first(first, second, cotangent, rest) if needs_first else None,
            grad_second(first, second, cotangent, rest) if needs_second else None,
            *([None] * 6),
        )

    return backward


_forward.register_autograd(
    _backward(lambda x, w, gy, rest: _grad_x(gy, w, *rest), lambda x, w, gy, rest: _grad_weights(x, gy, *rest)),
    setup_context=_save,
)
_grad_x.register_autograd(
    _backward(lambda gy, w, ax, rest: _forward(ax, w, *rest), lambda gy, w, ax, rest: _grad_weights(ax, gy, *rest)),
    setup_context=_save,
)
_grad_weights.register_autograd(
    _backward(lambda x, gy, aw, rest: _grad_x(gy, aw, *rest), lambda x, gy, aw, rest: _forward(x, aw, *rest)),
    setup_context=_save,
)
