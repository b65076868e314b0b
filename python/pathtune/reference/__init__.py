"""Every operator as a few lines of plain torch: the oracle of the kernels, and the fallback."""

from pathtune.reference.candidates import group_candidates
from pathtune.reference.edge_conv import edge_conv
from pathtune.reference.edge_geometry import edge_geometry
from pathtune.reference.radial_table import radial_contract, radial_expand
from pathtune.reference.sampled_gradient import sampled_gradient
from pathtune.reference.soft_threshold import soft_threshold
from pathtune.reference.species_linear import species_linear
from pathtune.reference.symmetric_contraction import symmetric_contraction

__all__ = [
    "edge_conv",
    "edge_geometry",
    "group_candidates",
    "radial_contract",
    "radial_expand",
    "sampled_gradient",
    "soft_threshold",
    "species_linear",
    "symmetric_contraction",
]
