"""soft_threshold: formula and contract in csrc/soft_threshold/soft_threshold.hpp.

Outside of autograd, as W' itself is: ops/delta_node.py gives S(D, d) its derivatives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch

from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._kernels import call_cpu, call_cuda, uses_cuda
from pathtune.ops._records import record


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThresholdedLayer:
    """One layer's delta, and the weights that it is written into."""

    values: torch.Tensor  # [n_candidates] D
    threshold: torch.Tensor | None = None  # [n_thresholds] d; None: S = D
    segment: torch.Tensor | None = None  # [n_candidates] int64, which threshold an entry obeys; None: the only one
    indices: torch.Tensor | None = None  # [n_candidates] int64, ascending, into the weights
    base: torch.Tensor | None = None  # [weight_numel] W
    effective: torch.Tensor | None = None  # [weight_numel] W', equal to W beside the candidates; None: S only


# For each layer, how many entries are active, and how many of W' have another value now. On CUDA a tensor
# [n_layers, 2] on the device, so that nobody waits for numbers that nobody reads.
Counts = Sequence[tuple[int, int]] | torch.Tensor


def soft_threshold(layers: Sequence[ThresholdedLayer]) -> tuple[list[torch.Tensor], Counts]:
    """S(D, d) = sign(D) relu(|D| - d) of every layer, and W' = W + S in place at the candidates.

    Returns S [n_candidates], and the counts. Where W' has changed, autograd will refuse a backward pass through the
    W' that was; on CUDA, where nobody looks, after every call. Raises TypeError on dtype or device, ValueError on a
    size that disagrees.
    """
    for layer in layers:
        _check(layer)
    tensors = [_tensors_of(layer) for layer in layers]
    if torch.compiler.is_compiling():
        results = [_soft_threshold(*given) for given in tensors]
        if layers and layers[0].values.device.type == "cuda":
            return [delta for delta, _ in results], torch.stack([counts for _, counts in results])
        return [delta for delta, _ in results], [(int(n), int(m)) for _, (n, m) in results]
    deltas, counts = _run(tensors)
    if isinstance(counts, torch.Tensor):
        changed = [layer.effective for layer in layers if layer.effective is not None]
    else:
        changed = [given.effective for given, (_, n_changed) in zip(tensors, counts) if n_changed]
    if changed:
        torch.autograd.graph.increment_version(changed)
    return deltas, counts


@record
class ThresholdRecord(NamedTuple):
    """A layer as the kernel reads it."""

    n_candidates: int
    values: int
    thresholds: int
    segment: int
    indices: int
    base: int
    effective: int
    delta: int


class LayerTensors(NamedTuple):
    """A ThresholdedLayer whose absent tensors are empty."""

    values: torch.Tensor
    threshold: torch.Tensor
    segment: torch.Tensor
    indices: torch.Tensor
    base: torch.Tensor
    effective: torch.Tensor


def _tensors_of(layer: ThresholdedLayer) -> LayerTensors:
    given = (getattr(layer, name) for name in LayerTensors._fields)
    return LayerTensors._make(layer.values.new_empty(0) if t is None else t.contiguous() for t in given)


def _check(layer: ThresholdedLayer) -> None:
    op = "soft_threshold"
    n = layer.values.numel()
    floats = {name: getattr(layer, name) for name in ("values", "threshold", "base", "effective")}
    check_same_kind(op, **{name: t for name, t in floats.items() if t is not None})
    if layer.segment is not None:
        check_size(op, "number of segments", layer.segment.numel(), n)
    if layer.effective is None:
        return
    if layer.indices is None or layer.base is None:
        raise ValueError(f"{op}: effective is given without indices or base")
    check_size(op, "number of indices", layer.indices.numel(), n)
    check_size(op, "number of effective weights", layer.effective.numel(), layer.base.numel())
    if not layer.effective.is_contiguous():
        raise ValueError(f"{op}: effective has strides {layer.effective.stride()}, expected it contiguous")


def _run(layers: Sequence[LayerTensors]) -> tuple[list[torch.Tensor], Counts]:
    """S of each layer, and the counts; writes W'."""
    if not layers:
        return [], []
    deltas = [torch.empty_like(given.values, memory_format=torch.contiguous_format) for given in layers]
    records = [
        ThresholdRecord(
            n_candidates=delta.numel(),
            values=given.values.data_ptr(),
            thresholds=given.threshold.data_ptr(),
            segment=given.segment.data_ptr(),
            indices=given.indices.data_ptr(),
            base=given.base.data_ptr(),
            effective=given.effective.data_ptr(),
            delta=delta.data_ptr(),
        )
        for given, delta in zip(layers, deltas)
    ]
    if not uses_cuda(deltas[0]):
        return deltas, call_cpu("soft_threshold", deltas[0], records)
    counts = deltas[0].new_zeros(len(layers), 2, dtype=torch.int64)
    call_cuda("soft_threshold", deltas[0], records, counts.data_ptr())
    return deltas, counts


@torch.library.custom_op("pathtune::soft_threshold", mutates_args=("effective",), device_types=("cpu", "cuda"))
def _soft_threshold(
    values: torch.Tensor,
    threshold: torch.Tensor,
    segment: torch.Tensor,
    indices: torch.Tensor,
    base: torch.Tensor,
    effective: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one layer: S, and the counts [2] of active and of changed entries."""
    (delta,), (counts,) = _run([LayerTensors(values, threshold, segment, indices, base, effective)])
    return delta, torch.as_tensor(counts)


@_soft_threshold.register_fake
def _(values, threshold, segment, indices, base, effective):
    return torch.empty_like(values), values.new_empty(2, dtype=torch.int64)
