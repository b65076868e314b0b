"""Arms compared on a user's model and data: one care for all, one folder that can be gone on with, one table."""

from pathtune.comparing.comparison import compare
from pathtune.comparing.options import CompareOptions

__all__ = ["CompareOptions", "compare"]
