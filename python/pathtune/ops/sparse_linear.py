"""Linear layers whose weights W' = W + S are trained at few candidate entries only.

W' is a plain tensor that autograd does not see, so that its dense gradient is never formed; S carries the
gradient in its place. The operators and their derivatives are in _bilinear.py.
"""

from __future__ import annotations

import dataclasses

import torch

from pathtune.ops import _bilinear
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops.candidates import Candidates
from pathtune.ops.species_linear import SpeciesGroups, one_group, sizes_of
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
    effective = weights.effective.detach()
    values = weights.values
    candidates = weights.candidates
    op = "sparse_linear"
    check_same_kind(op, x=x, effective=effective, values=values)
    check_size(op, "row length of x", x.shape[1], table.dim_in)
    check_size(op, "number of weights", effective.numel(), table.weight_numel)
    check_size(op, "number of weights of the candidates", candidates.weight_numel, table.weight_numel)
    check_size(op, "number of values", values.numel(), candidates.indices.numel())
    check_size(op, "number of grouped nodes", groups.order.numel(), x.shape[0])
    index = _bilinear.index_of(candidates, groups, table)
    return _bilinear.product(x, values, effective, index, sizes_of(x, groups, table), False)


def sparse_path_linear(
    x: torch.Tensor,  # [n_nodes, dim_in]
    weights: SparseWeights,
    table: SpeciesLinearTable,  # of one species
) -> torch.Tensor:  # [n_nodes, dim_out]
    """A path linear, which is a species linear of one species; see sparse_species_linear."""
    check_size("sparse_path_linear", "number of species of the table", table.n_species, 1)
    return sparse_species_linear(x, weights, one_group(x.shape[0], x.device), table)
