"""What a pretrained model is to this package, and how one is told from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from pathtune.data import Batch, Request
from pathtune.errors import InputError
from pathtune.layers import Layer, Weights

FINGERPRINT_TOLERANCE = 1e-4  # relative to the block's rms: float32 against float64, reductions by mace


class Backbone(Protocol):
    """What a file in backbones/ provides; see docs/conventions.md."""

    name: str  # class of the pretrained model, for the fingerprint
    stock: torch.nn.Module  # the pretrained model itself; never changed
    parameters: dict[str, torch.nn.Parameter]  # those of `stock` that its own package trains, by name
    layers: tuple[Layer, ...]
    sparse_layers: frozenset[str]  # names of the layers whose weights `predict` also takes as SparseWeights
    readouts: tuple[str, ...]  # how the names of the readouts' parameters begin
    atomic_numbers: tuple[int, ...]
    heads: tuple[str, ...]
    n_invariants: int  # of the final features, the first ones, that no rotation or inversion changes
    outputs: tuple[str, ...]  # names of the labels that `predict` can give; "energy" is one
    inputs: tuple[str, ...]  # names of the labels that it reads from the batch
    r_max: float  # A
    # optional: `by_species`, names of the parameters that `predict` also takes as SpeciesRows;
    # `input_ranges`, by name of an input the least and greatest whole number that it takes;
    # `rate`, by which default learning rates are multiplied (1)
    dtype: torch.dtype

    def atomic_energies(self) -> torch.Tensor:
        """E0 [n_heads, n_species], eV, float64."""
        ...

    def predict(self, weights: Weights, batch: Batch, request: Request) -> dict[str, torch.Tensor]:
        """The outputs of `request` by name, with some parameters replaced by `weights`; energies without E0.

        Energies [n_graphs], forces [n_nodes, 3], stress [n_graphs, 3, 3]; others in their label's shape. Without
        `request.training` the energies need no graph.
        """
        ...

    def prepare(self, batch: Batch) -> None:
        """Make, on the host, what `predict` will read of the batch, and keep it with the batch (Batch.made_on_host), so
        that one copy moves all of it. May do nothing."""
        ...

    def with_weights(self, weights: Mapping[str, torch.Tensor], e0: torch.Tensor, head: int) -> torch.nn.Module:
        """A stock model with these parameters and atomic energies."""
        ...

    def shapes(self) -> dict[str, list[int]]:
        """Shape of every parameter, the number of species as 0."""
        ...

    def fingerprint(self, elements: Sequence[int]) -> dict[str, torch.Tensor]:
        """A few numbers [n_blocks, 2] of every parameter, by which an adapter knows its base."""
        ...

    def copy(self) -> Backbone:
        """An independent copy, parameters included."""
        ...

    def draw_anew(self, seed: int) -> None:
        """Other weights in place, as those of a model that was never trained; InputError where that is not known."""
        ...


def check_same_base(mine: Backbone, theirs: Backbone, elements: Sequence[int], where: str = "use") -> None:
    """Raise InputError unless an adaptation of `theirs` fits `mine`, as far as names, shapes and fingerprints tell."""
    if (mine.name, mine.shapes()) != (theirs.name, theirs.shapes()):
        raise InputError(
            f"{where}: the adaptation was made for another model, a {theirs.name}, expected one of this {mine.name}"
        )
    found = mine.fingerprint(elements or mine.atomic_numbers)
    compare_fingerprints(theirs.fingerprint(elements or theirs.atomic_numbers), found, where)


def compare_fingerprints(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise InputError for the first parameter whose fingerprint [n_blocks, 2] is not that of the model found."""
    for name, mine in found.items():
        theirs = expected.get(name)
        if theirs is None or theirs.shape != mine.shape:
            raise InputError(f"{where}: was made for another model: {name} is not in its fingerprint")
        rms = theirs[:, 1:].double().abs().clamp(min=1e-12)
        deviation = (mine - theirs.double()).abs()
        if bool((deviation > FINGERPRINT_TOLERANCE * rms).any()):
            worst = int((deviation / rms).max(dim=1).values.argmax())
            raise InputError(
                f"{where}: was made for another model: {name} has rms {mine[worst, 1]:.5g} here, "
                f"expected {theirs[worst, 1]:.5g}"
            )
