"""From many candidates to the share of weights that was asked, while training goes on.

With a share to reach there is no threshold: every candidate is active, and those of the smallest saliency are
dropped for good, with their optimizer state, until the share that SparseDelta.share_at asks for is left:

    saliency = |D| v^(1/4)         v: Adam's running mean of the squared gradient

Between the magnitude |D| and the loss that a removal costs to second order, |D| v^(1/2) in the root (LeCun et
al., Optimal Brain Damage, 1990, with v in place of the curvature); why not thresholds, and what was tried, is in
docs/decisions/0006-narrowing.md.

The learning rate grows as the candidates get fewer, and is the one that was asked from `by_step` on:

    lr_t = lr (final_share / share_t)^lr_growth         SparseDelta.rate_at

Adam moves every weight by about lr, all of them together by lr sqrt(n): with 1/2 a step keeps its length. And
schedule-free training averages its iterates with weights lr_t^2, so that those of the wider sets count little.

With the paper's thresholds an inactive entry is dropped once |x|, |y| and |z| are all below d (docs/theory.md):
without a gradient it stays within their hull, so that it cannot come back unless d falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pathtune.adaptations.base import Controller
from pathtune.adaptations.sparse.delta import DeltaParameter
from pathtune.adaptations.sparse.options import HOLD, SparseDelta
from pathtune.errors import InputError

if TYPE_CHECKING:
    from pathtune.adaptations.sparse.adaptation import Sparse

REGROW_UNTIL = 0.8  # of by_step: what comes later has no time to grow
RESTART_STEPS = 500  # so many must be left after the last narrowing, for an average that begins anew there
RESTART_SHARE = 0.05  # of the weights at the end, above which little is dropped that the average would have to forget
N_NARROWINGS = 150  # until by_step: each drops 2 % of the candidates on the way from all to 3 %


class Narrowing(Controller):
    """Narrows a sparse delta as its optimizer trains it. Holds no state but the plan."""

    def __init__(self, sparse: Sparse, optimizer: Any, groups: slice, n_steps: int):
        """`groups`: which of the optimizer's are the delta's. Raises InputError as check_by_step."""
        config = sparse.config
        check_by_step(config, n_steps)
        self.config = config
        self.optimizer = optimizer
        self._which = groups
        self.deltas: list[DeltaParameter] = sparse.deltas
        self.reachable = sparse.reachable
        self.n_reachable = sum(d.n_reachable for d in self.deltas)
        self.n_steps = n_steps
        self.by_step = config.reached_by(n_steps)
        self.interval = narrowing_interval(self.by_step)
        self.rates: list[float] = [group["lr"] for group in self.groups]
        self._set_rate(0)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The delta's groups of the optimizer, which makes them anew when its state is loaded."""
        return self.optimizer.param_groups[self._which]

    def after_step(
        self, step: int, dense_gradients: Callable[[], Mapping[str, torch.Tensor]] | None = None
    ) -> bool | None:
        """Narrow, where it is time. `dense_gradients`: by parameter name, called only to regrow."""
        self._set_rate(step)
        if self.config.final_share is None or (step % self.interval and step != self.by_step):
            return False
        has_changed = False
        if step <= self.by_step:
            n_keep = self._n_at(step)
            has_changed = self._narrow(n_keep)
            is_last, is_few = step == self.by_step, self.config.final_share <= RESTART_SHARE
            if is_last and is_few and self.n_steps - step >= RESTART_STEPS:
                self._restart_average()
            if self.config.regrow and dense_gradients and step <= REGROW_UNTIL * self.by_step:
                self._regrow(n_keep, dense_gradients())
                has_changed = True
        return has_changed

    @torch.no_grad()
    def after_epoch(self) -> None:
        """With the paper's thresholds: drop what cannot come back."""
        if self.config.has_thresholds:
            drop_dead(self.deltas, [self._sequences(d) for d in self.deltas], self._state)

    def is_reached(self, step: int) -> bool:
        """Whether the share holds from `step` on, so that a model may be kept as the best."""
        return self.config.final_share is None or step >= self.by_step

    def _set_rate(self, step: int) -> None:
        for group, rate in zip(self.groups, self.rates):
            group["lr"] = rate * self.config.rate_at(step, self.by_step)

    @torch.no_grad()
    def _narrow(self, n_keep: int) -> bool:
        """Keep so many candidates; whether any was dropped."""
        if n_keep >= sum(d.values.numel() for d in self.deltas):
            return False
        scores = [saliency(d.values, self._state(d).get("exp_avg_sq")) for d in self.deltas]
        caps = [math.ceil(self.config.layer_limit * d.n_reachable) for d in self.deltas]
        for d, keep in zip(self.deltas, largest(scores, n_keep, caps)):
            kept = keep.nonzero().squeeze(1)
            if kept.numel() < keep.numel():
                keep_candidates(d, kept, self._state(d))
        return True

    @torch.no_grad()
    def _restart_average(self) -> None:
        """Begin the average anew at the average itself, x = y = z: what it held was of wider sets of candidates."""
        for d in self.deltas:
            x, _, _ = self._sequences(d)
            d.values.copy_(x)
            if "z" in self._state(d):
                self._state(d)["z"].copy_(x)
        for group in self.groups:
            group["weight_sum"] = 0.0
            group["lr_max"] = -1.0

    @torch.no_grad()
    def _regrow(self, n_keep: int, dense_gradients: Mapping[str, torch.Tensor]) -> None:
        """Swap the least salient candidates for as many others, those of the largest gradient.

        A newcomer starts at zero with its own squared gradient as v, so that its first step is an ordinary one.
        """
        n_swap = int(self.config.regrow * n_keep)
        self._narrow(n_keep - n_swap)
        reachable = [self.reachable[d.layer.name] for d in self.deltas]
        dense = [dense_gradients[d.layer.parameter].flatten()[r] for d, r in zip(self.deltas, reachable)]
        outside = []
        for d, r, g in zip(self.deltas, reachable, dense):
            is_candidate = torch.isin(r, d.indices, assume_unique=True)
            outside.append(torch.where(is_candidate, -1.0, g.abs()))
        newcomers = largest(outside, n_swap, [o.numel() for o in outside])
        for d, r, g, new in zip(self.deltas, reachable, dense, newcomers):
            if bool(new.any()):
                add_candidates(d, r[new], g[new], self._state(d))

    def _n_at(self, step: int) -> int:
        return max(1, round(self.config.share_at(step, self.by_step) * self.n_reachable))

    def _state(self, d: DeltaParameter) -> dict[str, Any]:
        return self.optimizer.state.get(d.values, {})

    def _sequences(self, d: DeltaParameter) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x, y and z of schedule-free training: y = (1 - beta1) z + beta1 x is what the Parameter holds."""
        y = d.values.detach()
        z = self._state(d).get("z", y)
        beta1 = self.groups[0]["betas"][0]
        return torch.lerp(z, y, 1 / beta1), y, z


def narrowing_interval(by_step: int) -> int:
    """Steps from one narrowing to the next."""
    return max(1, round(by_step * (1 - HOLD) / N_NARROWINGS))


def check_by_step(config: SparseDelta, n_steps: int) -> None:
    """Raise InputError when the share is to be reached after the last of `n_steps`."""
    if config.by_step and config.by_step > n_steps:
        raise InputError(f"by_step is {config.by_step}, expected at most the {n_steps} steps of the run")


def saliency(values: torch.Tensor, mean_square: torch.Tensor | None) -> torch.Tensor:
    """|D| v^(1/4) [n_candidates]; before the first step, where there is no v, |D|."""
    magnitude = values.detach().abs()
    return magnitude if mean_square is None else magnitude * mean_square.sqrt().sqrt()


def largest(scores: Sequence[torch.Tensor], n: int, caps: Sequence[int]) -> list[torch.Tensor]:
    """Masks of the `n` largest scores of all together, at most `caps[i]` of them from scores[i]."""
    allowed = [_mask_of_largest(score, min(cap, score.numel())) for score, cap in zip(scores, caps)]
    ranked = torch.cat([torch.where(m, s, -1.0) for m, s in zip(allowed, scores)])
    chosen = _mask_of_largest(ranked, min(n, sum(min(cap, s.numel()) for s, cap in zip(scores, caps))))
    return list(chosen.split([s.numel() for s in scores]))


def _mask_of_largest(score: torch.Tensor, n: int) -> torch.Tensor:
    """Of exactly `n`, by the few that are dropped where most stay. Not sorted: that took most of a narrowing's time."""
    n_dropped = score.numel() - n
    mask = torch.ones_like(score, dtype=torch.bool)
    if n_dropped < n:
        return mask.index_fill_(0, score.topk(n_dropped, largest=False, sorted=False).indices, False)
    return mask.logical_not_().index_fill_(0, score.topk(n, sorted=False).indices, True)


