"""What a step of an arm costs: its time and the peak memory, each arm in a process of its own.

All probes take the same steps on the same batches. A step of a sparse arm is longest while all weights are candidates
and shortest once its share is reached: three probes, with all candidates, with some dropped at every step, and at the
share, count as these phases will in the run (`mean_step`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from pathtune.adaptations import SparseDelta
from pathtune.adaptations.sparse.narrowing import narrowing_interval
from pathtune.adaptations.sparse.options import HOLD
from pathtune.benchmark.memory import reset_peak, resident
from pathtune.comparing.arms import Arm, Plan, Trial, sections_of
from pathtune.comparing.running import World, open_world, result_of
from pathtune.data import elements_of, subset
from pathtune.errors import DivergedError
from pathtune.ops.allocator import keep_large_blocks
from pathtune.training.fitting import fit
from pathtune.training.plans import Plans
from pathtune.training.progress import Progress
from pathtune.training.run import adapt_as

N_STEPS = 16  # of a probe


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one arm."""

    step_seconds: float  # median; of a sparse arm the mean over its run of those of its phases
    clock: str  # "processor": seconds of one thread's processor; "wall": with several threads, or a GPU
    peak_bytes: int | None  # above the loaded model and structures; None where it was not or cannot be measured


def costs(arms: Sequence[Arm], world: World, is_on_disk: bool) -> list[Cost]:
    """One for each arm. `is_on_disk`: model and structures can be loaded again in another process."""
    if not is_on_disk:
        return [_measured(arm, world, has_memory=False) for arm in arms]
    context = multiprocessing.get_context("spawn")
    n_threads = max(1, torch.get_num_threads() // world.plan.compare.jobs)
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        return [result_of(pool.submit(_fresh, arm, world.plan, world.folder, n_threads)) for arm in arms]


def _fresh(arm: Arm, plan: Plan, folder: pathlib.Path, n_threads: int) -> Cost:
    keep_large_blocks()
    torch.set_num_threads(n_threads)
    # Nothing is computed before the memory is noted: what a forward leaves behind would hide what a step needs.
    quiet = dataclasses.replace(plan, fit=plan.fit.after_e0())
    return _measured(arm, open_world(quiet, folder), has_memory=True)


def _measured(arm: Arm, world: World, has_memory: bool) -> Cost:
    plan = world.plan
    options = sections_of(Trial(arm, 1.0, plan.compare.seeds[0], plan.fit.epochs), plan)
    delta = options.get("delta")
    is_wall = torch.get_num_threads() > 1 or world.base.device.type != "cpu"
    before = _resident(reset=True) if has_memory else None
    if isinstance(delta, SparseDelta) and not delta.has_thresholds:
        clock = _probe(world, {**options, "delta": dataclasses.replace(delta, active_share=1.0)}, is_wall)
        times = [clock.times]
        for by_step in (clock.n_steps, 1):
            phase = dataclasses.replace(delta, by_step=by_step)
            times.append(_probe(world, {**options, "delta": phase}, is_wall).times)
        mixed = [world.sets[name] for name in ("train", "replay") if name in world.sets]
        seconds = mean_step(*times, delta, Plans(plan.fit, *mixed).before(plan.fit.epochs))
    else:
        seconds = statistics.median(_probe(world, options, is_wall).times.values())
    peak = _resident(reset=False) if has_memory else None
    taken = None if before is None or peak is None else max(0, peak - before)
    return Cost(seconds, "wall" if is_wall else "processor", taken)


def _probe(world: World, options: dict[str, Any], is_wall: bool) -> StepClock:
    """The clock of a short run."""
    batch_size, train_all = world.plan.fit.batch_size, world.sets["train"]
    n_frames = min(len(train_all), N_STEPS * batch_size)
    train, valid = subset(train_all, range(n_frames)), subset(world.sets["valid"], [0])
    n_epochs = -(-N_STEPS // -(-n_frames // batch_size))
    config = dataclasses.replace(options["fit"].after_e0(), lr=None, epochs=n_epochs)
    given = train if elements_of(train) == elements_of(train_all) else train_all
    model = adapt_as(world.refitted, given, {**options, "fit": config})
    clock = StepClock(time.perf_counter if is_wall else time.process_time, world.base.device.type == "cuda")
    with contextlib.suppress(DivergedError):  # the steps until then are as long as any
        fit(model, train, valid, config, progress=clock)
    return clock


def mean_step(
    before: Mapping[int, float],
    dropping: Mapping[int, float],
    after: Mapping[int, float],
    delta: SparseDelta,
    n_steps: int,
) -> float:
    """Seconds of a step, as a mean over a run of `n_steps` that drops candidates as `delta` says.

    `before`, `dropping`, `after`: seconds of the same steps, by their number, with all candidates, with some dropped at
    every step, and at the share; in the run each phase has its part. Between its first and last narrowing a step takes
    the mean of before and after, and every `narrowing_interval`-th as much more as dropping took.
    """
    same = [k for k in before if k in dropping and k in after]
    if not same:  # all diverged at once
        return statistics.median([*before.values(), *after.values()])
    middle = {k: (before[k] + after[k]) / 2 for k in same}
    more = max(0.0, statistics.median(dropping[k] - middle[k] for k in same))
    first, mean, last = (statistics.median(times[k] for k in same) for times in (before, middle, after))
    by_step = min(n_steps, delta.reached_by(n_steps))
    held = HOLD * by_step
    between = mean + more / narrowing_interval(by_step)
    return (held * first + (by_step - held) * between + (n_steps - by_step) * last) / n_steps


def _resident(reset: bool) -> int | None:
    """Bytes of memory of this process now, its high-water mark reset, or that mark; None where there is no /proc."""
    try:
        if reset:
            reset_peak()
        return resident("VmRSS" if reset else "VmHWM")
    except OSError:
        return None


class StepClock(Progress):
    """Times from the end of one step to the end of the next."""

    def __init__(self, clock: Callable[[], float], is_cuda: bool):
        super().__init__(1, quiet=True)
        self._within: dict[int, float] = {}  # an epoch, by the number of the step
        self._across: dict[int, float] = {}  # two epochs: with a validation between
        self._clock, self._is_cuda = clock, is_cuda
        self._epoch, self._last = 0, clock()

    @property
    def times(self) -> dict[int, float]:
        """By the number of the step, from 0: those within an epoch, or all where an epoch is one step."""
        return self._within or self._across

    @property
    def n_steps(self) -> int:
        """So many were made; 1 where the first diverged."""
        return max(1, len(self._within) + len(self._across))

    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        """After a step."""
        if self._is_cuda:
            torch.cuda.synchronize()
        now = self._clock()
        kept = self._within if epoch == self._epoch and step > 1 else self._across
        kept[len(self._within) + len(self._across)] = now - self._last
        self._epoch, self._last = epoch, now
