"""What `pathtune.importance` returns; every field is a plain value, so that `as_dict` can be written as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from pathtune.importance.counts import RateLine


@dataclasses.dataclass(frozen=True)
class GroupRow:
    """One group: a degree l, or the rest. Shares are of all groups' sum."""

    group: str  # "l = 0", ..., or "rest"
    weights: int
    reachable: int  # with the elements at hand
    changed: int
    changed_share: float  # of all changed weights
    shapley: float  # of the loss that tuning took off, in its units
    shapley_share: float | None  # None where tuning took nothing off
    left_out: float  # rise of the loss when this group alone goes back to the base
    integrated: float | None  # None where integrated gradients do not add up
    integrated_share: float | None
    fisher_share: float | None  # of the base's Fisher information of g W


@dataclasses.dataclass(frozen=True)
class PartRow:
    """One path of one layer."""

    layer: str
    kind: str
    path: str
    group: str
    weights: int
    reachable: int
    changed: int
    rate: float | None  # changed over reachable
    predicted_rate: float | None  # by the base's Fisher information
    fisher: float | None  # mean F_i W_i^2 of the reachable weights
    relative_change: float | None  # rms of D over rms of W, of the reachable weights
    integrated: float | None
    integrated_share: float | None


@dataclasses.dataclass(frozen=True)
class ElementRow:
    """Weights of species linears of one element and degree."""

    element: str
    group: str
    reachable: int  # 0: the data do not contain the element
    changed: int
    rate: float | None
    predicted_rate: float | None  # by the line of the parts, at these weights' Fisher information
    fisher: float | None  # mean F_i W_i^2 of the reachable weights
    integrated_share: float | None  # of the loss that tuning took off


@dataclasses.dataclass(frozen=True)
class Importance:
    """Who did what in a tuned model, on a set of structures (docs/interpretation.md)."""

    n_structures: int
    n_atoms: int
    loss_base: float  # with the base's weights and the tuned model's E0
    loss_tuned: float
    groups: tuple[GroupRow, ...]
    coalitions: tuple[tuple[tuple[str, ...], float], ...]  # groups whose weights are the tuned ones, and the loss
    parts: tuple[PartRow, ...]
    elements: tuple[ElementRow, ...]  # empty where the backbone has no species linears, or none was adapted
    nodes: int  # of the integrated gradients
    completeness: float  # their sum over what tuning took off; 1 where they add up
    is_complete: bool  # within 5 %; where not, integrated values are None
    rate_line: RateLine | None  # between rates and Fisher information
    anisotropy: tuple[tuple[int, float, float], ...]  # l, mean and standard deviation of q_l over the atoms

    @property
    def removed(self) -> float:
        """The loss that tuning took off."""
        return self.loss_base - self.loss_tuned

    def of(self, group: str) -> GroupRow:
        """One group's row."""
        return next(row for row in self.groups if row.group == group)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)
