"""A loaded adapter: its W' are computed once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pathtune.adaptations.base import Adaptation
from pathtune.data import Comparison, EnergyTerm, Predictor
from pathtune.layers import Layer, Weights
from pathtune.watching import Watch


class Frozen(Adaptation):
    """Another adaptation without anything to train; its kind, tensors and counts are those of the other.

    The W' are kept as long as the W that they were made of are the same tensors, unchanged.
    """

    def __init__(self, inner: Adaptation):
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.backbone = inner.backbone
        self.replaces = inner.replaces  # type: ignore[misc]
        self._watch = Watch()  # of the W
        self._kept: Weights = {}

    @property
    def kind(self) -> str:  # type: ignore[override]
        """Of the adaptation that is frozen."""
        return self.inner.kind

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of the adaptation that is frozen."""
        return self.inner.inputs

    def layers(self) -> Sequence[Layer]:
        """Layers whose weights differ."""
        return self.inner.layers()

    def writes(self) -> frozenset[str]:
        """Names of the parameters that `weights` gives."""
        return self.inner.writes()

    def weights(self, parameters: Mapping[str, Any], plain: frozenset[str] = frozenset()) -> Weights:
        """W' by parameter name, plain tensors; not differentiable, unless the W are."""
        bases = [parameters[name] for name in sorted(self.writes())]
        if any(base.requires_grad for base in bases):
            return self.inner.weights(parameters, self.writes())
        if self._watch.has_changed(bases):
            with torch.no_grad():
                self._kept = self.inner.weights(parameters, self.writes())
        return dict(self._kept)

    def energy_term(self) -> EnergyTerm | None:
        """Of the adaptation that is frozen."""
        return self.inner.energy_term()

    def predictors(self) -> Mapping[str, Predictor]:
        """Of the adaptation that is frozen."""
        return self.inner.predictors()

    def comparisons(self) -> Mapping[str, Comparison]:
        """Of the adaptation that is frozen."""
        return self.inner.comparisons()

    def trainable(self) -> list[torch.nn.Parameter]:
        """Nothing."""
        return []

    def tensors(self, atomic_numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Of the adaptation that is frozen."""
        return self.inner.tensors(atomic_numbers)

    def scaled(self, weight: float) -> Adaptation:
        """Of the adaptation that is frozen."""
        scaled = Frozen(self.inner.scaled(weight))
        scaled.base, scaled.elements = self.base, self.elements
        return scaled

    def n_changed(self) -> int:
        """Of the adaptation that is frozen."""
        return self.inner.n_changed()
