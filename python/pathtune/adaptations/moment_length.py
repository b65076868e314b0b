"""Lengths of magnetic moments as an output: a head on the final features (docs/magnetism.md).

Only |m| can follow from positions: a moment itself turns under time reversal, and positions do not.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from ase.data import atomic_numbers as numbers_of
from ase.data import chemical_symbols

from pathtune.adaptations.base import Adaptation, Loss
from pathtune.adaptations.stored import Stored
from pathtune.data import Batch, Predictor
from pathtune.data.labels import MOMENT_LENGTH
from pathtune.errors import InputError
from pathtune.options import check_at_most, check_fields, check_positive, option

if TYPE_CHECKING:
    from pathtune.model import Potential

MOST_FRAMES = 2000  # that the start reads
MOST_HIDDEN = 4096
RIDGE = 1e-3  # of the features' squares
SMOOTH = 0.01  # mu_B: over which a length below zero turns into zero
SMALLEST = 0.1  # spread of a feature, of the mean spread of all: what varies less is not blown up further
EQUAL = 1e-3  # of a feature's spread: closer ones are those of the same positions
DIFFERENT = 0.05  # mu_B, between lengths at the same positions


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthHead:
    """Which elements have moments whose lengths are predicted (docs/magnetism.md)."""

    moment_length: tuple[str, ...] = option((), "elements whose lengths of moments are predicted, such as Fe Ni")
    length_hidden: int = option(64, "hidden values of the network of the lengths")

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "length_hidden")
        check_at_most(self, length_hidden=MOST_HIDDEN)
        for symbol in self.moment_length:
            if symbol not in numbers_of or symbol == "X":
                raise InputError(f"moment_length: {symbol!r} is no element, expected symbols such as Fe Ni")

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Of the elements, ascending, each once. Raises InputError where none is named."""
        if not self.moment_length:
            raise InputError("moment_length names no element, expected those with moments, such as Fe Ni")
        return tuple(sorted({numbers_of[symbol] for symbol in self.moment_length}))