def keep_candidates(d: DeltaParameter, kept: torch.Tensor, state: dict[str, Any]) -> None:
    """Drop the candidates that are not among `kept` [n_kept], ascending, and what the optimizer holds of them."""
    n = d.values.numel()
    for name, value in state.items():
        if torch.is_tensor(value) and value.shape == (n,):
            state[name] = value.index_select(0, kept)
    d.set_candidates(d.indices.index_select(0, kept), d.values.detach().index_select(0, kept))


def add_candidates(d: DeltaParameter, indices: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any]) -> None:
    """More candidates, at zero."""
    merged, order = torch.cat([d.indices, indices]).sort()
    n = d.values.numel()
    zeros = torch.zeros_like(gradient)
    for name, value in state.items():
        if torch.is_tensor(value) and value.shape == (n,):
            new = gradient.square() if name == "exp_avg_sq" else zeros
            state[name] = torch.cat([value, new])[order]
    d.set_candidates(merged, torch.cat([d.values.detach(), zeros])[order])


def drop_dead(deltas: Sequence[DeltaParameter], sequences: Sequence[Sequence[torch.Tensor]], state_of) -> None:
    """Drop the entries whose x, y and z all lie below their threshold."""
    for d, parts in zip(deltas, sequences):
        threshold = d.threshold[d.segment] if d.segment.numel() else d.threshold
        is_alive = torch.stack([part.abs() for part in parts]).amax(0) > threshold
        if not bool(is_alive.all()):
            keep_candidates(d, is_alive.nonzero().squeeze(1), state_of(d))
