"""What a kernel is handed together: integers by their names, which csrc and Python must agree on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch

from pathtune.ops._kernels import record_fields

Record = TypeVar("Record", bound=tuple)


def record(cls: type[Record]) -> type[Record]:
    """Decorator of a NamedTuple of sizes and addresses: the PATHTUNE_RECORD of the same name in csrc/*/records.hpp.

    Raises ImportError where the extension's record has other fields, or the same in another order.
    """
    found = ", ".join(getattr(cls, "_fields", ()))
    expected = record_fields(cls.__name__)
    if found != expected:
        raise ImportError(f"the record {cls.__name__} is ({found}) in Python, but ({expected}) in the extension")
    return cls


def addresses(cls: type[Record], tensors: Iterable[torch.Tensor | None]) -> Record:
    """The record `cls` of the addresses of its tensors, 0 where there is none."""
    make: Any = cls
    return make._make([0 if t is None else t.data_ptr() for t in tensors])
