"""What a comparison is asked to do."""

from __future__ import annotations

import dataclasses

from pathtune.errors import InputError
from pathtune.options import check_fields, check_positive, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Which arms are compared, with which care, on which structures."""

    train: tuple[str, ...] | None = option(None, "labelled structures to train on: files, globs, slices")
    valid: tuple[str, ...] | None = option(None, "labelled structures that choose epochs and learning rates")
    valid_fraction: float | None = option(None, "in their place this share of --train, drawn by the first seed")
    test: tuple[str, ...] | None = option(None, "labelled structures that nothing is chosen on")
    known: tuple[str, ...] | None = option(
        None, "labelled structures of what the base knows: errors on them before and after say what was forgotten"
    )
    replay: str | None = option(None, "structures of what the base knows, mixed into the training of every arm")
    out: str | None = option(None, "folder to make, or to go on in")
    max_frames: int | None = option(None, "only the first so many training structures")
    arms: tuple[str, ...] = option(
        ("full", "sparse", "lora"), "what to compare: kinds of adaptation, several joined by +, as in sparse+lora"
    )
    active_share: tuple[float, ...] = option((0.03,), "shares of the reachable weights, an arm for each with sparse")
    rank: tuple[int, ...] = option((4,), "ranks, an arm for each with lora")
    n_rates: int = option(3, "learning rates tried for every arm, a factor of two apart, around its default")
    more_rates: int = option(
        2, "at most so many more, one by one, beyond the highest or lowest where it was the best; none with --lrs"
    )
    lrs: tuple[float, ...] = option((), "learning rates tried for every arm, in the place of --n-rates")
    seeds: tuple[int, ...] = option((0,), "of order and start; the first one chooses the learning rate")
    equal: str = option(
        "steps", "what every arm gets the same of; seconds: epochs by the times of a step", choices=("steps", "seconds")
    )
    jobs: int = option(1, "runs at the same time, each on its share of the threads")

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "n_rates", "jobs")
        for name in ("arms", "seeds", "active_share", "rank"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                given = " ".join(map(str, values)) or "empty"
                raise InputError(f"{name} is {given}, expected one or several that differ")
        if self.more_rates < 0:
            raise InputError(f"more_rates is {self.more_rates}, expected at least 0")
        for lr in self.lrs:
            if not lr > 0:
                raise InputError(f"lrs has {lr}, expected numbers above 0")
        if len({f"{lr:g}" for lr in self.lrs}) < len(self.lrs):
            raise InputError(f"lrs is {' '.join(map(str, self.lrs))}, expected numbers that differ in six digits")
        for seed in self.seeds:
            if seed < 0:
                raise InputError(f"seeds has {seed}, expected numbers of at least 0")
