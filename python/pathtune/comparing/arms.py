"""What is compared: arms, their runs, and the options that each run has as `pathtune fit` would take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pathtune.adaptations import SparseDelta, adaptation_class, adaptation_kinds
from pathtune.adaptations.low_rank import LowRankOptions
from pathtune.comparing.options import CompareOptions
from pathtune.data import LabelKeys
from pathtune.errors import InputError
from pathtune.options import fields_of
from pathtune.training import FitConfig
from pathtune.training.run import ModelOptions, RunOptions

NAMES = {  # beside the kind's own
    "full": "full fine-tuning",
    "kron": "full, Kronecker basis",
    "scratch": "from scratch",
    "lora": "low rank",
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """Kinds of adaptation that build on one another, with the size that was asked of them."""

    kinds: tuple[str, ...]
    share: float | None = None  # of the reachable weights, of a sparse delta
    rank: int | None = None  # of low rank

    @property
    def key(self) -> str:
        """In names of folders."""
        share = "" if self.share is None else f"_share{self.share:g}"
        rank = "" if self.rank is None else f"_rank{self.rank}"
        return "+".join(self.kinds) + share + rank

    @property
    def title(self) -> str:
        """For a reader."""
        words = [" + ".join(NAMES.get(kind, kind) for kind in self.kinds)]
        words += [] if self.share is None else [f"{100 * self.share:.3g} %"]
        words += [] if self.rank is None else [f"rank {self.rank}"]
        return ", ".join(words)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run."""

    arm: Arm
    lr: float
    seed: int
    epochs: int
    is_first: bool = True  # whether its seed is the one that chooses the learning rate

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm.key}_lr{self.lr:g}" + ("" if self.is_first else f"_seed{self.seed}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that is asked of a comparison."""

    compare: CompareOptions
    model: ModelOptions
    data: LabelKeys = dataclasses.field(default_factory=LabelKeys)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    kinds: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # options of kinds of adaptation, by section

    def sections(self) -> dict[str, Any]:
        """As a config file holds it."""
        return {"compare": self.compare, "model": self.model, "data": self.data, **self.kinds, "fit": self.fit}


def arms_of(plan: Plan) -> list[Arm]:
    """The arms in the order in which they were named; InputError for an unknown kind, and for options of none."""
    asked = plan.compare
    arms = []
    for word in asked.arms:
        kinds = tuple(word.split("+"))
        if len(set(kinds)) < len(kinds):
            raise InputError(f"arms has {word!r}, expected each kind once in an arm")
        for kind in kinds:
            if kind not in adaptation_kinds():
                known = ", ".join(adaptation_kinds())
                raise InputError(f"arms has {word!r}, expected some of {known}, or several of them joined by +")
        shares = asked.active_share if "sparse" in kinds else (None,)
        ranks = asked.rank if "lora" in kinds else (None,)
        arms += [Arm(kinds, share, rank) for share in shares for rank in ranks]
    named = {kind for arm in arms for kind in arm.kinds}
    for option_name, kind in (("active_share", "sparse"), ("rank", "lora")):
        if kind not in named and getattr(asked, option_name) != _default(CompareOptions, option_name):
            raise InputError(f"{option_name} is given, but no arm has {kind}, expected {kind} among the arms")
    _check_kinds(plan, named)
    _check_several(plan)
    return arms


def _check_several(plan: Plan) -> None:
    """Raise InputError for an option of one run in whose place a comparison has a list."""
    delta, lora = plan.kinds.get("delta"), plan.kinds.get("lora")
    asked = {
        "lr": (plan.fit.lr, FitConfig.lr, "lrs"),
        "seed": (plan.fit.seed, FitConfig.seed, "seeds"),
        "active_share": (getattr(delta, "active_share", None), None, "active_share of [compare]"),
        "rank": (getattr(lora, "rank", LowRankOptions.rank), LowRankOptions.rank, "rank of [compare]"),
    }
    for name, (value, default, instead) in asked.items():
        if value != default:
            raise InputError(f"{name} is {value!r} for all arms, expected {instead}, from which each run has its own")


def _check_kinds(plan: Plan, named: set[str]) -> None:
    """Raise InputError for an option that differs from its default and is of a kind that no arm names."""
    used = {adaptation_class(kind).section for kind in named}
    for section, options in plan.kinds.items():
        for field in fields_of(type(options)):
            if section not in used and getattr(options, field.name) != field.default:
                raise InputError(
                    f"{field.name} is {getattr(options, field.name)!r}, which no arm reads, "
                    f"expected an arm with options of section [{section}]"
                )


def _default(cls: type, name: str) -> Any:
    return next(field.default for field in fields_of(cls) if field.name == name)


def sections_of(trial: Trial, plan: Plan) -> dict[str, Any]:
    """What a config file of `pathtune fit` would say of this run."""
    asked, arm = plan.compare, trial.arm
    run = RunOptions(
        train=asked.train,
        valid=asked.valid,
        valid_fraction=asked.valid_fraction,
        test=asked.test,
        replay=asked.replay,
        arm=arm.kinds,
        max_frames=asked.max_frames,
    )
    fit = dataclasses.replace(plan.fit, lr=trial.lr, seed=trial.seed, epochs=trial.epochs, keep_worse=True)
    return {"run": run, "model": plan.model, "data": plan.data, **kinds_of(arm, plan), "fit": fit}


def kinds_of(arm: Arm, plan: Plan) -> dict[str, Any]:
    """Options of the kinds of an arm, by section."""
    found = {}
    for cls in [adaptation_class(kind) for kind in arm.kinds]:
        if cls.options is None:
            continue
        found[cls.section] = plan.kinds.get(cls.section) or cls.options()
    if arm.share is not None:
        found["delta"] = dataclasses.replace(found.get("delta", SparseDelta()), active_share=arm.share)
    if arm.rank is not None:
        found["lora"] = dataclasses.replace(found.get("lora", LowRankOptions()), rank=arm.rank)
    return found


def by_arm(summaries: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Summaries of runs by the key of their arm, in order."""
    result: dict[str, list[dict[str, Any]]] = {}
    for summary in summaries:
        result.setdefault(summary["arm"], []).append(summary)
    return result
