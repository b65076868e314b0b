"""Which weights belong to which degree l.

A path that maps features of degree l to features of the same l belongs to l: those of linears, of species linears, and
of the readouts (l = 0). What serves several degrees belongs to none and is the group "rest": radial networks,
symmetric contractions, and of a linear's scalar outputs those that gate features of other degrees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from pathtune.layers import Layer, Path
from pathtune.model import Potential

REST = "rest"


@dataclasses.dataclass(frozen=True)
class Part:
    """The weights of one path of one layer that belong to one group."""

    layer: str
    parameter: str
    kind: str  # of the layer
    path: str  # "0e -> 0e"; gates are marked
    degree: int | None  # l; None: the group "rest"
    indices: torch.Tensor  # [n] int64, into the parameter's flat weights
    species: torch.Tensor | None  # [n] int64, which species each is of, where the path is species-indexed
    is_reachable: torch.Tensor  # [n] bool, with the elements at hand

    @property
    def group(self) -> str:
        """Its name."""
        return group_name(self.degree)

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Its values [n] among the parameter's."""
        return values.flatten()[self.indices.to(values.device)]


def group_name(degree: int | None) -> str:
    """Of the weights of degree l, or of those that belong to none."""
    return REST if degree is None else f"l = {degree}"


def parts_of(backbone: Any, names: Collection[str], species: Sequence[int]) -> list[Part]:
    """The parts of the parameters `names`, in the backbone's order. `species`: indices of those in the data."""
    layers = {layer.parameter: layer for layer in backbone.layers}
    result: list[Part] = []
    for name, parameter in backbone.parameters.items():
        if name not in names:
            continue
        layer = layers.get(name) or Layer(name, "parameter", (Path("", 0, tuple(parameter.shape)),), parameter.numel())
        covered = 0
        for path in layer.paths:
            result += _parts_of_path(layer, name, path, species)
            covered += path.numel
        if covered < parameter.numel():  # such as biases
            left = torch.ones(parameter.numel(), dtype=torch.bool)
            for path in layer.paths:
                left[path.offset : path.offset + path.numel] = False
            indices = left.nonzero().flatten()
            result.append(Part(layer.name, name, layer.kind, "other", None, indices, None, torch.ones_like(left[left])))
    return result


def _parts_of_path(layer: Layer, name: str, path: Path, species: Sequence[int]) -> list[Part]:
    indices = torch.arange(path.offset, path.offset + path.numel).reshape(path.shape)
    axis = path.species_axis
    kind = torch.zeros(path.shape, dtype=torch.int64)
    reachable = torch.full(path.shape, path.is_reachable)
    if axis is not None:
        shape = [-1 if k == axis else 1 for k in range(len(path.shape))]
        kind = torch.arange(path.shape[axis]).reshape(shape).expand(path.shape)
        reachable = reachable & torch.isin(kind, torch.as_tensor(list(species), dtype=torch.int64))
    n_out = path.shape[-1] if path.shape else 1
    columns = [(path.text, path.degree, slice(0, n_out - path.gates))]
    if path.gates:
        columns.append((f"{path.text} gates", None, slice(n_out - path.gates, n_out)))
    return [
        Part(
            layer.name,
            name,
            layer.kind,
            text,
            degree,
            indices[..., where].flatten(),
            None if axis is None else kind[..., where].flatten(),
            reachable[..., where].flatten(),
        )
        for text, degree, where in columns
    ]


@dataclasses.dataclass(frozen=True)
class Change:
    """The weights of a tuned model that differ from its base's."""

    base: Mapping[str, torch.Tensor]  # by parameter name
    tuned: Mapping[str, torch.Tensor]
    adapted: frozenset[str]  # names of the parameters that might have differed

    @classmethod
    def of(cls, model: Potential) -> Change:
        """That of the adaptations that the model uses."""
        own = model.base.parameters
        now = {**model.backbone.parameters, **model.effective_weights()}
        differs = {name for name, w in now.items() if w is not own[name] and not torch.equal(w, own[name])}
        adapted = {name for name, w in now.items() if w is not own[name]}
        return cls(
            {name: own[name].detach() for name in own if name in differs},
            {name: now[name].detach() for name in own if name in differs},
            frozenset(adapted),
        )

    def delta(self, name: str) -> torch.Tensor:
        """W' - W, of the shape of W."""
        return self.tuned[name] - self.base[name]

    def with_groups(self, parts: Sequence[Part], groups: Collection[str]) -> dict[str, torch.Tensor]:
        """Weights that are the tuned ones in these groups, the base's in the others."""
        result = {name: w.clone() for name, w in self.base.items()}
        for part in parts:
            if part.parameter in result and part.group in groups:
                where = part.indices.to(result[part.parameter].device)
                result[part.parameter].view(-1)[where] = self.tuned[part.parameter].reshape(-1)[where]
        return result
