"""Adaptations: what can be done to a pretrained potential. One file for each kind; docs/design.md."""

from pathtune.adaptations.base import (
    Adaptation,
    Controller,
    adaptation_class,
    adaptation_kinds,
    option_sections,
    register_adaptation,
    unregister_adaptation,
)
from pathtune.adaptations.composition import Composition
from pathtune.adaptations.dense import Full, Readout, Scratch, Tuned
from pathtune.adaptations.frozen import Frozen
from pathtune.adaptations.kronecker import Kronecker
from pathtune.adaptations.low_rank import LowRank
from pathtune.adaptations.modulation import Modulation
from pathtune.adaptations.moment_length import LengthHead, MomentLength
from pathtune.adaptations.pull import Pull
from pathtune.adaptations.sparse import Sparse, SparseDelta
from pathtune.adaptations.spin import Spin, SpinLayer
from pathtune.adaptations.stored import Stored

register_adaptation(Sparse)
register_adaptation(Full)
register_adaptation(Kronecker)
register_adaptation(Readout)
register_adaptation(Scratch)
register_adaptation(LowRank)
register_adaptation(Modulation)
register_adaptation(Pull)
register_adaptation(Spin)
register_adaptation(MomentLength)

__all__ = [
    "Adaptation",
    "Composition",
    "Controller",
    "Frozen",
    "Full",
    "Kronecker",
    "LengthHead",
    "LowRank",
    "Modulation",
    "MomentLength",
    "Pull",
    "Readout",
    "Scratch",
    "Sparse",
    "SparseDelta",
    "Spin",
    "SpinLayer",
    "Stored",
    "Tuned",
    "adaptation_class",
    "adaptation_kinds",
    "option_sections",
    "register_adaptation",
    "unregister_adaptation",
]
