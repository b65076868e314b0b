"""Magnitude modulation: W' = W (1 + g), one factor g for each output channel of each path.

A species linear has factors for each element of the training data. After the magnitude-modulated equivariant adapter
(MMEA: Jin et al., AAAI 2026, arXiv:2511.06696), which scales each channel of each order of the features by gates; here
the factors are constants, which the weights can hold. g starts at zero: step 0 is the base.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from pathtune.adaptations.averaging import rate_for
from pathtune.adaptations.base import Adaptation
from pathtune.adaptations.by_path import Block, ByPath, check_shape
from pathtune.adaptations.stored import Stored
from pathtune.options import check_fields, option

if TYPE_CHECKING:
    from pathtune.model import Potential

RATE = 4e-3  # per root of a step, that of low rank (docs/decisions/0011-arms.md)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModulationOptions:
    """What a user may ask of modulation."""

    modulation_targets: tuple[str, ...] = option(("*",), "modulation: glob patterns of the linears to adapt")

    def __post_init__(self):
        check_fields(self)


class Modulation(ByPath):
    """Factors of the output channels of each path of the linears."""

    kind: ClassVar[str] = "modulation"
    options: ClassVar[type | None] = ModulationOptions
    section: ClassVar[str] = "modulation"
    parts: ClassVar[tuple[str, ...]] = ("g",)

    def __init__(self, blocks: Sequence[Block], g: Sequence[torch.Tensor]):
        """`g` [mul_out], or [n_species, mul_out], of each block."""
        super().__init__(blocks, {"g": g})

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: ModulationOptions, seed: int) -> Adaptation:
        """Factors of one; InputError for targets that match no linear."""
        blocks = cls.blocks_of(base, elements, options.modulation_targets)
        g = [
            torch.zeros(_shape(block), dtype=base.backbone.parameters[block.layer.parameter].dtype) for block in blocks
        ]
        return cls(blocks, g).to(base.device)

    def delta(self, i: int, weights: torch.Tensor) -> torch.Tensor:
        """The weights of block i times g."""
        g = self.values("g")[i]
        return weights * (g.unsqueeze(1) if weights.dim() == 3 else g)

    def learning_rate(self, n_steps: int) -> float:
        """It grows with the root of the run's length."""
        return rate_for(n_steps, RATE)

    @classmethod
    def from_tensors(cls, base: Potential, stored: Stored) -> Adaptation:
        """The factors of a file; InputError, naming it, for those that do not fit `base`."""
        blocks, values = cls.read(base, stored)
        for block, g in zip(blocks, values["g"]):
            check_shape(stored, block, "g", g, _shape(block))
        return cls(blocks, values["g"]).to(base.device)


def _shape(block: Block) -> tuple[int, ...]:
    return (len(block.species), block.shape[-1]) if block.species else (block.shape[-1],)