class MomentLength(Adaptation):
    """|m_i| = (x + sqrt(x^2 + s^2)) / 2 with s = 0.01 mu_B, so that none is below zero, and of element z

        x = a_z + b_z . h_i + c_z . silu(D h_i + d)

    with the standardised invariant final features h. Atoms of other elements have the length 0.
    """

    kind: ClassVar[str] = "moment_length"
    options: ClassVar[type | None] = LengthHead
    section: ClassVar[str] = "moment_length"
    rate: float = 0.003
    species: torch.Tensor  # [n_species] index among `numbers`, or -1
    feature_mean: torch.Tensor  # [n_features]
    feature_scale: torch.Tensor  # [n_features]

    def __init__(self, numbers: tuple[int, ...], n_hidden: int, base: Potential):
        super().__init__()
        self.numbers = numbers
        n, f, dtype = len(numbers), base.backbone.n_invariants, base.backbone.dtype
        index = [numbers.index(z) if z in numbers else -1 for z in base.atomic_numbers]
        self.register_buffer("species", torch.tensor(index), persistent=False)
        self.register_buffer("feature_mean", torch.zeros(f, dtype=dtype))
        self.register_buffer("feature_scale", torch.ones(f, dtype=dtype))
        self.constants = torch.nn.Parameter(torch.zeros(n, dtype=dtype))  # mu_B
        self.linear = torch.nn.Parameter(torch.zeros(n, f, dtype=dtype))
        self.hidden_in = torch.nn.Parameter(torch.randn(f, n_hidden, dtype=dtype) / math.sqrt(f))
        self.hidden_bias = torch.nn.Parameter(torch.zeros(n_hidden, dtype=dtype))
        self.hidden_out = torch.nn.Parameter(torch.zeros(n, n_hidden, dtype=dtype))

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: LengthHead, seed: int) -> Adaptation:
        """A head that says 0. Raises InputError for elements that the model lacks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(_known(options.atomic_numbers, base, "moment_length"), options.length_hidden, base).to(
                base.device
            )

    def predictors(self) -> Mapping[str, Predictor]:
        """Of the lengths."""
        return {MOMENT_LENGTH.name: self.lengths}

    def lengths(self, features: torch.Tensor, edges: Any, batch: Batch) -> torch.Tensor:
        """|m| [n_nodes], mu_B, of final features [n_nodes, dim]."""
        atoms, element = self._atoms(batch)
        h = (features[atoms, : self.feature_mean.numel()] - self.feature_mean) / self.feature_scale
        hidden = torch.nn.functional.silu(h @ self.hidden_in + self.hidden_bias)
        x = self.constants[element] + (self.linear[element] * h).sum(1) + (self.hidden_out[element] * hidden).sum(1)
        return x.new_zeros(batch.n_nodes).index_add(0, atoms, 0.5 * (x + torch.sqrt(x**2 + SMOOTH**2)))

    def begin(self, model: Potential, frames: Iterable[Batch], loss: Loss) -> bool:
        """The constants and linear terms, by ridge regression on 2,000 frames, from all over the training data.

        Warns where frames that the features cannot tell apart have moments of other lengths. A head that was trained
        already keeps what it has. Raises InputError for frames without moments of these elements.
        """
        if bool(self.constants.any()):
            return False
        found = [self._seen(model, batch) for batch in itertools.islice(frames, MOST_FRAMES)]
        features, lengths = (torch.cat([part[k] for part in found]) for k in (0, 1))
        elements = torch.cat([part[2] for part in found])
        if not len(features):
            names = " ".join(chemical_symbols[z] for z in self.numbers)
            raise InputError(f"moment_length is {names}, expected elements that have moments in the training data")
        spread = features.std(dim=0, correction=0)
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_scale.copy_(spread.clamp(min=max(SMALLEST * float(spread.square().mean().sqrt()), 1e-8)))
        for i in range(len(self.numbers)):
            mine = elements == i
            if bool(mine.any()):
                self._regress(i, features[mine], lengths[mine])
        self._warn_of_several([(part[0], part[1]) for part in found])
        return True

    def state(self) -> dict[str, Any]:
        """The parameters, and the units of the features."""
        return {**super().state(), "units": [self.feature_mean.clone(), self.feature_scale.clone()]}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """The reverse of `state`."""
        super().restore(state)
        for mine, value in zip((self.feature_mean, self.feature_scale), state["units"], strict=True):
            mine.copy_(value)

    def tensors(self, atomic_numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Everything by its name in the head, elements as atomic numbers."""
        held = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        return {"elements": torch.tensor(self.numbers, dtype=torch.int32), **held}

    @classmethod
    def from_tensors(cls, base: Potential, stored: Stored) -> Adaptation:
        """A head of a file. Raises InputError for tensors that are missing, or not of the shapes that fit `base`."""
        found = {name: stored.real(name) for name in stored.tensors if name != "elements"}
        n_hidden = found["hidden_bias"].numel() if "hidden_bias" in found else 1
        if not 0 < n_hidden <= MOST_HIDDEN:
            raise InputError(f"{stored.where}: hidden_bias has {n_hidden} values, expected 1 to {MOST_HIDDEN}")
        head = cls(_known(stored.elements("elements"), base, stored.where), n_hidden, base)
        expected = head.state_dict()
        stored.check_names({"elements", *expected})
        for name, value in expected.items():
            if value.shape != found[name].shape:
                has, wants = tuple(found[name].shape), tuple(value.shape)
                raise InputError(f"{stored.where}: {name} of the moment lengths has shape {has}, expected {wants}")
        head.load_state_dict(found)
        return head.to(base.device)

    def _atoms(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Nodes of the elements, and which element each is; both [n]."""
        element = self.species[batch.species]
        atoms = (element >= 0).nonzero().flatten()
        return atoms, element[atoms]

    def _seen(self, model: Potential, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features [n, n_features], lengths [n] and elements [n] of the atoms of a frame whose lengths are known."""
        _, (features, _, batch) = model.final_features(batch)
        atoms, element = self._atoms(batch)
        label = batch.labels[MOMENT_LENGTH.name]
        is_known = label.mask[atoms]
        atoms, element = atoms[is_known], element[is_known]
        return features[atoms, : self.feature_mean.numel()], label.value[atoms], element

    @torch.no_grad()
    def _regress(self, i: int, features: torch.Tensor, lengths: torch.Tensor) -> None:
        h, y = ((features - self.feature_mean) / self.feature_scale).double(), lengths.double()
        centre, mean = h.mean(dim=0), y.mean()
        gram = (h - centre).T @ (h - centre)
        ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram)).to(gram)
        slopes = torch.linalg.solve(gram + ridge, (h - centre).T @ (y - mean))
        self.linear[i] = slopes.to(self.linear)
        self.constants[i] = (mean - centre @ slopes).to(self.linear)

    def _warn_of_several(self, frames: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        groups: dict[bytes, list[torch.Tensor]] = {}
        for features, lengths in frames:
            h = (features - self.feature_mean) / self.feature_scale
            groups.setdefault((h / EQUAL).round().long().cpu().numpy().tobytes(), []).append(lengths)
        alike = [torch.stack(lengths) for lengths in groups.values() if lengths[0].numel()]
        spreads = [float((found.amax(0) - found.amin(0)).amax()) for found in alike]
        several = [spread for spread in spreads if spread > DIFFERENT]
        if several:
            warnings.warn(
                f"pathtune: {len(several)} groups of frames have equal positions and other lengths of moments, "
                f"by up to {max(several):.2f} mu_B: no function of the positions gives both",
                stacklevel=2,
            )


def _known(numbers: tuple[int, ...], base: Potential, where: str) -> tuple[int, ...]:
    missing = [chemical_symbols[z] for z in numbers if z not in base.atomic_numbers]
    if missing:
        raise InputError(f"{where}: has {missing[0]}, expected elements that the model knows")
    return numbers
