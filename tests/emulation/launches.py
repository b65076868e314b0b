"""What a step launches on a device, counted on tensors of the CPU: the launchers run, the kernels do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
    """Counts operations on torch's meta device, and copies to it."""

    def __init__(self):
        super().__init__()
        self.n_operations = self.n_copies = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if torch.is_tensor(result) and result.is_meta and does_launch(function, result):
            is_copy = torch.is_tensor(args[0]) and not args[0].is_meta
            self.n_copies += is_copy
            self.n_operations += not is_copy
        return result


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
