"""Where several processes would meet. One process trains here: nothing is added to what it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pathtune.losses import Term


class OneProcess:
    """The seam of the training loop: what it gives to all processes, and takes back reduced over them.

    Sums and counts cross it before anything is divided, so that a mean over processes would be exact; a mean of the
    processes' means would not be.
    """

    def terms(self, terms: Mapping[str, Term]) -> Mapping[str, Term]:
        """The terms of a step's loss with the counts of the whole batch; each process keeps its own sums."""
        return terms

    def gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients of `parameters`, in place, before they are clipped."""

    def mean(self, total: float, count: int) -> float:
        """A mean from a sum and a count, such as the validation loss."""
        return total / max(count, 1)
