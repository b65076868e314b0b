"""The sparse delta of Cho et al. (ICLR 2026): a few path weights change, and the others not at all."""

from pathtune.adaptations.sparse.adaptation import Sparse
from pathtune.adaptations.sparse.options import SparseDelta

__all__ = ["Sparse", "SparseDelta"]
