"""What a CUDA graph cannot capture, found without a device: a step on torch's meta device under a dispatch mode.

Kernels are not called, and no number is computed. Whatever would wait for a device, copy between it and the host, or
make a tensor whose size depends on numbers is refused by name.
"""

from __future__ import annotations

import pathlib
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from models import deltas_of
from pathtune.ops import DeltaTarget

# of aten; the host waits for numbers, or the result's size depends on them
REFUSED = {
    "_local_scalar_dense": "a number is read on the host",
    "is_nonzero": "a number is read on the host",
    "equal": "a number is read on the host",
    "nonzero": "the result's size depends on numbers",
    "nonzero_numpy": "the result's size depends on numbers",
    "argwhere": "the result's size depends on numbers",
    "masked_select": "the result's size depends on numbers",
    "unique_dim": "the result's size depends on numbers",
    "_unique": "the result's size depends on numbers",
    "_unique2": "the result's size depends on numbers",
    "unique_consecutive": "the result's size depends on numbers",
    "bincount": "the result's size depends on numbers",
    "_pin_memory": "pinned memory is allocated",
    "pin_memory": "pinned memory is allocated",
}


class CaptureError(AssertionError):
    """An operation that a CUDA graph cannot capture, and where it was asked for."""


class CaptureLint(TorchDispatchMode):
    """Raises CaptureError at the first such operation on meta tensors; `n_seen` counts operations on them."""

    def __init__(self):
        super().__init__()
        self.n_seen = 0
        self._made_of_numbers = _MadeOfNumbers()

    def __enter__(self):
        self._made_of_numbers.__enter__()
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self._made_of_numbers.__exit__(*exception)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        given = list(_tensors((args, kwargs or {})))
        on_device = [t.is_meta for t in given]
        if any(on_device):
            self.n_seen += 1
            if not all(on_device):
                raise CaptureError(_sentence(name, "operands lie on the host and on the device"))
            if name in REFUSED:
                raise CaptureError(_sentence(name, REFUSED[name]))
            if name.startswith("index") and any(t.dtype in (torch.bool, torch.uint8) for t in given[1:]):
                raise CaptureError(_sentence(name, "an index is a mask, so that the size depends on numbers"))
            if name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
                raise CaptureError(_sentence(name, "the result's size depends on numbers"))
        elif name in ("pin_memory", "_pin_memory"):
            raise CaptureError(_sentence(name, REFUSED[name]))
        device = (kwargs or {}).get("device")
        if given and device is not None and any(torch.device(device).type != t.device.type for t in given):
            raise CaptureError(_sentence(name, f"a copy from {given[0].device} to {device}"))
        return function(*args, **(kwargs or {}))


class _MadeOfNumbers(TorchFunctionMode):
    """Refuses a tensor that is made of Python's numbers on the device, which no dispatch mode sees."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor) and result.is_meta:
            raise CaptureError(_sentence(function.__name__, "a copy from cpu to meta"))
        return result


class NoKernels:
    """In the place of the CUDA kernels: every one is found, and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 32  # channels of a chunk, where that is asked


def move_to_meta(model: Any) -> None:
    """A sparse model of the MACE kind as if it were on a device; what radial tables are made of stays on the host."""
    forward = model.backbone._forward
    kept = {id(p) for p in forward.tables.watched.values()}
    stock = model.backbone.stock
    for module in (model, stock):
        for p in module.parameters():
            if id(p) not in kept and not p.is_meta:
                torch.utils.swap_tensors(p, torch.nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad))
    for module in (model, stock.scale_shift):  # a forward by our operators reads no other buffer of the stock model
        for owner in module.modules():
            owner._buffers.update({name: b.to("meta") for name, b in owner._buffers.items() if b is not None})
    for delta in deltas_of(model):
        old = delta.target
        segment = None if old.segment is None else old.segment.to("meta")
        delta.target = DeltaTarget(delta.indices, segment, old.candidates)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for element in value:
            yield from _tensors(element)


def _sentence(name: str, reason: str) -> str:
    frames = [f for f in traceback.extract_stack() if f.filename != __file__ and "/torch/" not in f.filename]
    return f"{name} at {pathlib.Path(frames[-1].filename).name}:{frames[-1].lineno}: {reason}"
