"""What a tuned model owes to its change of weights: by degree l, by layer and path, by element.

measure.py is the verb; each of the others holds one quantity with its formula: parts.py (which weights belong to
which l), shapley.py, integrated.py, counts.py, anisotropy.py, overlap.py (of two adapters).
"""

from pathtune.importance.measure import importance
from pathtune.importance.overlap import overlap
from pathtune.importance.result import Importance

__all__ = ["Importance", "importance", "overlap"]
