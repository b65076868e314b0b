"""Where the changed weights lie, beside where the base's Fisher information says that they will.

The rate of a part is its changed weights over its reachable ones. Counts follow the training rule, not the physics of
the data: docs/interpretation.md. The base's Fisher information of g W,

    F(part) = mean over the part's reachable weights of F_i W_i^2,

with F as adaptations/pull.py has it, knows nothing of the training but predicts the rates: log rate = a + b log F, by
least squares over the parts of this run. The correlation says how much of the pattern was there before training.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

LEAST_PARTS = 4  # below: no line is fitted


@dataclasses.dataclass(frozen=True)
class RateLine:
    """The line through log rate against log F."""

    slope: float
    intercept: float
    correlation: float  # Pearson's r of the logarithms
    n_parts: int  # that it was fitted to: those with a changed weight

    def at(self, fisher: float | None) -> float | None:
        """The rate that it predicts, at most 1."""
        return min(1.0, math.exp(self.intercept + self.slope * math.log(fisher))) if fisher else None


def rate_line(rates: Sequence[float | None], fishers: Sequence[float | None]) -> RateLine | None:
    """The line; None where there are too few parts, or no spread to fit."""
    pairs = [(math.log(f), math.log(r)) for r, f in zip(rates, fishers) if r and f]
    if len(pairs) < LEAST_PARTS:
        return None
    x, y = np.array(pairs).T
    if x.std() < 1e-9 or y.std() < 1e-9:  # of full fine-tuning: every rate is 1
        return None
    slope, intercept = np.polyfit(x, y, 1)
    return RateLine(float(slope), float(intercept), float(np.corrcoef(x, y)[0, 1]), len(pairs))
