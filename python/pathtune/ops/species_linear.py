"""species_linear: formula and contract in csrc/species_linear/species_linear.hpp.

The operator is trilinear in (x, weights, cotangent of y), so three custom operators, the form and its two
slots, are closed under differentiation: each one's backward is made of the other two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch

from pathtune.ops._autograd import needed_gradients
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._kernels import call_cpu, call_cuda, uses_cuda
from pathtune.ops._operator import operator
from pathtune.ops._records import addresses, record
from pathtune.tables.species_linear import SpeciesLinearTable


@dataclasses.dataclass(frozen=True)
class SpeciesGroups:
    """Nodes grouped by species: nodes `order[ptr[s]:ptr[s + 1]]` are of species `present[s]`."""

    order: torch.Tensor  # [n_nodes] int64
    ptr: torch.Tensor  # [n_present + 1] int64
    present: torch.Tensor  # [n_present] int64
    species: tuple[int, ...] = ()  # `present` on the host, which a launch must not wait for

    @functools.cached_property
    def of_present(self) -> SpeciesGroups:
        """The same groups, for weights of the species that are present alone; made once."""
        n = len(self.present)
        return SpeciesGroups(self.order, self.ptr, torch.arange(n, device=self.present.device), tuple(range(n)))

    def to(self, device: torch.device) -> SpeciesGroups:
        """The same groups on another device."""
        return SpeciesGroups(self.order.to(device), self.ptr.to(device), self.present.to(device), self.species)


def group_by_species(species: torch.Tensor, n_species: int) -> SpeciesGroups:
    """Group nodes by their species index `species` [n_nodes], stable in the order of nodes.

    Raises ValueError when an index lies outside [0, n_species).
    """
    if species.numel() and not (int(species.min()) >= 0 and int(species.max()) < n_species):
        span = f"{int(species.min())} to {int(species.max())}"
        raise ValueError(f"species indices span {span}, expected 0 to {n_species - 1}")
    order = torch.argsort(species, stable=True)
    counts = torch.bincount(species, minlength=n_species)
    present = counts.nonzero().flatten()
    ptr = torch.zeros(present.numel() + 1, dtype=torch.int64, device=species.device)
    ptr[1:] = counts[present].cumsum(0)
    return SpeciesGroups(order, ptr, present, tuple(present.tolist()))


@record
class SpeciesLinearIndex(NamedTuple):
    """The groups, and the table, which is read on the host on every device."""

    order: torch.Tensor
    ptr: torch.Tensor
    present: torch.Tensor
    paths: torch.Tensor
    coefficients: torch.Tensor


@record
class SpeciesLinearSizes(NamedTuple):
    """All integers of a call."""

    n_nodes: int
    dim_in: int
    dim_out: int
    n_species: int
    weight_numel: int
    n_present: int
    n_paths: int


def index_of(groups: SpeciesGroups, table: SpeciesLinearTable) -> SpeciesLinearIndex:
    """The index argument of the operators."""
    return SpeciesLinearIndex(groups.order, groups.ptr, groups.present, table.paths, table.coefficients)


def sizes_of(x: torch.Tensor, groups: SpeciesGroups, table: SpeciesLinearTable) -> SpeciesLinearSizes:
    """The sizes of the operators."""
    return SpeciesLinearSizes(
        n_nodes=x.shape[0],
        dim_in=table.dim_in,
        dim_out=table.dim_out,
        n_species=table.n_species,
        weight_numel=table.weight_numel,
        n_present=groups.present.numel(),
        n_paths=table.paths.shape[0],
    )


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
    return _forward(x, weights, index_of(groups, table), sizes_of(x, groups, table))


_NODES: dict[torch.device, list[torch.Tensor]] = {}  # 0, 1, 2, ...: each twice as long as the one before, none given up


@functools.cache  # not one is given up: a CUDA graph may read it; its nodes are shared
def one_group(n_nodes: int, device: torch.device) -> SpeciesGroups:
    """All nodes, in their order, as of species 0: made where they are, so that no step waits for a copy."""
    with torch.inference_mode(False):
        known = _NODES.setdefault(device, [torch.arange(1024, device=device)])
        if known[-1].numel() < n_nodes:
            known.append(torch.arange(max(n_nodes, 2 * known[-1].numel()), device=device))
        nodes = known[-1][:n_nodes]
        ptr = torch.arange(0, n_nodes + 1, n_nodes, device=device) if n_nodes else nodes.new_zeros(2)
        return SpeciesGroups(nodes, ptr, known[0][:1], (0,))


def path_linear(
    x: torch.Tensor,  # [n_nodes, dim_in]
    weights: torch.Tensor,  # [weight_numel]
    table: SpeciesLinearTable,  # of one species
) -> torch.Tensor:  # [n_nodes, dim_out]
    """A path linear, which is a species linear of one species; see there."""
    check_size("path_linear", "number of species of the table", table.n_species, 1)
    return species_linear(x, weights, one_group(x.shape[0], x.device), table)


def written(
    out: torch.Tensor, name: str, a: torch.Tensor, b: torch.Tensor, index: Sequence[torch.Tensor], sizes: Sequence[int]
) -> torch.Tensor:
    """`out`, into which the kernel `name` has written its form of `a` and `b`; that of the weights it adds."""
    a = a.contiguous()
    b = b.contiguous()
    call = call_cuda if uses_cuda(out) else call_cpu
    index = addresses(SpeciesLinearIndex, index)
    call(name, out, SpeciesLinearSizes._make(sizes), index, a.data_ptr(), b.data_ptr(), out.data_ptr())
    return out


@operator("pathtune::species_linear")
def _forward(
    x: torch.Tensor, weights: torch.Tensor, index: Sequence[torch.Tensor], sizes: Sequence[int]
) -> torch.Tensor:
    return written(_new_y(x, sizes), "species_linear", x, weights, index, sizes)


@operator("pathtune::species_linear_grad_x")
def _grad_x(
    grad_y: torch.Tensor, weights: torch.Tensor, index: Sequence[torch.Tensor], sizes: Sequence[int]
) -> torch.Tensor:
    return written(_new_x(grad_y, sizes), "species_linear_grad_x", grad_y, weights, index, sizes)


@operator("pathtune::species_linear_grad_weights")
def _grad_weights(
    x: torch.Tensor, grad_y: torch.Tensor, index: Sequence[torch.Tensor], sizes: Sequence[int]
) -> torch.Tensor:
    return written(_zero_weights(x, sizes), "species_linear_grad_weights", x, grad_y, index, sizes)


def _new_y(like: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    sizes = SpeciesLinearSizes._make(sizes)
    return like.new_empty(sizes.n_nodes, sizes.dim_out)


def _new_x(like: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    sizes = SpeciesLinearSizes._make(sizes)
    return like.new_empty(sizes.n_nodes, sizes.dim_in)


def _zero_weights(like: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    return like.new_zeros(SpeciesLinearSizes._make(sizes).weight_numel)


_forward.register_fake(lambda x, weights, index, sizes: _new_y(x, sizes))
_grad_x.register_fake(lambda grad_y, weights, index, sizes: _new_x(grad_y, sizes))
_grad_weights.register_fake(lambda x, grad_y, index, sizes: _zero_weights(x, sizes))


def _save(ctx, inputs, output) -> None:
    first, second, ctx.index, ctx.sizes = inputs
    ctx.save_for_backward(first, second)


def _backward(grad_first, grad_second):
    """Backward of a bilinear operator from its two slots; both get (saved first, saved second, cotangent)."""

    def backward(ctx, cotangent):
        first, second = ctx.saved_tensors
        needs_first, needs_second, *_ = needed_gradients(ctx)
        rest = (ctx.index, ctx.sizes)
        return (
            grad_first(first, second, cotangent, rest) if needs_first else None,
            grad_second(first, second, cotangent, rest) if needs_second else None,
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
