"""What can be adapted: layers, their paths, and which of their weights the data can reach."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence

import torch

from pathtune.errors import InputError
from pathtune.ops import SparseWeights, SpeciesRows

Weights = Mapping[str, torch.Tensor | SparseWeights | SpeciesRows]  # by parameter name, in place of a backbone's own


@dataclasses.dataclass(frozen=True)
class Path:
    """One instruction of a layer: a block of its flat weights."""

    text: str  # "0e x 1o -> 1o"; "0e -> 0e" for a linear
    offset: int  # in the layer's flat weights
    shape: tuple[int, ...]  # [mul_in, mul_out], or [mul_in, n_species, mul_out], or the mode's own
    species_axis: int | None = None  # which axis counts species, if any
    is_reachable: bool = True  # False: no input reaches it, such as the weights of another modality
    gates: int = 0  # of its output channels the last so many, scalars that gate features of other degrees
    head_axes: tuple[int, ...] = ()  # which axes are `n_heads` equal parts, one for each head of the model
    n_heads: int = 1

    @property
    def numel(self) -> int:
        """Number of weights."""
        return int(torch.Size(self.shape).numel())

    @property
    def degree(self) -> int | None:
        """l of the features that it maps to features of the same l; None where there is no such single l."""
        found = re.match(r"(\d+)[eo](?: x \d+[eo])? -> (\d+)[eo]", self.text)
        return int(found[1]) if found and found[1] == found[2] else None

    @property
    def mul(self) -> str:
        """Multiplicities, as `128x128`."""
        return "x".join(str(n) for n in self.shape)

    def reachable(self, species: Sequence[int], heads: Sequence[int] | None = None) -> torch.Tensor:
        """Flat indices in the layer of the weights that data with these species indices and heads can change.

        `heads`: indices of the model's heads, all of them by default. Of the weights between two hidden parts, only
        those from and to the same head are.
        """
        index = torch.arange(self.offset, self.offset + self.numel).reshape(self.shape)
        if not self.is_reachable:
            return index.reshape(-1)[:0]
        if self.species_axis is not None:
            index = index.index_select(self.species_axis, torch.as_tensor(list(species), dtype=torch.int64))
        if not self.head_axes or self.n_heads == 1:
            return index.reshape(-1)
        parts = []
        for head in range(self.n_heads) if heads is None else heads:
            part = index
            for axis in self.head_axes:
                n = self.shape[axis] // self.n_heads
                part = part.narrow(axis, head * n, n)
            parts.append(part.reshape(-1))
        return torch.cat(parts)


@dataclasses.dataclass(frozen=True)
class Layer:
    """An adaptable layer of a backbone; `name` is its module's name there."""

    name: str
    kind: str  # "path linear", "species linear", "tensor product"; or, opt-in, "contraction", "radial"
    paths: tuple[Path, ...]
    numel: int
    weight: str = "weight"  # the parameter's name within the module; "" where `name` is the parameter's own

    @property
    def parameter(self) -> str:
        """Name of its weights among the backbone's parameters."""
        return f"{self.name}.{self.weight}" if self.weight else self.name

    @property
    def scope(self) -> str:
        """Which of the scopes of SparseDelta adapts it."""
        return self.kind if self.kind in ("contraction", "radial") else "linear"

    def linear_shapes(self) -> list[tuple[int, int, int]] | None:
        """(mul_in, n_species, mul_out) of each path of a linear or species linear; None for other layers."""
        if any((len(path.shape), path.species_axis) not in ((2, None), (3, 1)) for path in self.paths):
            return None
        return [
            (path.shape[0], 1 if path.species_axis is None else path.shape[1], path.shape[-1]) for path in self.paths
        ]

    @property
    def is_by_species(self) -> bool:
        """Whether every weight of it is one species'."""
        return all(path.species_axis is not None for path in self.paths)

    def reachable(self, species: Sequence[int], heads: Sequence[int] | None = None) -> torch.Tensor:
        """Ascending flat indices of the weights that data with only these species and heads can change."""
        parts = [path.reachable(species, heads) for path in self.paths]
        return torch.cat(parts).sort().values if parts else torch.zeros(0, dtype=torch.int64)

    def path_of_entries(self, indices: torch.Tensor) -> torch.Tensor:
        """Index of the path that each flat index belongs to."""
        starts = torch.tensor([path.offset for path in self.paths], device=indices.device)
        return torch.bucketize(indices, starts, right=True) - 1


def whole_layer(name: str, kind: str, shape: Sequence[int], species_axis: int | None, weight: str) -> Layer:
    """A layer of one path, the whole parameter."""
    path = Path(kind, 0, tuple(shape), species_axis)
    return Layer(name, kind, (path,), path.numel, weight)


@dataclasses.dataclass(frozen=True)
class PathRow:
    """One row of `pathtune.paths`."""

    module: str
    kind: str
    path: str
    mul: str
    weights: int
    reachable: int  # with the given elements
    share: float  # of all weights of the backbone
    norm: float  # root mean square of the weights of the base
    scope: str = "linear"  # which of the scopes of SparseDelta adapts it
    changed: int = 0  # weights that the model's adaptations have changed
    change: float = 0.0  # root mean square of what was added to its weights


def select_layers(
    layers: Sequence[Layer], targets: Sequence[str] = ("*",), scope: Sequence[str] = ("linear",)
) -> list[Layer]:
    """Layers of the scope whose name matches one of the glob patterns.

    Raises InputError, which lists the names, for a pattern that matches none.
    """
    for wanted in scope:
        if not any(layer.scope == wanted for layer in layers):
            there = ", ".join(dict.fromkeys(layer.scope for layer in layers))
            raise InputError(f"scope: the model has no layer of scope {wanted}, expected some of {there}")
    layers = [layer for layer in layers if layer.scope in scope]
    chosen = [layer for layer in layers if any(fnmatch.fnmatchcase(layer.name, t) for t in targets)]
    for target in targets:
        if not any(fnmatch.fnmatchcase(layer.name, target) for layer in layers):
            names = ", ".join(layer.name for layer in layers)
            raise InputError(f"targets: {target!r} matches no layer of scope {' '.join(scope)}; the model has {names}")
    return chosen
