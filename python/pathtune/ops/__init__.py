"""Operators: one file each, with checks, custom_op, fake and autograd. The sole importers of `_core`."""

from pathtune.ops.species_linear import SpeciesGroups, group_by_species, species_linear
from pathtune.ops.symmetric_contraction import symmetric_contraction

__all__ = ["SpeciesGroups", "group_by_species", "species_linear", "symmetric_contraction"]
