"""What a step launches on a device, counted on tensors of the CPU: the launchers run, the kernels do not."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from pathtune.ops import _kernels, _operator

NO_LAUNCH = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_local_scalar_dense"}


class Operations(TorchDispatchMode):
    """Counts torch's operations but for views and allocations; one that launches twice counts once."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.n_read = 0  # numbers read on the host by item(), for which a device is waited for; tolist() is not seen

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.n_read += name == "_local_scalar_dense"
        if does_launch(function, result):
            self.counts[name] += 1
        return result


def does_launch(function: Any, result: Any) -> bool:
    """Whether an operation of torch, which gave `result`, is more than a view or an allocation."""
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
    outputs = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if torch.is_tensor(t)]
    return not is_view and function.overloadpacket.__name__ not in NO_LAUNCH and any(t.numel() for t in outputs)


class Preparing(TorchDispatchMode):
    """Counts operations on torch's meta device, copies to it, and those of them that the host waits for.

    A number that the host asks of the device is an error there.
    """

    def __init__(self):
        super().__init__()
        self.n_operations = self.n_copies = self.n_blocking = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if torch.is_tensor(result) and result.is_meta and does_launch(function, result):
            is_copy = any(torch.is_tensor(t) and not t.is_meta for t in args)
            self.n_copies += is_copy
            self.n_blocking += is_copy and True not in (*args[2:3], (kwargs or {}).get("non_blocking"))
            self.n_operations += not is_copy
        return result


class Peak(TorchDispatchMode):
    """The most bytes of tensors on torch's meta device that were alive at once, of those made in here."""

    def __init__(self):
        super().__init__()
        self.n_bytes = self.n_now = 0
        self._seen: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if torch.is_tensor(tensor) and tensor.is_meta:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen[storage] = True
            weakref.finalize(storage, self._free, storage.nbytes())
            self.n_now += storage.nbytes()
            self.n_bytes = max(self.n_bytes, self.n_now)

    def _free(self, n_bytes: int) -> None:
        self.n_now -= n_bytes


class _Named:
    """The emulated module; remembers which of its functions was called last."""

    def __init__(self, module: Any):
        self._module, self.last = module, ""

    def __getattr__(self, name: str) -> Any:
        self.last = name
        return getattr(self._module, name)


def count(module: Any, step: Callable[[], None]) -> tuple[Counter[str], Operations]:
    """Launches of our kernels by the binding that makes them, and torch's operations, of one call of `step`.

    The numbers that the step computes are garbage.
    """
    kernels: Counter[str] = Counter()
    named, operations = _Named(module), Operations()
    before, is_traced = _kernels.emulated, _operator._is_traced
    _kernels.emulated, _operator._is_traced = named, lambda: False  # a dispatch mode is no tracing here
    module.set_launcher(lambda *_: kernels.update([named.last.rpartition("_f")[0]]))
    try:
        with operations:
            step()
    finally:
        module.set_launcher(None)
        _kernels.emulated, _operator._is_traced = before, is_traced
    return kernels, operations
