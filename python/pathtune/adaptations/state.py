"""Whether what a checkpoint holds of an adaptation or an optimizer can be given back to it."""

from __future__ import annotations

from typing import Any

import torch

from pathtune.errors import InputError
from pathtune.files import shown

LARGEST = 1e300  # number beside tensors


def check_like(value: Any, like: Any, where: str, at: str) -> None:
    """Raise InputError unless `value` is built as `like` is, in keys, lengths, types and shapes, of finite numbers."""
    if isinstance(like, torch.Tensor) and isinstance(value, torch.Tensor):
        if (value.dtype, value.shape) != (like.dtype, like.shape):
            found, expected = (f"{t.dtype} {list(t.shape)}" for t in (value, like))
            raise InputError(f"{where}: {at} is {found}, expected {expected}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"{where}: {at} holds a number that is not finite, expected finite ones")
    elif isinstance(like, dict) and isinstance(value, dict) and value.keys() == like.keys():
        for key in like:
            check_like(value[key], like[key], where, f"{at}, {key}")
    elif isinstance(like, (list, tuple)) and isinstance(value, type(like)) and len(value) == len(like):
        for i, (element, other) in enumerate(zip(value, like)):
            check_like(element, other, where, f"{at}[{i}]")
    elif isinstance(like, (int, float)) and not isinstance(like, bool):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST:
            raise InputError(f"{where}: {at} is {shown(value)}, expected a finite number")
    elif type(value) is not type(like) or isinstance(like, (torch.Tensor, dict, list, tuple)):
        found, expected = _described(value), _described(like)
        raise InputError(f"{where}: {at} is {found}, expected {expected}")


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return f"a table of {', '.join(map(shown, value)) or 'nothing'}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__}"
