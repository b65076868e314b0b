"""What the kernels of edge_conv are handed: csrc/edge_conv/records.hpp."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from pathtune.ops._records import record


@record
class EdgeConvSizes(NamedTuple):
    """Sizes of a call."""

    n_nodes: int
    n_edges: int
    n_rows: int
    dim_in: int
    dim_y: int
    dim_out: int
    weight_numel: int
    n_paths: int


@record
class EdgeConvIndex(NamedTuple):
    """Seven tensors of ConvGraph and two of the table, which is read on the host on every device."""

    sender: torch.Tensor
    receiver_ptr: torch.Tensor
    sender_order: torch.Tensor
    sender_ptr: torch.Tensor
    weight_row: torch.Tensor
    row_ptr: torch.Tensor
    row_edges: torch.Tensor
    paths: torch.Tensor
    coefficients: torch.Tensor


@record
class EdgeConvInputs(NamedTuple):
    """x, y, w, and the cotangent of out; None in the forward."""

    x: Any
    y: Any
    w: Any
    g: Any


@record
class EdgeConvAdjoints(NamedTuple):
    """Adjoints of the backward's gx, gy and gw; None where absent."""

    ax: Any
    ay: Any
    aw: Any


@record
class EdgeConvOutputs(NamedTuple):
    """Gradients with respect to g, x, y and w; None where not wanted."""

    gg: Any
    gx: Any
    gy: Any
    gw: Any


@record
class ConvSizes(NamedTuple):
    """Sizes of a table on CUDA."""

    n_paths: int
    n_blocks: int
    n_batches: int
    n_slots: int
    n_in_slots: int
    max_m: int
    max_mul: int


@record
class ConvTable(NamedTuple):
    """A table on CUDA."""

    paths: torch.Tensor
    blocks: torch.Tensor
    batches: torch.Tensor
    contract_ptr: torch.Tensor
    contract_index: torch.Tensor
    contract_value: torch.Tensor
    transposed_ptr: torch.Tensor
    transposed_index: torch.Tensor
    transposed_value: torch.Tensor


@record
class ConvCut(NamedTuple):
    """Channels of a thread and of a block."""

    vector: int
    chunk: int


@record
class ConvWants(NamedTuple):
    """What a pass over receivers computes, and whether it has adjoints."""

    value: bool
    gradient: bool
    gy: bool
    adjoint: bool
