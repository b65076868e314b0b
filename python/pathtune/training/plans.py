"""How many steps a run has, and which structures each of them takes."""

from __future__ import annotations

import numpy as np

from pathtune.data import Source
from pathtune.data.plan import Plan, atoms_of, auto_atoms, check_budget, plan_of
from pathtune.training.options import FitConfig


class Plans:
    """The plans of all epochs, made when they are needed. By atoms, epochs differ in the number of their steps."""

    def __init__(self, config: FitConfig, *sources: Source):
        """`sources`: the training data and what is mixed in. InputError for a batch_atoms that is too small."""
        counts = [atoms_of(source) for source in sources]
        self.n_atoms = counts[0] if len(counts) == 1 else np.concatenate(counts)
        self.config = config
        self.budget: int | None = None
        if config.batch_atoms is not None:
            asked = config.batch_atoms
            self.budget = auto_atoms(self.n_atoms) if isinstance(asked, str) else asked
            check_budget(self.n_atoms, self.budget)
        self._kept: tuple[int, Plan] | None = None
        self._steps: list[int] = []  # of the epochs so far

    def of(self, epoch: int) -> Plan:
        """The plan of an epoch."""
        if self._kept is None or self._kept[0] != epoch:
            self._kept = (epoch, plan_of(self.n_atoms, self.config.batch_size, self.budget, self.config.seed, epoch))
        return self._kept[1]

    def steps(self, epoch: int) -> int:
        """Number of steps of an epoch."""
        return self.before(epoch + 1) - self.before(epoch)

    def before(self, epoch: int) -> int:
        """Number of steps before an epoch: all steps of a run of so many epochs."""
        if self.budget is None:
            return epoch * -(-len(self.n_atoms) // self.config.batch_size)
        while len(self._steps) < epoch:
            k = len(self._steps)
            is_kept = self._kept is not None and self._kept[0] == k
            plan = (
                self._kept[1] if is_kept and self._kept else plan_of(self.n_atoms, 1, self.budget, self.config.seed, k)
            )
            self._steps.append(len(plan))
        return sum(self._steps[:epoch])

    def batch(self) -> dict[str, int]:
        """What metrics.json says of the batches."""
        return {"batch_size": self.config.batch_size} | ({} if self.budget is None else {"batch_atoms": self.budget})
