"""Which kernels run on a tensor, and how they are called: the sole importer of `_core`."""

from __future__ import annotations

from typing import Any

import torch  # before _core: both then share torch's OpenMP runtime

from pathtune.ops import _core
from pathtune.ops._check import KERNEL_DTYPES

# The tests' emulation of the CUDA kernels; where it is set, it takes the place of the CPU's on CPU tensors.
emulated: Any = None


def uses_cuda(like: torch.Tensor) -> bool:
    """Whether the CUDA kernels run on `like`, with their arguments."""
    return like.device.type == "cuda" or emulated is not None


def cuda_status() -> str:
    """Empty where tensors on a CUDA device can be computed with, else the reason."""
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no usable CUDA device"
    return _core.cuda_status()


def record_fields(name: str) -> str:
    """Fields of the extension's record, separated by commas; empty where it has no such record."""
    return _core.records.get(name, "")


def call_cpu(name: str, like: torch.Tensor, *arguments: Any) -> Any:
    """The CPU kernel `name` for the dtype of `like`; the number of threads is added to the arguments."""
    return getattr(_core, f"{name}_{KERNEL_DTYPES[like.dtype]}")(*arguments, torch.get_num_threads())


def call_cuda(name: str, like: torch.Tensor, *arguments: Any) -> Any:
    """The CUDA kernel `name` for the dtype of `like`, on its device and torch's current stream there, which is added
    to the arguments. Raises RuntimeError where this build or machine has no CUDA."""
    kernel = f"{name}_{KERNEL_DTYPES[like.dtype]}"
    if like.device.type != "cuda":
        return getattr(emulated, kernel)(*arguments, 0)
    reason = cuda_status()
    if reason:
        raise RuntimeError(f"{name}: tensors are on {like.device}, but {reason}")
    with torch.cuda.device(like.device):
        return getattr(_core.cuda, kernel)(*arguments, torch.cuda.current_stream().cuda_stream)
