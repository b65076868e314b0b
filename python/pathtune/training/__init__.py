"""Training: options, the loop, and the run that leaves a folder."""

from pathtune.training.fitting import fit
from pathtune.training.options import FitConfig, History

__all__ = ["FitConfig", "History", "fit"]
