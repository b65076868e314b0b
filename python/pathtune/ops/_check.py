"""Argument checks shared by the operators: each names the argument, the value found and expected."""

from __future__ import annotations

import torch

KERNEL_DTYPES = {torch.float32: "f32", torch.float64: "f64"}


def check_same_kind(op: str, **tensors: torch.Tensor) -> None:
    """Raise TypeError unless all tensors share one supported dtype and one device."""
    (first_name, first), *rest = tensors.items()
    if first.dtype not in KERNEL_DTYPES:
        raise TypeError(f"{op}: {first_name} is {first.dtype}, expected torch.float32 or torch.float64")
    for name, tensor in rest:
        if tensor.dtype != first.dtype:
            raise TypeError(f"{op}: {name} is {tensor.dtype}, but {first_name} is {first.dtype}")
        if tensor.device != first.device:
            raise TypeError(f"{op}: {name} is on {tensor.device}, but {first_name} is on {first.device}")


def check_size(op: str, what: str, found: int, expected: int) -> None:
    """Raise ValueError unless `found == expected`."""
    if found != expected:
        raise ValueError(f"{op}: {what} is {found}, expected {expected}")
