"""edge_conv on CUDA: a table as the kernels read it, and their calls (csrc/edge_conv/cuda.hpp)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import torch

from pathtune.ops._edge_conv_records import (
    ConvCut,
    ConvSizes,
    ConvTable,
    ConvWants,
    EdgeConvAdjoints,
    EdgeConvIndex,
    EdgeConvInputs,
    EdgeConvOutputs,
    EdgeConvSizes,
)
from pathtune.ops._kernels import call_cuda
from pathtune.ops._records import addresses

# A batch of paths, whose M lie in shared memory together, ends before it has more entries of M than this: 4 KB in
# float32, twice that with adjoints. Published models of l <= 2 have one batch.
MAX_BATCH = 256
DIMS = (1, 3, 5, 7, 9, 11)  # 2l+1 of the blocks of x that there are kernels for

# How gw is written, as enum WeightRows.
ADD = 0
STORE = 1
PER_EDGE = 2


@dataclasses.dataclass(frozen=True)
class CudaTable:
    """A table on a device."""

    tensors: ConvTable
    sizes: ConvSizes
    is_even: bool  # every offset and multiplicity is a multiple of two
    covers_out: bool  # every component of out has a path


def cuda_table(
    paths: torch.Tensor, coefficients: torch.Tensor, like: torch.Tensor, dim_y: int, dim_out: int
) -> CudaTable:
    """The table for the device and dtype of `like`. Raises ValueError where an irrep of x has l > 5.

    Tables are recognised by their content: a few microseconds for some kilobytes, right under torch.compile and
    after a copy of the model.
    """
    return _cuda_table(paths.numpy().tobytes(), coefficients.numpy().tobytes(), like.device, like.dtype, dim_y, dim_out)


@functools.lru_cache(maxsize=256)
def _cuda_table(paths: bytes, coefficients: bytes, device: torch.device, dtype: torch.dtype, dim_y: int, dim_out: int):
    rows = torch.frombuffer(bytearray(paths), dtype=torch.int64).reshape(-1, 10).tolist() if paths else []
    c = torch.frombuffer(bytearray(coefficients), dtype=torch.float64) if coefficients else torch.zeros(0).double()
    rows = sorted((row for row in rows if min(row[5:9]) > 0), key=lambda row: row[0])  # those of a block of x in line
    for row in rows:
        if row[6] not in DIMS:
            raise ValueError(f"edge_conv: a block of x has {row[6]} components, on CUDA expected one of {DIMS}")
    blocks, n_slots = _blocks(rows)
    batches = _batches(rows)
    path_rows = []
    in_slot = 0
    for batch in batches:
        m_offset = 0
        for p in batch:
            in_offset, _, out_offset, weight_offset, _, mul, dim1, _, dim3, out_mul = rows[p]
            if path_rows and path_rows[-1][0] != in_offset:
                in_slot += path_rows[-1][5]
            slot = blocks[out_offset, out_mul, mul, dim3]
            path_rows.append((in_offset, weight_offset, out_offset, out_mul, mul, dim1, dim3, slot, in_slot, m_offset))
            m_offset += dim1 * dim3
    n_in_slots = in_slot + path_rows[-1][5] if path_rows else 0
    contract, transposed, first_m = _sparse(rows, batches, c, dim_y)
    first_path = [0, *itertools.accumulate(len(batch) for batch in batches)]
    ints = lambda values, width: torch.tensor(values, dtype=torch.int32).reshape(-1, width).to(device)  # noqa: E731
    numbers = lambda values: torch.tensor(values, dtype=torch.float64).to(device, dtype)  # noqa: E731
    contract_ptr, contract_index, contract_value = contract
    transposed_ptr, transposed_index, transposed_value = transposed
    tensors = ConvTable(
        paths=ints(path_rows, 10),
        blocks=ints([(*key, slot) for key, slot in blocks.items()], 5),
        batches=ints(list(zip(first_path, first_m)), 2),
        contract_ptr=ints(contract_ptr, 1),
        contract_index=ints(contract_index, 1),
        contract_value=numbers(contract_value),
        transposed_ptr=ints(transposed_ptr, 1),
        transposed_index=ints(transposed_index, 1),
        transposed_value=numbers(transposed_value),
    )
    sizes = ConvSizes(
        n_paths=len(rows),
        n_blocks=len(blocks),
        n_batches=len(batches),
        n_slots=n_slots,
        n_in_slots=n_in_slots,
        max_m=max((b - a for a, b in itertools.pairwise(first_m)), default=0),
        max_mul=max((row[5] for row in rows), default=0),
    )
    return CudaTable(
        tensors=tensors,
        sizes=sizes,
        is_even=all(value % 2 == 0 for row in rows for value in (row[0], row[2], row[3], row[5], row[9])),
        covers_out=sum(mul * dim3 for _, _, mul, dim3 in blocks) == dim_out,
    )


def _blocks(rows: Sequence) -> tuple[dict[tuple[int, int, int, int], int], int]:
    """First slot of each (out_offset, out_mul, mul, dim3) that paths add to, and the number of slots."""
    slots = {}
    n_slots = 0
    for row in rows:
        key = (row[2], row[9], row[5], row[8])
        if key not in slots:
            slots[key] = n_slots
            n_slots += row[8]
    return slots, n_slots


def _batches(rows: Sequence) -> list[list[int]]:
    batches = []
    size = 0
    for p, row in enumerate(rows):
        if not batches or size + row[6] * row[8] > MAX_BATCH:
            batches.append([])
            size = 0
        batches[-1].append(p)
        size += row[6] * row[8]
    return batches


def _sparse(rows: Sequence, batches: list[list[int]], coefficients: torch.Tensor, dim_y: int):
    """(ptr, index, value) of M = contract y, of gy += transposed gM for each batch, and the first M of each batch."""
    contract = []
    transposed = []
    first_m = [0]
    for batch in batches:
        by_y = [[] for _ in range(dim_y)]
        m = 0
        for p in batch:
            _, y_offset, _, _, c_offset, _, dim1, dim2, dim3, _ = rows[p]
            c = coefficients[c_offset : c_offset + dim1 * dim2 * dim3].reshape(dim1, dim2, dim3).tolist()
            for k, i in itertools.product(range(dim3), range(dim1)):
                entries = [(y_offset + j, c[i][j][k]) for j in range(dim2) if c[i][j][k] != 0.0]
                contract.append(entries)
                for j, value in entries:
                    by_y[j].append((m, value))
                m += 1
        transposed += by_y
        first_m.append(first_m[-1] + m)
    return _compressed(contract), _compressed(transposed), first_m


def _compressed(rows: list[list[tuple[int, float]]]) -> tuple[list[int], list[int], list[float]]:
    entries = [entry for row in rows for entry in row]
    ptr = [0, *itertools.accumulate(len(row) for row in rows)]
    return ptr, [index for index, _ in entries], [value for _, value in entries]


def call_edge_conv(
    order: int,
    sizes: EdgeConvSizes,
    index: EdgeConvIndex,
    edges_per_row: int,
    inputs: EdgeConvInputs,
    adjoints: EdgeConvAdjoints,
    outputs: EdgeConvOutputs,
) -> None:
    """All passes: order 0 forward, 1 backward, 2 double backward. Tensors are contiguous.

    edges_per_row: the most edges that share a row of w. Where torch asks for deterministic algorithms, nothing
    depends on the order of additions.
    """
    table = cuda_table(index.paths, index.coefficients, inputs.x, sizes.dim_y, sizes.dim_out)
    sizes = sizes._replace(n_paths=table.sizes.n_paths)
    gg, gx, gy, gw = outputs
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    if gg is not None and not table.covers_out:
        gg.zero_()
    if gx is not None:
        gx.zero_()
    rows = STORE if edges_per_row <= 1 else PER_EDGE if edges_per_row > 2 and is_deterministic else ADD
    gw_to = gw
    if gw is not None and rows == PER_EDGE:
        gw_to = gw.new_zeros(sizes.n_edges, sizes.weight_numel)
    elif gw is not None and (rows == ADD or sizes.n_rows != sizes.n_edges or sizes.n_paths == 0):
        gw.zero_()
    gx_to = None if is_deterministic else gx
    results = EdgeConvOutputs(gg=gg, gx=gx_to, gy=gy, gw=gw_to)
    _call_receivers(order, rows, sizes, index, table, inputs, adjoints, results)
    if gw_to is not gw:
        gw.zero_().index_add_(0, index.weight_row, gw_to)  # in the order of edges, as deterministic algorithms do
    if gx is not None and is_deterministic:
        _call_senders(order, sizes, index, table, inputs, adjoints, gx)


def _call_senders(
    order: int,
    sizes: EdgeConvSizes,
    index: EdgeConvIndex,
    table: CudaTable,
    inputs: EdgeConvInputs,
    adjoints: EdgeConvAdjoints,
    gx: torch.Tensor,
) -> None:
    receiver = torch.repeat_interleave(index.receiver_ptr.diff(), output_size=sizes.n_edges)
    call_cuda(
        "edge_conv_senders",
        inputs.x,
        order,
        receiver.data_ptr(),
        sizes,
        addresses(EdgeConvIndex, index),
        table.sizes,
        addresses(ConvTable, table.tensors),
        addresses(EdgeConvInputs, inputs),
        addresses(EdgeConvAdjoints, adjoints),
        gx.data_ptr(),
    )


def _call_receivers(
    order: int,
    rows: int,
    sizes: EdgeConvSizes,
    index: EdgeConvIndex,
    table: CudaTable,
    inputs: EdgeConvInputs,
    adjoints: EdgeConvAdjoints,
    outputs: EdgeConvOutputs,
) -> None:
    x = inputs.x
    gy = outputs.gy
    wants = ConvWants(
        value=outputs.gg is not None,
        gradient=any(t is not None for t in outputs[1:]),
        gy=gy is not None,
        adjoint=order == 2,
    )
    if sizes.n_nodes == 0 or sizes.n_paths == 0 or not (wants.value or wants.gradient):
        if gy is not None:
            gy.zero_()
        return
    vector = 2 if order < 2 and _goes_by_two(sizes, table, [t for t in (*inputs, *outputs) if t is not None]) else 1
    chunk = call_cuda("edge_conv_chunk", x, sizes, table.sizes, wants, vector)
    n_chunks = -(-table.sizes.max_mul // chunk)
    parts = gy if gy is None or n_chunks == 1 else gy.new_empty(n_chunks, *gy.shape)
    call_cuda(
        "edge_conv_receivers",
        x,
        order,
        rows,
        ConvCut(vector, chunk),
        sizes,
        addresses(EdgeConvIndex, index),
        table.sizes,
        addresses(ConvTable, table.tensors),
        addresses(EdgeConvInputs, inputs),
        addresses(EdgeConvAdjoints, adjoints),
        addresses(EdgeConvOutputs, outputs._replace(gy=parts)),
    )
    if parts is not gy:
        call_cuda("edge_conv_sum_parts", x, parts.data_ptr(), gy.data_ptr(), n_chunks, gy.numel())


def _goes_by_two(sizes: EdgeConvSizes, table: CudaTable, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether a thread may load two channels at once."""
    is_even = table.is_even and all(n % 2 == 0 for n in (sizes.dim_in, sizes.dim_out, sizes.weight_numel))
    return is_even and tensors[0].dtype == torch.float32 and all(t.data_ptr() % 8 == 0 for t in tensors)
