"""Many tensors as one: packed into one buffer on the host, moved by one copy, and seen there as what they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

ALIGNMENT = 128  # bytes, of each tensor in the buffer: a device's cache line; the widest load of a kernel is 16


class Packed:
    """A nest of dicts, lists, tuples and dataclasses, with the values of its tensors in one buffer on the host."""

    def __init__(self, nest: Any, pins: bool = False):
        """`pins`: the buffer lies in page-locked memory, so that a copy to a CUDA device waits for nothing."""
        self._nest = nest
        tensors = _tensors(nest)  # one that the nest holds twice is packed once
        sizes = [-(-t.numel() * t.element_size() // ALIGNMENT) * ALIGNMENT for t in tensors.values()]
        self.buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pins)
        self._views: dict[int, torch.Tensor] = {}
        start = 0
        for (key, tensor), size in zip(tensors.items(), sizes):
            flat = self.buffer.view(tensor.dtype).narrow(0, start // tensor.element_size(), tensor.numel())
            self._views[key] = flat.view(tensor.shape).copy_(tensor.detach())
            start += size

    @property
    def layout(self) -> tuple[tuple[torch.dtype, torch.Size], ...]:
        """Of the tensors in the buffer: nests of equal layout can share one."""
        return tuple((view.dtype, view.shape) for view in self._views.values())

    def to(self, device: torch.device | str) -> Any:
        """The nest with its tensors on the device, where nothing but the one copy has run."""
        return self.seen_in(self.moved_to(device))

    def moved_to(self, device: torch.device | str) -> torch.Tensor:
        """A copy of the buffer on the device."""
        return self.buffer.to(device, non_blocking=True, copy=True)

    def seen_in(self, moved: torch.Tensor) -> Any:
        """The nest with its tensors as views of `moved`, a copy of the buffer."""
        of_kind = {view.dtype: moved.view(view.dtype) for view in self._views.values()}

        # data: a view that counts its own writes (watching.py), not those to its neighbours
        there = {
            key: of_kind[view.dtype].as_strided(view.shape, view.stride(), view.storage_offset()).data
            for key, view in self._views.items()
        }
        return mapped(self._nest, lambda t: there[id(t)])


def moved(nest: Any, device: torch.device | str) -> Any:
    """The nest with its tensors, which are on the host, on a device: one copy."""
    return Packed(nest, torch.device(device).type == "cuda").to(device)


def mapped(nest: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The nest of dicts, lists, tuples and dataclasses with `change` of each of its tensors in its place."""
    if isinstance(nest, torch.Tensor):
        return change(nest)
    if isinstance(nest, dict):
        return {key: mapped(value, change) for key, value in nest.items()}
    if isinstance(nest, tuple) and hasattr(nest, "_make"):
        return type(nest)._make(mapped(value, change) for value in nest)  # type: ignore[attr-defined]
    if isinstance(nest, (list, tuple)):
        return type(nest)(mapped(value, change) for value in nest)
    if dataclasses.is_dataclass(nest) and not isinstance(nest, type):
        fields = {f.name: mapped(getattr(nest, f.name), change) for f in dataclasses.fields(nest)}
        return dataclasses.replace(nest, **fields)
    return nest


def _tensors(nest: Any) -> dict[int, torch.Tensor]:
    """By id."""
    found: dict[int, torch.Tensor] = {}
    mapped(nest, lambda t: found.setdefault(id(t), t))
    return found
