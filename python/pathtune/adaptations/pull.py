"""A pull to the base, for any arm: an adaptation that changes nothing and adds a penalty to the loss.

    l2sp    strength / 2 sum_i (W'_i - W_i)^2
    ewc     strength / 2 sum_i F_i (W'_i - W_i)^2

Over the weights that the other adaptations may change. L2-SP: Li et al., ICML 2018 (arXiv:1802.01483); elastic weight
consolidation: Kirkpatrick et al., PNAS 2017 (arXiv:1612.00796). F is the diagonal of the base's Fisher information for
normal errors of unit variance in each output, weighted as the loss weighs them by default:

    F_i = mean over structures of sum over outputs of weight / n sum_j (d output_j / d W_i)^2

n the numbers of that output, an extensive one per atom. Each structure's sum over j is taken with one draw of random
signs, (d sum_j sign_j output_j / d W_i)^2, whose mean it is (Hutchinson, 1989). It asks no labels, and is the
curvature at the base of the Huber loss on the base's own predictions: with strength 1, ewc pulls, to second order, as
much as those structures would in the loss with the base's predictions as labels.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pathtune.adaptations.base import Adaptation, Loss
from pathtune.adaptations.state import check_like
from pathtune.adaptations.stored import Stored
from pathtune.data import Batch, Request, Source, as_source, batches, check_elements, outputs
from pathtune.data.order import spread
from pathtune.errors import InputError
from pathtune.options import check_fields, option

if TYPE_CHECKING:
    from pathtune.model import Potential

MOST_FRAMES = 64  # of the Fisher information
STRENGTH = {"l2sp": 1e-4, "ewc": 1.0}  # by default


@dataclasses.dataclass(frozen=True, kw_only=True)
class PullOptions:
    """How the weights are pulled to the base's."""

    pull: str = option("l2sp", "pull: of all weights alike, or by Fisher information", choices=("l2sp", "ewc"))
    pull_strength: float | None = option(
        None, "pull: what multiplies half the sum of squares (1e-4 for l2sp, 1 for ewc; not tuned)"
    )
    pull_data: str | None = option(
        None, f"pull ewc: structures to remember, labels not needed, {MOST_FRAMES} of them (the training data)"
    )

    def __post_init__(self):
        check_fields(self)
        if self.pull_strength is not None and not self.pull_strength >= 0:
            raise InputError(f"pull_strength is {self.pull_strength}, expected a number of at least 0")
        if self.pull_data is not None and self.pull != "ewc":
            raise InputError(f"pull_data is {self.pull_data!r} beside pull {self.pull!r}, expected it with ewc only")

    @property
    def strength(self) -> float:
        """That in force."""
        return STRENGTH[self.pull] if self.pull_strength is None else self.pull_strength


