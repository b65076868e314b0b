"""What an adaptation finds of itself in an adapter file, and flat indices that do not depend on a model's species."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from pathtune.errors import InputError
from pathtune.files import shown
from pathtune.layers import Layer

N_ELEMENTS = 119  # canonical species axis: the atomic number itself


@dataclasses.dataclass(frozen=True)
class Stored:
    """One component of an adapter file."""

    tensors: Mapping[str, torch.Tensor]  # its own, by the names that it gave them
    where: str  # the file, for messages
    n_species: int  # of the base that it was made for

    def check_names(self, expected: Iterable[str]) -> None:
        """Raise InputError unless exactly these tensors are there."""
        for name in sorted(set(expected) ^ set(self.tensors)):
            if name in self.tensors:
                raise InputError(
                    f"{self.where}: holds a tensor {shown(name)}, expected only those of the model's layers"
                )
            raise InputError(f"{self.where}: lacks the tensor {name!r}")

    def indices(self, name: str, n_most: int) -> torch.Tensor:
        """The tensor `name` as int64 [n], n <= n_most. InputError unless it holds ascending integers, 0 or more."""
        tensor = self._named(name)
        if tensor.dtype not in (torch.int32, torch.int64) or tensor.dim() != 1:
            raise InputError(f"{self.where}: {name} is {_described(tensor)}, expected int32 or int64 [n]")
        if tensor.numel() > n_most:
            raise InputError(f"{self.where}: {name} has {tensor.numel()} entries, expected at most {n_most}")
        tensor = tensor.long()
        if tensor.numel() and (int(tensor[0]) < 0 or not bool((tensor[1:] > tensor[:-1]).all())):
            raise InputError(f"{self.where}: {name} does not ascend from 0 or more, expected each index once")
        return tensor

    def values(self, name: str, *lengths: int) -> torch.Tensor:
        """The tensor `name`, of real numbers, [n] with n one of `lengths`; InputError for another."""
        tensor = self._named(name)
        if not tensor.is_floating_point() or tensor.dim() != 1 or tensor.numel() not in lengths:
            expected = " or ".join(f"[{n}]" for n in lengths)
            raise InputError(f"{self.where}: {name} is {_described(tensor)}, expected real numbers {expected}")
        return tensor

    def real(self, name: str, n_axes: int | None = None) -> torch.Tensor:
        """The tensor `name`, of real numbers, with at least one axis or just so many; InputError for another."""
        tensor = self._named(name)
        if not tensor.is_floating_point() or not tensor.dim() or n_axes not in (None, tensor.dim()):
            axes = "some axes" if n_axes is None else f"{n_axes} axes"
            raise InputError(f"{self.where}: {name} is {_described(tensor)}, expected real numbers with {axes}")
        return tensor

    def elements(self, name: str) -> tuple[int, ...]:
        """The atomic numbers in the tensor `name`; InputError as `indices`, and for none or one beyond the elements."""
        found = self.indices(name, N_ELEMENTS).tolist()
        if not found or not 0 < found[0] <= found[-1] < N_ELEMENTS:
            raise InputError(f"{self.where}: {name} is {found}, expected atomic numbers, ascending")
        return tuple(found)

    def flag(self, name: str) -> bool:
        """The tensor `name`, int32 [1], 0 or 1; InputError for another."""
        tensor = self._named(name)
        if tensor.dtype != torch.int32 or tensor.tolist() not in ([0], [1]):
            raise InputError(f"{self.where}: {name} is {_described(tensor)}, expected int32 [1], 0 or 1")
        return tensor.tolist() == [1]

    def _named(self, name: str) -> torch.Tensor:
        if name not in self.tensors:
            raise InputError(f"{self.where}: lacks the tensor {name!r}")
        return self.tensors[name]


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def to_canonical(layer: Layer, indices: torch.Tensor, atomic_numbers: Sequence[int]) -> torch.Tensor:
    """Flat indices of this model as indices of a model with one species for every atomic number."""
    numbers = torch.tensor(list(atomic_numbers))
    return _remap(layer, indices, len(atomic_numbers), N_ELEMENTS, lambda s: numbers[s])


def from_canonical(
    layer: Layer, canonical: torch.Tensor, atomic_numbers: Sequence[int], where: str = "adapter"
) -> torch.Tensor:
    """The reverse of to_canonical; InputError for an element that the model lacks or an index beyond the layer."""
    species = torch.full((N_ELEMENTS,), -1)
    species[list(atomic_numbers)] = torch.arange(len(atomic_numbers))
    indices = _remap(layer, canonical, N_ELEMENTS, len(atomic_numbers), lambda z: species[z])
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= layer.numel):
        raise InputError(f"{where}: an index of {layer.name} lies outside the model's {layer.numel} weights")
    return indices


def _remap(
    layer: Layer, indices: torch.Tensor, n_from: int, n_to: int, species_map: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    result = torch.full_like(indices, -1)
    start_from = 0
    start_to = 0
    for path in layer.paths:
        shape_from, shape_to = list(path.shape), list(path.shape)
        if path.species_axis is not None:
            shape_from[path.species_axis] = n_from
            shape_to[path.species_axis] = n_to
        size_from = torch.Size(shape_from).numel()
        mine = (indices >= start_from) & (indices < start_from + size_from)
        coordinates = list(torch.unravel_index(indices[mine] - start_from, shape_from))
        is_known = torch.ones_like(coordinates[0], dtype=torch.bool)
        if path.species_axis is not None:
            mapped = species_map(coordinates[path.species_axis])
            is_known = mapped >= 0
            coordinates[path.species_axis] = mapped
        flat = torch.zeros_like(coordinates[0])
        for coordinate, length in zip(coordinates, shape_to):
            flat = flat * length + coordinate
        result[mine] = torch.where(is_known, flat + start_to, -1)
        start_from += size_from
        start_to += torch.Size(shape_to).numel()
    return result
