"""pathtune: sparse fine-tuning of equivariant interatomic potentials.

The verbs of docs/api.md. Importing this package imports torch, but no backbone's package.
"""

import os

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it once: docs/decisions/0005-large-blocks.md

from pathtune._version import __version__
from pathtune.adaptations import Adaptation, LengthHead, SparseDelta, SpinLayer, register_adaptation
from pathtune.adapter_file import load_adapter, save_adapter
from pathtune.adapter_tools import blend, extract
from pathtune.adapting import adapt, merge, paths, sparsify, unfreeze
from pathtune.atomic_energies import E0Fit, refit_e0
from pathtune.calculator import calculator
from pathtune.comparing import CompareOptions, compare
from pathtune.data import Label, LabelKeys, Source, Structure, demo_file, read_structures, register_label
from pathtune.errors import InputError
from pathtune.evaluation import evaluate
from pathtune.guidance import ShareChoice, choose_share, share_for
from pathtune.importance import Importance, importance
from pathtune.loading import export, load, save
from pathtune.model import Potential
from pathtune.training import FitConfig, History, fit

__all__ = [
    "Adaptation",
    "CompareOptions",
    "E0Fit",
    "FitConfig",
    "History",
    "Importance",
    "InputError",
    "Label",
    "LabelKeys",
    "LengthHead",
    "Potential",
    "ShareChoice",
    "Source",
    "SparseDelta",
    "SpinLayer",
    "Structure",
    "__version__",
    "adapt",
    "blend",
    "calculator",
    "choose_share",
    "compare",
    "demo_file",
    "evaluate",
    "export",
    "extract",
    "fit",
    "importance",
    "load",
    "load_adapter",
    "merge",
    "paths",
    "read_structures",
    "refit_e0",
    "register_adaptation",
    "register_label",
    "save",
    "save_adapter",
    "share_for",
    "sparsify",
    "unfreeze",
]