class Pull(Adaptation):
    """Pulls what the other adaptations change back to the base; it has no weights of its own."""

    kind: ClassVar[str] = "pull"
    options: ClassVar[type | None] = PullOptions
    section: ClassVar[str] = "pull"

    def __init__(self, config: PullOptions | None = None, seed: int = 0, remembered: Source | None = None):
        """`remembered`: structures of `config.pull_data`."""
        super().__init__()
        self.config = config or PullOptions()
        self.seed = seed
        self.remembered = remembered
        self.fisher: dict[str, torch.Tensor] = {}  # of the shape of W, by parameter name

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: PullOptions, seed: int) -> Adaptation:
        """One for `base`; InputError as as_source for `pull_data`, and for an element in it that the base lacks."""
        remembered = None
        if options.pull_data is not None:
            remembered = as_source(options.pull_data, needs_labels=False)
            check_elements(remembered, base.atomic_numbers)
        return cls(options, seed, remembered)

    def groups(self) -> list[dict[str, Any]]:
        """None: there is nothing to train."""
        return []

    def penalty(self, model: Potential) -> torch.Tensor | None:
        """Half the strength times the (weighted) sum of squares, over what the model's adaptations change."""
        total = None
        for name, w in changed_weights(model).items():
            square = (w - model.base.parameters[name].detach()).square()
            if self.config.pull == "ewc":
                square = square * self.fisher[name].to(square)
            total = square.sum() if total is None else total + square.sum()
        return None if total is None else 0.5 * self.config.strength * total

    def begin(self, model: Potential, frames: Iterable[Batch], loss: Loss) -> bool:
        """The Fisher information; InputError for a set without a structure."""
        if self.config.pull != "ewc":
            return False
        if self.remembered is not None:
            frames = batches(model, self.remembered, 1, spread(len(self.remembered)))
        self.fisher = fisher_diagonal(model, itertools.islice(frames, MOST_FRAMES), self.seed)
        return True

    def state(self) -> dict[str, Any]:
        """The Fisher information, which a run that goes on does not compute again."""
        return {"parameters": [], "fisher": dict(self.fisher)}

    def check_state(self, state: Mapping[str, Any], where: str) -> None:
        """As Adaptation's; the Fisher information must be of weights of the base."""
        fisher = state.get("fisher")
        names = fisher if isinstance(fisher, dict) else {}
        expected = {name: w.detach() for name, w in self.base.parameters.items() if name in names}
        check_like(dict(state), {"parameters": [], "fisher": expected}, where, self.kind)

    def restore(self, state: Mapping[str, Any]) -> None:
        """The reverse of `state`."""
        own = self.base.parameters
        self.fisher = {name: f.to(own[name].device) for name, f in state["fisher"].items()}

    def tensors(self, atomic_numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """None: an adapter file only says that there was a pull."""
        return {}

    @classmethod
    def from_tensors(cls, base: Potential, stored: Stored) -> Adaptation:
        """One that does nothing. InputError for a tensor."""
        stored.check_names(())
        return cls()


def changed_weights(model: Potential) -> dict[str, torch.Tensor]:
    """W' of every weight that the model's adaptations may change, by parameter name, differentiable."""
    found: dict[str, torch.Tensor] = {}
    if model.backbone is not model.base:
        found = {name: p for name, p in model.backbone.parameters.items() if p.requires_grad}
    return found | model.effective_weights()


def fisher_diagonal(
    model: Potential, frames: Iterable[Batch], seed: int, names: Sequence[str] | None = None
) -> dict[str, torch.Tensor]:
    """F at the base of every weight that the model may change, of the shape of W; `frames` of one structure each.

    `names`: of other parameters instead. Raises InputError where there is no structure.
    """
    names = list(changed_weights(model)) if names is None else list(names)
    base = {name: model.base.parameters[name].detach().clone().requires_grad_() for name in names}
    sums = {name: torch.zeros_like(w) for name, w in base.items()}
    generator = torch.Generator().manual_seed(seed)
    n_frames = 0
    for batch in frames:
        for value in _signed_outputs(model, base, batch, generator):
            found = torch.autograd.grad(
                value, list(base.values()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for total, g in zip(sums.values(), found):
                total += g.square()
        n_frames += 1
    if not n_frames:
        raise InputError("pull: the set for the Fisher information has 0 structures, expected at least one")
    return {name: total / n_frames for name, total in sums.items()}


def _signed_outputs(
    model: Potential, weights: Mapping[str, torch.Tensor], batch: Batch, generator: torch.Generator
) -> list[torch.Tensor]:
    """For each output sqrt(weight / n) sum_j sign_j output_j; its squared gradient is one draw of F."""
    known = [label for label in outputs() if label.name in model.backbone.outputs and label.weight]
    has_volume = bool((batch.volume > 0).all())
    asked = [label for label in known if has_volume or not label.needs_volume]
    found = model.predict(weights, batch, Request(frozenset(label.name for label in asked), training=True)).outputs
    values = []
    for label in asked:
        value = found[label.name]
        if label.is_extensive:
            value = value / batch.n_atoms.reshape(-1, *[1] * (value.dim() - 1))
        signs = torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1
        if value.requires_grad:  # the forces on an isolated atom do not
            values.append((label.weight / value.numel()) ** 0.5 * (signs * value).sum())
    return values
