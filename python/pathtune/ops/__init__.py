"""Operators: one file each, with checks, custom_op, fake and autograd. The sole importers of `_core`."""

from pathtune.ops.edge_conv import ConvGraph, conv_graph, edge_conv
from pathtune.ops.species_linear import SpeciesGroups, group_by_species, species_linear
from pathtune.ops.symmetric_contraction import symmetric_contraction

__all__ = [
    "ConvGraph",
    "SpeciesGroups",
    "conv_graph",
    "edge_conv",
    "group_by_species",
    "species_linear",
    "symmetric_contraction",
]
