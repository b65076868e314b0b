"""pathtune: sparse fine-tuning of equivariant interatomic potentials.

The verbs of docs/api.md. Importing this package imports torch, but no backbone's package.
"""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it once: docs/decisions/0005-large-blocks.md

from pathtune._fit import FitConfig, History, fit
from pathtune._version import __version__
from pathtune.adapter import load_adapter, save_adapter
from pathtune.atomic_energies import E0Fit, refit_e0
from pathtune.calculator import calculator
from pathtune.data import LabelKeys, demo_file, read_structures
from pathtune.errors import InputError
from pathtune.evaluation import evaluate
from pathtune.guidance import ShareChoice, choose_share
from pathtune.loading import load, save
from pathtune.model import Potential, merge, paths, sparsify, unfreeze
from pathtune.sparse_delta import SparseDelta

__all__ = [
    "E0Fit",
    "FitConfig",
    "History",
    "InputError",
    "LabelKeys",
    "Potential",
    "ShareChoice",
    "SparseDelta",
    "__version__",
    "calculator",
    "choose_share",
    "demo_file",
    "evaluate",
    "fit",
    "load",
    "load_adapter",
    "merge",
    "paths",
    "read_structures",
    "refit_e0",
    "save",
    "save_adapter",
    "sparsify",
    "unfreeze",
]
