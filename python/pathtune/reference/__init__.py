"""Every operator as a few lines of plain torch: the oracle of the kernels, and the fallback."""

from pathtune.reference.edge_conv import edge_conv
from pathtune.reference.species_linear import species_linear

__all__ = ["edge_conv", "species_linear"]
