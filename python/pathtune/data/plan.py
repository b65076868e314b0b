"""Which structures make a step: one plan for an epoch, which follows from seed and epoch alone.

The number of processes does not enter: they share each step's structures among them, so that it changes results by
rounding only. Nothing is dropped, and nothing is visited twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np
import torch

from pathtune.data.labels import outputs
from pathtune.data.source import Source
from pathtune.errors import InputError

AUTO_ATOMS = 1024  # what `auto` fills a batch to,
FEWEST, MOST = 8, 64  # with structures between these numbers, of mean size


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of one epoch."""

    order: np.ndarray  # [n_structures] indices
    ends: np.ndarray  # [n_steps] where each step ends in `order`

    def __len__(self) -> int:
        return len(self.ends)

    def step(self, k: int) -> np.ndarray:
        """Indices of the structures of step `k`."""
        return self.order[self.ends[k - 1] if k else 0 : self.ends[k]]

    @property
    def digest(self) -> str:
        """SHA-256 of the plan."""
        found = hashlib.sha256(np.ascontiguousarray(self.order).data)
        found.update(np.ascontiguousarray(self.ends, dtype=np.int64).data)
        return found.hexdigest()


def plan_of(n_atoms: np.ndarray, size: int, budget: int | None, seed: int, epoch: int) -> Plan:
    """The steps of an epoch: `size` structures in each, or, with a `budget`, as many as have so many atoms together.

    `n_atoms`: of each structure. The order is that of `shuffled`.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    kind = torch.int32 if len(n_atoms) < 2**31 else torch.int64  # the same permutation
    order = torch.randperm(len(n_atoms), generator=generator, dtype=kind).numpy()
    if budget is None:
        return Plan(order, np.minimum(np.arange(size, len(order) + size, size), len(order)))
    return Plan(order, cut(n_atoms[order], budget))


def cut(n_atoms: np.ndarray, budget: int) -> np.ndarray:
    """Ends of runs of structures, each as long as its atoms are no more than `budget`. InputError as check_budget."""
    check_budget(n_atoms, budget)
    total = np.cumsum(n_atoms, dtype=np.int64)
    ends: list[int] = []
    done = 0
    while not ends or ends[-1] < len(total):
        ends.append(int(np.searchsorted(total, done + budget, side="right")))
        done = int(total[ends[-1] - 1])
    return np.array(ends)


def check_budget(n_atoms: np.ndarray, budget: int) -> None:
    """Raise InputError where one structure alone has more atoms than a batch may have."""
    largest = int(n_atoms.max(initial=0))
    if budget < largest:
        raise InputError(f"batch_atoms is {budget}, expected at least {largest}, the atoms of the largest structure")


def auto_atoms(n_atoms: np.ndarray) -> int:
    """Atoms of a batch where none are asked: AUTO_ATOMS, but FEWEST to MOST structures of mean size."""
    mean = float(n_atoms.mean()) if len(n_atoms) else 1.0
    return max(round(min(MOST * mean, max(FEWEST * mean, AUTO_ATOMS))), int(n_atoms.max(initial=1)))


def atoms_of(source: Source) -> np.ndarray:
    """Number of atoms of each structure [n_frames]."""
    found = getattr(source, "n_atoms", None)
    return np.asarray(source.composition).sum(axis=1).astype(np.int64) if found is None else found


def loads_of(source: Source, indices: np.ndarray) -> np.ndarray:
    """What each of some structures costs: its edges where the source knows them, else its atoms."""
    edges = getattr(source, "n_edges", None)
    return np.asarray(edges[indices] + 1 if edges is not None else atoms_of(source)[indices])


def dealt(loads: np.ndarray, n_ranks: int) -> list[np.ndarray]:
    """Places in `loads` that each rank takes, ascending: the largest go to the least loaded rank.

    Longest processing time first (Graham, 1969), a round of `n_ranks` at a time.
    """
    if n_ranks == 1:
        return [np.arange(len(loads))]
    order = np.argsort(-loads, kind="stable")
    rank_of = np.empty(len(loads), dtype=np.int64)
    total = np.zeros(n_ranks, dtype=np.int64)
    for start in range(0, len(order), n_ranks):
        some = order[start : start + n_ranks]
        ranks = np.argsort(total, kind="stable")[: len(some)]
        rank_of[some] = ranks
        total[ranks] += loads[some]
    by_rank = np.argsort(rank_of, kind="stable")
    return np.split(by_rank, np.cumsum(np.bincount(rank_of, minlength=n_ranks))[:-1])


def labelled_numbers(source: Source, indices: np.ndarray) -> Mapping[str, int]:
    """How many labelled numbers some structures have, by output."""
    found = {}
    n_atoms = None
    for label in outputs():
        has = np.asarray(source.present.get(label.name, np.zeros(len(source), dtype=bool))[indices])
        rows = int(has.sum())
        if label.per == "atom" and rows:
            n_atoms = atoms_of(source)[indices] if n_atoms is None else n_atoms
            rows = int(n_atoms[has].sum())
        found[label.name] = rows * int(np.prod(label.shape, dtype=np.int64))
    return found
