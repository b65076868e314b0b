"""Training a copy of the weights themselves: all of them, those of chosen names, or the readouts only."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pathtune.adaptations.averaging import rate_for
from pathtune.adaptations.base import Adaptation
from pathtune.errors import InputError
from pathtune.options import check_fields, option

if TYPE_CHECKING:
    from pathtune.model import Potential

RATE = 8e-4  # per root of a step (docs/decisions/0010-optimiser.md)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullOptions:
    """Which of the weights full fine-tuning trains."""

    full_targets: tuple[str, ...] = option(("*",), "full: glob patterns of the parameters to train")
    freeze: tuple[str, ...] = option((), "full: glob patterns of the parameters to leave alone: interactions.0.*")

    def __post_init__(self):
        check_fields(self)

    def trains(self, name: str) -> bool:
        """Whether the parameter `name` of the backbone is trained."""
        return _matches(name, self.full_targets) and not _matches(name, self.freeze)


class Full(Adaptation):
    """Full fine-tuning: the weights of a copy of the backbone, every one by default."""

    kind: ClassVar[str] = "full"
    options: ClassVar[type | None] = FullOptions
    section: ClassVar[str] = "full"
    is_stored: ClassVar[bool] = False
    replaces: ClassVar[bool] = True

    def __init__(self, backbone: Any, config: FullOptions | None = None):
        """`backbone`: the copy, whose weights are trained in place.

        Raises InputError for a pattern that matches no parameter, and where none is left to train.
        """
        super().__init__()
        self.backbone = backbone
        self.config = config or FullOptions()
        _check_patterns(self.config, list(backbone.parameters))
        for name, parameter in backbone.parameters.items():
            parameter.requires_grad_(parameter.is_floating_point() and self.trains(name))

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: Any, seed: int) -> Adaptation:
        """A copy of the weights that `base` has; InputError as the constructor."""
        return cls(base.backbone.copy(), options)

    def learning_rate(self, n_steps: int) -> float:
        """It grows with the root of the run's length: 0.012 for 240 steps, 0.038 for 2,280."""
        return rate_for(n_steps, RATE)

    def __post_init__(self):
        check_fields(self)

    def trains(self, name: str) -> bool:
        """Whether the parameter `name` of the backbone is trained."""
        return self.config.trains(name)

    def trainable(self) -> list[torch.nn.Parameter]:
        """The weights, in the order of the stock model."""
        return [p for p in self.backbone.stock.parameters() if p.requires_grad]


class Readout(Full):
    """The readouts only."""

    kind: ClassVar[str] = "readout"
    options: ClassVar[type | None] = None
    section: ClassVar[str] = ""

    def __post_init__(self):
        check_fields(self)

    def trains(self, name: str) -> bool:
        """Whether the parameter belongs to a readout."""
        return name.startswith(self.backbone.readouts)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(config: FullOptions, names: Sequence[str]) -> None:
    for option_name in ("full_targets", "freeze"):
        for pattern in getattr(config, option_name):
            if not any(_matches(name, [pattern]) for name in names):
                known = ", ".join(names)
                raise InputError(f"{option_name}: {pattern!r} matches no parameter; the model has {known}")
    if not any(config.trains(name) for name in names):
        raise InputError(f"freeze is {' '.join(config.freeze)!r}, which leaves nothing to train, expected fewer")
