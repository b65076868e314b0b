"""Operators: one file each, with checks, custom_op, fake and autograd. The sole importers of `_core`."""

from pathtune.ops._kernels import cuda_status
from pathtune.ops.candidates import Candidates, group_candidates
from pathtune.ops.delta_node import DeltaTarget, sparse_weights
from pathtune.ops.edge_conv import ConvGraph, conv_graph, edge_conv
from pathtune.ops.edge_geometry import edge_geometry
from pathtune.ops.end_sums import Ends, ends_by_node, ends_of, sum_at_nodes
from pathtune.ops.radial_table import RadialTable, radial_table
from pathtune.ops.sampled_gradient import DeltaCotangent, delta_gradients, sampled_gradient
from pathtune.ops.silu import silu
from pathtune.ops.soft_threshold import ThresholdedLayer, soft_threshold
from pathtune.ops.sparse_linear import SparseWeights, sparse_path_linear, sparse_species_linear
from pathtune.ops.species_linear import SpeciesGroups, group_by_species, path_linear, species_linear
from pathtune.ops.species_rows import SpeciesRows, places_of, rows_where_known, species_rows_linear
from pathtune.ops.symmetric_contraction import symmetric_contraction

__all__ = [
    "Candidates",
    "ConvGraph",
    "DeltaCotangent",
    "DeltaTarget",
    "Ends",
    "RadialTable",
    "SparseWeights",
    "SpeciesGroups",
    "SpeciesRows",
    "ThresholdedLayer",
    "conv_graph",
    "cuda_status",
    "delta_gradients",
    "edge_conv",
    "edge_geometry",
    "ends_by_node",
    "ends_of",
    "group_by_species",
    "group_candidates",
    "path_linear",
    "places_of",
    "radial_table",
    "rows_where_known",
    "sampled_gradient",
    "silu",
    "soft_threshold",
    "sparse_path_linear",
    "sparse_species_linear",
    "sparse_weights",
    "species_linear",
    "species_rows_linear",
    "sum_at_nodes",
    "symmetric_contraction",
]
