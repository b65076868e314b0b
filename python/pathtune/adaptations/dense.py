"""Training a copy of the weights themselves: all of them, or the readouts only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pathtune.adaptations.averaging import rate_for
from pathtune.adaptations.base import Adaptation

if TYPE_CHECKING:
    from pathtune.model import Potential

RATE = 8e-4  # per root of a step (docs/decisions/0010-optimiser.md)


class Full(Adaptation):
    """Full fine-tuning: every weight of a copy of the backbone."""

    kind: ClassVar[str] = "full"
    is_stored: ClassVar[bool] = False
    replaces: ClassVar[bool] = True

    def __init__(self, backbone: Any):
        """`backbone`: the copy, whose weights are trained in place."""
        super().__init__()
        self.backbone = backbone
        for name, parameter in backbone.parameters.items():
            parameter.requires_grad_(parameter.is_floating_point() and self.trains(name))

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: Any, seed: int) -> Adaptation:
        """A copy of the weights that `base` has; there is nothing to ask."""
        return cls(base.backbone.copy())

    def learning_rate(self, n_steps: int) -> float:
        """It grows with the root of the run's length: 0.012 for 240 steps, 0.038 for 2,280."""
        return rate_for(n_steps, RATE)

    def trains(self, name: str) -> bool:
        """Whether the parameter `name` of the backbone is trained."""
        return True

    def trainable(self) -> list[torch.nn.Parameter]:
        """The weights, in the order of the stock model."""
        return [p for p in self.backbone.stock.parameters() if p.requires_grad]


class Readout(Full):
    """The readouts only."""

    kind: ClassVar[str] = "readout"

    def trains(self, name: str) -> bool:
        """Whether the parameter belongs to a readout."""
        return name.startswith(self.backbone.readouts)
