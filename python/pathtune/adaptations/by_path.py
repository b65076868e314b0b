"""What the adaptations share that keep a few values for each path of each linear: low rank and modulation.

A species-indexed path has values for each element that the training data contain, and for no other: the weights of an
element that does not occur stay the base's. In an adapter file the values stand under the elements' atomic numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pathtune.adaptations.base import Adaptation
from pathtune.adaptations.stored import Stored
from pathtune.errors import InputError
from pathtune.layers import Layer, Path, Weights, select_layers

if TYPE_CHECKING:
    from pathtune.model import Potential


@dataclasses.dataclass(frozen=True)
class Block:
    """One path of one layer, of a species-indexed one the species that may change."""

    layer: Layer
    index: int  # of the path in its layer
    species: tuple[int, ...] = ()  # of the model; empty where the path is not species-indexed

    @property
    def path(self) -> Path:
        """The path."""
        return self.layer.paths[self.index]

    @property
    def name(self) -> str:
        """In adapter files."""
        return f"{self.layer.parameter}.path_{self.index}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights as `weights_of` gives them: [n_species, mul_in, mul_out], or what of these axes there is."""
        *rows, mul_out = self.path.shape
        if self.path.species_axis is None:
            return int(torch.Size(rows).numel()), mul_out
        rows.pop(self.path.species_axis)
        return len(self.species), *rows, mul_out

    def weights_of(self, flat: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """Its weights [*shape] among the layer's flat ones; `species`: as a tensor."""
        block = self._of(flat)
        if self.path.species_axis is None:
            return block.reshape(self.shape)
        return block.movedim(self.path.species_axis, 0).index_select(0, species)

    def plus(self, flat: torch.Tensor, delta: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """The path's weights, flat, with `delta` [*shape] added."""
        block, axis = self._of(flat), self.path.species_axis
        if axis is None:
            return (block + delta.reshape(block.shape)).flatten()
        # Species are unique, so that adding is exact and its backward a plain gather.
        return block.index_add(axis, species, delta.movedim(0, axis)).flatten()

    def _of(self, flat: torch.Tensor) -> torch.Tensor:
        return flat[self.path.offset : self.path.offset + self.path.numel].view(self.path.shape)


class ByPath(Adaptation):
    """W' = W + delta of every path, the delta made of a few values. A subclass sets `parts` and says the delta."""

    parts: ClassVar[tuple[str, ...]] = ()  # names of the values of one path

    def __init__(self, blocks: Sequence[Block], values: Mapping[str, Sequence[torch.Tensor]]):
        """`values`: for each of `parts` a tensor for each block."""
        super().__init__()
        self.blocks = list(blocks)
        self._values = torch.nn.ModuleDict({part: torch.nn.ParameterList(values[part]) for part in self.parts})
        for i, block in enumerate(self.blocks):
            self.register_buffer(f"species_{i}", torch.tensor(block.species, dtype=torch.int64), persistent=False)
        by_layer: dict[str, dict[int, int]] = {}
        for i, block in enumerate(self.blocks):
            by_layer.setdefault(block.layer.name, {})[block.index] = i
        self._by_layer = by_layer

    def values(self, part: str) -> list[torch.nn.Parameter]:
        """Of one part, block by block."""
        return list(self._values[part])  # type: ignore

    def delta(self, i: int, weights: torch.Tensor) -> torch.Tensor:
        """What is added to the `weights` of block i, of their shape."""
        raise NotImplementedError

    def layers(self) -> Sequence[Layer]:
        """Those with a path that changes."""
        return list({block.layer.name: block.layer for block in self.blocks}.values())

    def weights(self, parameters: Mapping[str, Any], plain: frozenset[str] = frozenset()) -> Weights:
        """W' = W + delta of every layer, plain tensors."""
        result = {}
        for layer in self.layers():
            base = parameters[layer.parameter]
            flat, mine, pieces = base.flatten(), self._by_layer[layer.name], []
            for k, path in enumerate(layer.paths):
                if k in mine:
                    i, block = mine[k], self.blocks[mine[k]]
                    species = getattr(self, f"species_{i}")
                    delta = self.delta(i, block.weights_of(flat, species))
                    pieces.append(block.plus(flat, delta, species))
                else:
                    pieces.append(flat[path.offset : path.offset + path.numel])
            result[layer.parameter] = torch.cat(pieces).view_as(base)
        return result

    def tensors(self, atomic_numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Of every path `NAME.PART`, and `NAME.atomic_numbers`, ascending, of a species-indexed one."""
        result = {}
        for i, block in enumerate(self.blocks):
            numbers = torch.tensor([atomic_numbers[s] for s in block.species], dtype=torch.int32)
            order = numbers.argsort()
            if block.species:
                result[f"{block.name}.atomic_numbers"] = numbers[order].contiguous()
            for part in self.parts:
                value = self.values(part)[i].detach().cpu()
                has_species = bool(block.species) and self.is_by_species(block, part)
                result[f"{block.name}.{part}"] = (value[order] if has_species else value.clone()).contiguous()
        return result

    @classmethod
    def is_by_species(cls, block: Block, part: str) -> bool:
        """Whether the first axis of a part of a species-indexed path counts species."""
        return True

    @classmethod
    def twin(cls, block: Block, part: str, before: Sequence[Block]) -> int | None:
        """Which of the blocks `before` holds a part that a file has not for `block`; None where none may."""
        return None

    @classmethod
    def blocks_of(
        cls, base: Potential, elements: Sequence[int], targets: Sequence[str], scope: Sequence[str] = ("linear",)
    ) -> list[Block]:
        """The reachable paths of the layers of the scope that match `targets`; InputError as select_layers."""
        species = tuple(base.species_of(elements))
        return [
            Block(layer, k, () if path.species_axis is None else species)
            for layer in select_layers(base.backbone.layers, targets, scope)
            for k, path in enumerate(layer.paths)
            if path.is_reachable
        ]

    @classmethod
    def read(cls, base: Potential, stored: Stored) -> tuple[list[Block], dict[str, list[torch.Tensor]]]:
        """Blocks and values of a file, in the base's precision.

        Raises InputError, naming the file, for an element that the base lacks, and for a tensor that is missing or not
        one of a path.
        """
        blocks: list[Block] = []
        taken = {"scale"} & set(stored.tensors)
        values: dict[str, list[torch.Tensor]] = {part: [] for part in cls.parts}
        for layer in base.backbone.layers:
            dtype = base.backbone.parameters[layer.parameter].dtype
            for k, path in enumerate(layer.paths):
                block = Block(layer, k)
                if f"{block.name}.{cls.parts[0]}" not in stored.tensors:
                    continue
                if path.species_axis is not None:
                    numbers = stored.elements(f"{block.name}.atomic_numbers")
                    block = Block(layer, k, _species(base, numbers, stored.where))
                    taken.add(f"{block.name}.atomic_numbers")
                for part in cls.parts:
                    name = f"{block.name}.{part}"
                    twin = cls.twin(block, part, blocks) if name not in stored.tensors else None
                    if twin is None:
                        taken.add(name)
                        values[part].append(torch.nn.Parameter(stored.real(name).to(dtype)))
                    else:
                        values[part].append(values[part][twin])
                blocks.append(block)
        stored.check_names(taken)
        return blocks, values


def check_shape(stored: Stored, block: Block, part: str, found: torch.Tensor, expected: Sequence[int]) -> None:
    """Raise InputError for a part of an adapter file that does not fit its path."""
    if tuple(found.shape) != tuple(expected):
        raise InputError(
            f"{stored.where}: {block.name}.{part} has shape {list(found.shape)}, expected {list(expected)}"
        )


def _species(base: Potential, numbers: Sequence[int], where: str) -> tuple[int, ...]:
    missing = [z for z in numbers if z not in base.atomic_numbers]
    if missing:
        raise InputError(f"{where}: changes weights of elements {missing}, which the model does not know")
    return tuple(base.atomic_numbers.index(z) for z in numbers)
