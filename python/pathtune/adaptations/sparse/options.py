"""What a user asks of a sparse delta: where it starts, which weights it may change, how many of them at the end."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from pathtune.errors import InputError
from pathtune.options import check_fields, option

THRESHOLD_DECAY = {"L": 0.01, "H": 0.3}  # the paper's configurations: low and high sparsity
SCOPES = ("linear", "contraction", "radial")
SCORES = ("random", "gradient", "fisher", "gradient_weight")
DEFAULT_SHARE = 0.03
SCORED_SHARE = 0.25  # of the weights, where a score chooses the first candidates
AUTO, SWEEP = "auto", "sweep"  # words in the place of a share
IDENTITY_ONLY = ("initial_share", "score", "layer_limit", "regrow")
PAPER_ONLY = ("schedule", "threshold_decay", "threshold", "initial_std", "initial_threshold")

# Of the steps until `by_step`: so long every candidate stays, before their number falls.
HOLD = 1 / 6
BY_STEP = 0.7  # of the run, where the user names no step


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseDelta:
    """How a sparse delta is laid out, started, and narrowed to the share of weights that was asked.

    Two starts. "identity": a zero delta on a part of the weights, so that step 0 is the user's model; the
    candidates are narrowed to `active_share` (docs/theory.md). "paper": a small random delta
    on all weights with trained thresholds, whose decay decides how many stay active; with an `active_share`,
    without thresholds, it is narrowed as the other is.
    """

    RENAMED: ClassVar = {"start": "delta_start"}  # torchrun takes --start for its own

    delta_start: str | None = option(None, "identity (default) or paper", choices=("identity", "paper"))
    active_share: float | str | None = option(
        None,
        "share of the reachable adapted weights that may change at the end "
        f"({DEFAULT_SHARE} from an identity start); auto: by the amount of data; sweep: by short runs",
        words=(AUTO, SWEEP),
    )
    by_step: int | None = option(None, f"training step that reaches active_share ({BY_STEP:.0%} of the run)")
    initial_share: float | None = option(
        None,
        "identity start: share of the weights that begin as candidates "
        f"(all, or {SCORED_SHARE} where a score chooses them)",
    )
    score: str = option("random", "identity start: what chooses the first candidates", choices=SCORES)
    layer_limit: float = option(1.0, "largest share of one layer's reachable weights that stays at the end")
    regrow: float = option(0.0, "share of the candidates that each narrowing swaps for untried ones, by gradient")
    lr_growth: float = option(0.5, "the learning rate grows to lr as the share falls, with this power; 0: constant")
    scope: tuple[str, ...] = option(("linear",), "kinds of layers to adapt: linear, contraction, radial")
    targets: tuple[str, ...] = option(("*",), "glob patterns of the layers to adapt")
    schedule: str | None = option(None, "paper start: threshold decay L (0.01) or H (0.3, default)", choices=("L", "H"))
    threshold_decay: float | None = option(None, "paper start: threshold decay as a number, instead of a schedule")
    threshold: str = option("per_layer", "paper start: how many thresholds", choices=("per_layer", "per_path"))
    initial_std: float = option(0.01, "paper start: D ~ N(0, std^2)")
    initial_threshold: float = option(1e-3, "paper start: d")
    delta_decay: float = option(1e-8, "weight decay of D")

    def __post_init__(self):
        check_fields(self)
        for name in ("active_share", "initial_share", "layer_limit"):  # None: see the properties below
            value = getattr(self, name)
            if value not in (None, AUTO, SWEEP) and not 0 < value <= 1:
                raise InputError(f"{name} is {value}, expected a share in (0, 1]")
        if not 0 <= self.regrow < 1:
            raise InputError(f"regrow is {self.regrow}, expected a share in [0, 1)")
        if not 0 <= self.lr_growth <= 1:
            raise InputError(f"lr_growth is {self.lr_growth}, expected a number in [0, 1]")
        if self.by_step is not None and self.by_step < 1:
            raise InputError(f"by_step is {self.by_step}, expected at least 1")
        if not self.scope or set(self.scope) - set(SCOPES):
            raise InputError(f"scope is {' '.join(self.scope)!r}, expected some of {', '.join(SCOPES)}")
        self._check_paper()

    def _check_paper(self) -> None:
        for name in IDENTITY_ONLY if self.is_paper else PAPER_ONLY:
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default:
                mine, other = ("paper", "identity") if self.is_paper else ("identity", "paper")
                raise InputError(
                    f"{name} is {value!r} beside delta_start {mine!r}, expected it with delta_start {other!r} only"
                )
        if self.threshold_decay is not None and self.threshold_decay < 0:
            raise InputError(f"threshold_decay is {self.threshold_decay}, expected at least 0")
        if not 0 < self.initial_threshold < 1:
            raise InputError(f"initial_threshold is {self.initial_threshold}, expected a number in (0, 1)")
        if self.initial_std < 0:
            raise InputError(f"initial_std is {self.initial_std}, expected at least 0")
        if self.is_paper and self.active_share and (self.schedule or self.threshold_decay is not None):
            raise InputError("active_share is given beside a schedule or threshold_decay, expected only one of them")

    @property
    def is_paper(self) -> bool:
        """Whether the delta starts as the paper's; naming its schedule says so."""
        if self.delta_start is not None:
            return self.delta_start == "paper"
        return bool(self.schedule or self.threshold_decay is not None)

    @property
    def has_thresholds(self) -> bool:
        """Whether trained thresholds decide what is active; with a share to reach, narrowing does."""
        return self.final_share is None

    @property
    def decay(self) -> float:
        """The threshold decay in force."""
        return THRESHOLD_DECAY[self.schedule or "H"] if self.threshold_decay is None else self.threshold_decay

    @property
    def final_share(self) -> float | None:
        """The active share to reach; None where the paper's decay decides. InputError while it is a word."""
        if isinstance(self.active_share, str):
            raise InputError(
                f"active_share is {self.active_share!r}, expected a number here: share_for or choose_share finds one"
            )
        return DEFAULT_SHARE if self.active_share is None and not self.is_paper else self.active_share

    @property
    def first_share(self) -> float:
        """Share of the weights that are candidates at step 0."""
        if self.is_paper:
            return 1.0
        asked = self.initial_share or (1.0 if self.score == "random" else SCORED_SHARE)
        return max(asked, self.final_share or 0.0)

    def reached_by(self, n_steps: int) -> int:
        """The step of a run of `n_steps` at which the share is reached."""
        return self.by_step or max(1, round(BY_STEP * n_steps))

    def share_at(self, step: int, by_step: int) -> float:
        """Share of the candidates after `step`: held for a sixth of by_step, then falling exponentially.

        From first_share to final_share, a straight line in the logarithm; a smooth path that loses a like
        fraction of the candidates at each narrowing.
        """
        final, hold = self.final_share, HOLD * by_step
        if final is None or step <= hold:
            return self.first_share
        fallen = min(1.0, (step - hold) / (by_step - hold))
        return self.first_share * (final / self.first_share) ** fallen

    def rate_at(self, step: int, by_step: int) -> float:
        """Learning rate after `step`, of the asked one: (final_share / share)^lr_growth; without a share, 1."""
        final = self.final_share
        return 1.0 if final is None else (final / self.share_at(step, by_step)) ** self.lr_growth
