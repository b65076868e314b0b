"""Magnetic moments as input: terms of the energy in m_i . m_j and |m_i|^2 (docs/magnetism.md)."""

from pathtune.adaptations.spin.adaptation import Spin
from pathtune.adaptations.spin.options import SpinLayer

__all__ = ["Spin", "SpinLayer"]
