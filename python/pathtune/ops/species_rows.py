"""Species-indexed weights that are trained for some of a model's species only.

A model of 89 elements has a block of weights for each; data of three elements give gradients to three of them. Those
three are the leaf of autograd here: no gradient, no optimizer state and no update is made for the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch

from pathtune.ops.species_linear import SpeciesGroups, species_linear
from pathtune.tables.species_linear import SpeciesLinearTable


@dataclasses.dataclass(frozen=True)
class SpeciesRows:
    """A layer's weights in two parts: those of some species, and the whole, whose other species count."""

    values: torch.Tensor  # [n_values]: the flat weights of the layer as if the model had these species only
    whole: torch.Tensor  # the parameter
    indices: torch.Tensor  # [n_values] int64, ascending: where in the flat `whole` the values stand
    species: tuple[int, ...]  # ascending species indices
    places: torch.Tensor  # [n_species] int64: place of each of the model's species among these, -1 where it is none

    def plain(self) -> torch.Tensor:
        """All weights, of the shape of `whole`; differentiable in the values."""
        return self.whole.flatten().index_copy(0, self.indices, self.values).view_as(self.whole)

    def groups_of(self, groups: SpeciesGroups) -> SpeciesGroups:
        """Groups of these species alone, counted as the values count them."""
        species = tuple(self.species.index(s) for s in groups.species)
        return SpeciesGroups(groups.order, groups.ptr, self.places[groups.present], species)

    def by_species(self) -> torch.Tensor:
        """The values of a parameter whose first axis counts species, [len(species), ...]."""
        return self.values.view(len(self.species), *self.whole.shape[1:])


def places_of(species: Collection[int], n_species: int) -> torch.Tensor:
    """For each of `n_species` species its place among the given ascending ones, -1 where it is none of them."""
    places = torch.full((n_species,), -1)
    places[list(species)] = torch.arange(len(species))
    return places


def rows_where_known(parameters: Mapping[str, Any], species: Collection[int]) -> Mapping[str, Any]:
    """`parameters`, with the rows that lack one of these species in full."""
    lacking = {
        name: w.plain()
        for name, w in parameters.items()
        if isinstance(w, SpeciesRows) and not set(species).issubset(w.species)
    }
    return {**parameters, **lacking} if lacking else parameters


def species_rows_linear(
    x: torch.Tensor,  # [n_nodes, dim_in]
    weights: SpeciesRows,
    groups: SpeciesGroups,
    table: SpeciesLinearTable,  # of all species
) -> torch.Tensor:  # [n_nodes, dim_out]
    """species_linear with the values alone; ValueError for nodes of another species."""
    missing = sorted(set(groups.species).difference(weights.species))
    if missing:
        raise ValueError(f"species_rows_linear: nodes of species {missing[0]}, expected some of {weights.species}")
    return species_linear(x, weights.values, weights.groups_of(groups), table.for_species(len(weights.species)))
