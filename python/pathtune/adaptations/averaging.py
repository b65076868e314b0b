"""How schedule-free training steps and averages, from the length of the run.

    y = (1 - beta1) z + beta1 x        where gradients are taken; z moves by the step, x is the average of the z
    x <- x + (w_k / sum w) (z - x)     w_k = k^r lr_k^2

Source: Defazio et al., The Road Less Scheduled (2024). beta1 must follow the length of the run: 1 - beta1 is the part
of the last iterate in the point where gradients are taken, and a long run needs it near the average. Figures:
docs/decisions/0010-optimiser.md.
"""

from __future__ import annotations

import math
from typing import Any

BETA2 = 0.999  # of the squared gradients
STEPS = 12.0  # 1 - beta1 is this over the number of steps
LEAST = 0.9  # of beta1
MOST = 0.998
LONGEST = 2500  # steps, beyond which rates were not tried and do not grow
POWER = 1.0  # r: later iterates count more


def beta1_for(n_steps: int, steps: float = STEPS) -> float:
    """beta1 for an average over `n_steps` steps: 1 - steps / n_steps, between 0.9 and 0.998."""
    return min(MOST, max(LEAST, 1.0 - steps / max(1, n_steps)))


def rate_for(n_steps: int, rate: float) -> float:
    """Learning rate of a run: `rate` times the root of its steps, of which no more count than were tried."""
    return rate * math.sqrt(min(n_steps, LONGEST))


def averaging(beta1: float) -> dict[str, Any]:
    """What a group of schedulefree's optimizer is given."""
    return {"betas": (beta1, BETA2), "r": POWER}
