"""What a step of an arm costs: its median time and the peak memory, each arm in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from pathtune.adaptations import SparseDelta
from pathtune.benchmark.memory import reset_peak, resident
from pathtune.comparing.arms import Arm, Plan, Trial, sections_of
from pathtune.comparing.running import World, open_world, result_of
from pathtune.data import elements_of, subset
from pathtune.errors import DivergedError
from pathtune.ops.allocator import keep_large_blocks
from pathtune.training.fitting import fit
from pathtune.training.progress import Progress
from pathtune.training.run import adapt_as

N_STEPS = 25  # of a probe
BY_STEP = 5  # of these until a sparse delta has its share, so that the median is of the steps after


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one arm."""

    step_seconds: float  # median
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
    n_frames = min(len(world.sets["train"]), N_STEPS * plan.fit.batch_size)
    train, valid = subset(world.sets["train"], range(n_frames)), subset(world.sets["valid"], [0])
    n_epochs = -(-N_STEPS // -(-n_frames // plan.fit.batch_size))
    options = sections_of(Trial(arm, 1.0, plan.compare.seeds[0], n_epochs), plan)
    delta = options.get("delta")
    if isinstance(delta, SparseDelta) and not delta.is_paper:
        options["delta"] = dataclasses.replace(delta, by_step=BY_STEP)
    options["fit"] = dataclasses.replace(options["fit"].after_e0(), lr=None)
    train_all = world.sets["train"]
    before = _resident(reset=True) if has_memory else None
    model = adapt_as(world.refitted, train if elements_of(train) == elements_of(train_all) else train_all, options)
    is_wall = torch.get_num_threads() > 1 or world.base.device.type != "cpu"
    clock = StepClock(time.perf_counter if is_wall else time.process_time, world.base.device.type == "cuda")
    with contextlib.suppress(DivergedError):  # the steps until then are as long as any
        fit(model, train, valid, options["fit"], progress=clock)
    peak = _resident(reset=False) if has_memory else None
    taken = None if before is None or peak is None else max(0, peak - before)
    return Cost(statistics.median(clock.within or clock.across), "wall" if is_wall else "processor", taken)


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
        self.within: list[float] = []  # an epoch
        self.across: list[float] = []  # two epochs: with a validation between
        self._clock, self._is_cuda = clock, is_cuda
        self._epoch, self._last = 0, clock()

    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        """After a step."""
        if self._is_cuda:
            torch.cuda.synchronize()
        now = self._clock()
        kept = self.within if epoch == self._epoch and step > 1 else self.across
        kept.append(now - self._last)
        self._epoch, self._last = epoch, now
