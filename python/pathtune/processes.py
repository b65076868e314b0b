"""Several processes that train together, as torchrun starts them; one process is a world of its own.

All of them run the same program. They meet in `gather`, `first`, `add` and `share`, which every process must call
alike. What one process raises there, all raise: the same sentence, and none waits for the other.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pathtune.errors import InputError

T = TypeVar("T")
TIMEOUT_S = 600.0  # after which a process that does not answer counts as lost, where no option says else
ANSWER_S = 5.0  # in which a process that lives says so, once another is missed


class SharedError(InputError):
    """An InputError that every process raises; `speaker`: the rank that prints it."""

    speaker = 0
    is_loss = False  # whether a process is lost, for which the others do not wait


class OneProcess:
    """The world of a process that was started alone."""

    rank, size, is_first = 0, 1, True

    def gather(self, make: Callable[[], T]) -> list[T]:
        """What `make` gives in every process, by rank."""
        return [make()]

    def first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, the only one that calls it."""
        return make()

    def add(self, flat: torch.Tensor) -> None:
        """Sum a tensor over the processes, in place."""

    def share(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """What each job gives, in order. The next free process takes the next job, in a world of its own."""
        return [job() for job in jobs]


class Processes(OneProcess):
    """The processes of torch.distributed's default group."""

    def __init__(self, store: Any = None, timeout_s: float = TIMEOUT_S):
        """`store`: where processes leave word when others are lost, beside the group; None: nowhere."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.is_first = self.rank == 0
        self.store = store
        self.timeout_s = timeout_s
        self.n_shared = 0  # calls of `share`

    def gather(self, make: Callable[[], T]) -> list[T]:
        """What `make` gives in every process, by rank. Raises in all what it raises in the first that fails."""
        own: Exception | None = None
        mine: tuple[str | None, Any]
        try:
            mine = (None, make())
        except SharedError:
            raise
        except Exception as error:
            own, mine = error, (_sentence(error, self.rank), None)
        found: list[Any] = [None] * self.size
        self._meet(lambda: dist.all_gather_object(found, mine))
        wrong = next((sentence for sentence, _ in found if sentence is not None), None)
        if wrong is not None:
            raise SharedError(wrong) from own
        return [value for _, value in found]

    def first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process. Raises in all what it raises there."""
        return self.gather(make if self.is_first else lambda: None)[0]  # type: ignore

    def add(self, flat: torch.Tensor) -> None:
        """Sum a tensor over the processes, in place."""
        self._meet(lambda: dist.all_reduce(flat))

    def share(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """What each job gives, in order. The next free process takes the next job, in a world of its own.

        Jobs may take any time: under torchrun no limit counts while another process is at one.
        """
        self.n_shared += 1
        name = f"jobs {self.n_shared}"
        if self.store is None:
            parts = self.gather(lambda: self._own(jobs, range(self.rank, len(jobs), self.size)))
        else:
            mine = self._own(jobs, self._taken(name, len(jobs)))
            self._wait_for_all(name)
            parts = self.gather(lambda: mine)
        found = {k: value for part in parts for k, value in part.items()}
        return [found[k] for k in range(len(jobs))]

    def _own(self, jobs: Sequence[Callable[[], T]], numbers: Iterable[int]) -> dict[int, T]:
        """What the jobs of these numbers give, each in a world of this process alone."""
        mine = {}
        for k in numbers:
            try:
                with alone():
                    mine[k] = jobs[k]()
            except Exception:
                self._stop_with_others()  # what one of them said may be why this one was stopped
                raise
        return mine

    def _taken(self, name: str, n_jobs: int) -> Iterator[int]:
        """Numbers of jobs, each of which one process gets."""
        while (k := self.store.add(name, 1) - 1) < n_jobs:
            yield k
            self._stop_with_others()

    def _wait_for_all(self, name: str) -> None:
        self.store.add(f"{name} done", 1)
        while self.store.add(f"{name} done", 0) < self.size:
            self._stop_with_others()
            time.sleep(0.1)

    def _stop_with_others(self) -> None:
        if self.store is not None and self.store.check(["error"]):
            raise SharedError(self.store.get("error").decode())

    def _meet(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except RuntimeError as error:  # a connection that closed, or a time-out
            raise self._lost() from error

    def _lost(self) -> SharedError:
        """What became of the others: the sentence that one of them left, or who does not answer."""
        if self.store is None:
            return SharedError("a process was lost, expected all of them to answer")
        missing = []
        try:
            self.store.set(f"alive {self.rank}", "1")
            end = time.monotonic() + ANSWER_S
            while time.monotonic() < end:
                if self.store.check(["error"]):
                    return SharedError(self.store.get("error").decode())
                missing = [rank for rank in range(self.size) if not self.store.check([f"alive {rank}"])]
                if not missing:
                    break
                time.sleep(0.05)
        except RuntimeError:  # the store lived in the process that is lost
            missing = [0]
        names = f"rank {', '.join(map(str, missing))}" if missing else "a rank"
        answer = SharedError(
            f"{names} of {self.size} no longer answers (killed, or over {self.timeout_s:g} s behind), expected all "
            "to go on: the same command with --resume continues from the last checkpoint"
        )
        answer.is_loss = True
        answer.speaker = min(set(range(self.size)) - set(missing), default=0)
        return answer


_WORLD: list[OneProcess] = []  # the one that `started` made, while it is


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """While in here, this process is a world of its own, whatever others there are."""
    _WORLD.insert(0, OneProcess())
    try:
        yield
    finally:
        _WORLD.pop(0)


def world() -> OneProcess:
    """The processes that this one belongs to: those of `started`, or of a group that the caller made, or itself."""
    if _WORLD:
        return _WORLD[0]
    return Processes() if dist.is_available() and dist.is_initialized() else OneProcess()


def is_launched() -> bool:
    """Whether torchrun, or another launcher that sets its variables, started this process beside others."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def is_restarted() -> bool:
    """Whether torchrun started this process again, after a loss."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextlib.contextmanager
def started(device: str, timeout_s: float) -> Iterator[OneProcess]:
    """The world that a launcher made, until the end; without a launcher, this process alone.

    gloo computes on CPUs, nccl on devices. Only the first process prints. An InputError of one process ends all of them
    with status 2 and the same sentence, which one of them prints. Raises InputError where they do not find each other.
    """
    if not is_launched():
        yield OneProcess()
        return
    limit = datetime.timedelta(seconds=timeout_s)
    try:
        found, rank, size = next(dist.rendezvous("env://", timeout=limit))
        # torchrun's store outlives a restart, and with it the addresses of processes that are gone.
        store = dist.PrefixStore(_meeting(found, rank, size, timeout_s), found)
        if device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(
            f"rank {os.environ['RANK']} did not find the others at {place} in {timeout_s:g} s, expected "
            f"{os.environ['WORLD_SIZE']} processes ({' '.join(str(error).split())[:200]})"
        ) from error
    here = Processes(store, timeout_s)
    _WORLD.append(here)
    try:
        with contextlib.ExitStack() as silence:
            if not here.is_first:
                nowhere = silence.enter_context(open(os.devnull, "w"))
                silence.enter_context(contextlib.redirect_stdout(nowhere))
                silence.enter_context(contextlib.redirect_stderr(nowhere))
            yield here
    except SharedError as error:
        _leave(here, not error.is_loss)
        _say(error, here)
    except InputError as error:
        shared = SharedError(_sentence(error, here.rank))
        with contextlib.suppress(RuntimeError):
            store.set("error", str(shared))
        _leave(here, True)
        _say(shared, here)
    finally:
        _WORLD.clear()
        if dist.is_initialized():
            dist.destroy_process_group()


def _meeting(store: Any, rank: int, size: int, timeout_s: float) -> str:
    """A name that only the processes of this start know; the store may hold what those of earlier starts left there.

    Counts of restarts are no such name: an agent that joins later has none. The first process makes up the name; each
    other one answers under it with a name of its own, and goes on when the first says that it has read this answer.
    """
    mine = uuid.uuid4().hex
    if rank == 0:
        store.set("pathtune meeting", mine)
        answers = [mine, *(store.get(f"{mine} {other}").decode() for other in range(1, size))]
        store.set(f"{mine} all", " ".join(answers))
        return mine
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        name = store.get("pathtune meeting").decode()
        store.set(f"{name} {rank}", mine)
        if store.check([f"{name} all"]) and mine in store.get(f"{name} all").decode().split():
            return name
        time.sleep(0.02)
    raise RuntimeError("the first process did not answer")


def _leave(here: Processes, waits: bool) -> None:
    """Close the connections, so that others notice, and wait for them, so that all end with the same status."""
    dist.destroy_process_group()
    with contextlib.suppress(RuntimeError):
        here.store.add("leaving", 1)
        end = time.monotonic() + ANSWER_S
        while waits and here.store.add("leaving", 0) < here.size and time.monotonic() < end:
            time.sleep(0.02)


def _say(error: SharedError, here: Processes) -> None:
    """Raise the error in the process that prints it, and end the others."""
    if here.rank != error.speaker:
        raise SystemExit(2)
    if here.is_first:
        raise error
    print(f"pathtune: {error}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def _sentence(error: Exception, rank: int) -> str:
    return str(error) if isinstance(error, InputError) else f"rank {rank}: {type(error).__name__}: {error}"
