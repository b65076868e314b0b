"""edge_conv on CUDA: a table as the kernels read it, and their calls (csrc/edge_conv/cuda.hpp)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import torch

from pathtune.ops._kernels import call_cuda

# A batch of paths, whose M lie in shared memory together, ends before it has more entries of M than this: 4 KB in
# float32, twice that with adjoints. Published models of l <= 2 have one batch.
MAX_BATCH = 256
DIMS = (1, 3, 5, 7, 9, 11)  # 2l+1 of the blocks of x that there are kernels for

ADD, STORE, PER_EDGE = 0, 1, 2  # how gw is written, as enum WeightRows


@dataclasses.dataclass(frozen=True)
class CudaTable:
    """A table on a device."""

    tensors: tuple[torch.Tensor, ...]  # the nine of ConvTable
    counts: tuple[int, ...]  # the seven of ConvSizes
    is_even: bool  # every offset and multiplicity is a multiple of two
    covers_out: bool  # every component of out has a path

    def addresses(self) -> tuple[int, ...]:
        return tuple(t.data_ptr() for t in self.tensors)


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
    path_rows, in_slot = [], 0
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
    sparse = []
    for ptr, index, value in (contract, transposed):
        sparse += [ints(ptr, 1), ints(index, 1), torch.tensor(value, dtype=torch.float64).to(device, dtype)]
    max_m = max((b - a for a, b in itertools.pairwise(first_m)), default=0)
    muls = [row[5] for row in rows]
    return CudaTable(
        tensors=(ints(path_rows, 10), ints([(*key, slot) for key, slot in blocks.items()], 5),
                 ints(list(zip(first_path, first_m)), 2), *sparse),
        counts=(len(rows), len(blocks), len(batches), n_slots, n_in_slots, max_m, max(muls, default=0)),
        is_even=all(value % 2 == 0 for row in rows for value in (row[0], row[2], row[3], row[5], row[9])),
        covers_out=sum(mul * dim3 for _, _, mul, dim3 in blocks) == dim_out,
    )  # fmt: skip


def _blocks(rows: Sequence) -> tuple[dict[tuple[int, int, int, int], int], int]:
    """First slot of each (out_offset, out_mul, mul, dim3) that paths add to, and the number of slots."""
    slots, n_slots = {}, 0
    for row in rows:
        key = (row[2], row[9], row[5], row[8])
        if key not in slots:
            slots[key] = n_slots
            n_slots += row[8]
    return slots, n_slots


def _batches(rows: Sequence) -> list[list[int]]:
    batches, size = [], 0
    for p, row in enumerate(rows):
        if not batches or size + row[6] * row[8] > MAX_BATCH:
            batches.append([])
            size = 0
        batches[-1].append(p)
        size += row[6] * row[8]
    return batches


def _sparse(rows: Sequence, batches: list[list[int]], coefficients: torch.Tensor, dim_y: int):
    """(ptr, index, value) of M = contract y, of gy += transposed gM for each batch, and the first M of each batch."""
    contract, transposed = [], []
    first_m = [0]
    for batch in batches:
        by_y, m = [[] for _ in range(dim_y)], 0
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


def call_edge_conv(order: int, graph, table, edges_per_row: int, inputs, adjoints, outputs) -> None:
    """All passes: order 0 forward, 1 backward, 2 double backward.

    graph: the seven tensors of EdgeConvGraph; table: paths and coefficients; inputs (x, y, w, g), adjoints (ax, ay, aw)
    and outputs (gg, gx, gy, gw), contiguous, None where absent; edges_per_row: the most edges that share a row of w.
    Where torch asks for deterministic algorithms, nothing depends on the order of additions.
    """
    x, y, w, g = inputs
    gg, gx, gy, gw = outputs
    dim_out = (gg if g is None else g).shape[1]
    on_device = cuda_table(*table, x, y.shape[1], dim_out)
    shape = (x.shape[0], y.shape[0], w.shape[0], x.shape[1], y.shape[1], dim_out, w.shape[1])
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    if gg is not None and not on_device.covers_out:
        gg.zero_()
    if gx is not None:
        gx.zero_()
    rows = STORE if edges_per_row <= 1 else PER_EDGE if edges_per_row > 2 and is_deterministic else ADD
    gw_to = gw
    if gw is not None and rows == PER_EDGE:
        gw_to = gw.new_zeros(y.shape[0], w.shape[1])
    elif gw is not None and (rows == ADD or w.shape[0] != y.shape[0] or on_device.counts[0] == 0):
        gw.zero_()
    gx_to = None if is_deterministic else gx
    _call_receivers(order, shape, on_device, rows, graph, inputs, adjoints, (gg, gx_to, gy, gw_to))
    if gw_to is not gw:
        gw.zero_().index_add_(0, graph[4], gw_to)  # in the order of edges, as deterministic algorithms do
    if gx is not None and is_deterministic:
        sizes = graph[1].diff()
        receiver = torch.repeat_interleave(sizes, output_size=y.shape[0])
        call_cuda("edge_conv_senders", x, order, shape, on_device.counts, _addresses(graph), receiver.data_ptr(),
                  on_device.addresses(), _addresses(inputs), _addresses(adjoints), gx.data_ptr())  # fmt: skip


def _call_receivers(order: int, shape, table: CudaTable, rows: int, graph, inputs, adjoints, outputs) -> None:
    x = inputs[0]
    gg, gx, gy, gw = outputs
    wants = (gg is not None, any(t is not None for t in (gx, gy, gw)), gy is not None, order == 2)
    if shape[0] == 0 or table.counts[0] == 0 or not any(wants[:2]):
        if gy is not None:
            gy.zero_()
        return
    by_two = x.dtype == torch.float32 and order < 2 and table.is_even
    by_two = by_two and all(n % 2 == 0 for n in (shape[3], shape[5], shape[6]))
    vector = 2 if by_two and all(t.data_ptr() % 8 == 0 for t in (*inputs, *outputs) if t is not None) else 1
    chunk = call_cuda("edge_conv_chunk", x, shape, table.counts, wants, vector)
    n_chunks = -(-table.counts[-1] // chunk)
    parts = gy if gy is None or n_chunks == 1 else gy.new_empty(n_chunks, *gy.shape)
    call_cuda("edge_conv_receivers", x, order, shape, table.counts, (vector, chunk), rows, _addresses(graph),
              table.addresses(), _addresses(inputs), _addresses(adjoints), _addresses((gg, gx, parts, gw)))  # fmt: skip
    if parts is not gy:
        call_cuda("edge_conv_sum_parts", x, parts.data_ptr(), gy.data_ptr(), n_chunks, gy.numel())


def _addresses(tensors) -> tuple[int, ...]:
    return tuple(0 if t is None else t.data_ptr() for t in tensors)
