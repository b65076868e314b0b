"""Operators: one file each, with checks, custom_op, fake and autograd. The sole importers of `_core`."""

from pathtune.ops.edge_conv import ConvGraph, conv_graph, edge_conv
from pathtune.ops.sampled_gradient import Candidates, group_candidates, sampled_gradient
from pathtune.ops.sparse_linear import SparseWeights, sparse_path_linear, sparse_species_linear
from pathtune.ops.species_linear import SpeciesGroups, group_by_species, species_linear
from pathtune.ops.symmetric_contraction import symmetric_contraction

__all__ = [
    "Candidates",
    "ConvGraph",
    "SparseWeights",
    "SpeciesGroups",
    "conv_graph",
    "edge_conv",
    "group_by_species",
    "group_candidates",
    "sampled_gradient",
    "sparse_path_linear",
    "sparse_species_linear",
    "species_linear",
    "symmetric_contraction",
]
