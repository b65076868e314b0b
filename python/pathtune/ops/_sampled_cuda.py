"""sampled_gradient on CUDA: the tables of csrc/sampled_gradient/cuda.hpp, and the call of its kernels.

The candidates' index stays on the CPU. What the kernels want of it is made on the first call for a set of
candidates and a device, and kept for as long as the set lives: later calls copy nothing and wait for nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from pathtune.ops._kernels import call_cuda
from pathtune.ops._records import record
from pathtune.ops._sampled_layer import Layer, SampledTables, address, term_records

# As in the header.
ITEM_SIZE = 256
ITEM_FIELDS = 10  # int32, and a float64 after them
U_CHANNELS = 128
V_CHANNELS = 192
TERMS_AT_ONCE = 2
# An item's channels begin at a multiple of so many, 16 bytes in float32.
PACK = 4
N_BLOCKS = 1024  # of a call, where there are rows enough: several for every multiprocessor of the largest devices
MIN_ROWS = 64  # of a chunk: fewer, and the sum over chunks costs as much as they do

_tables: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # place of the candidates -> device -> DeviceTable


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceTable:
    """Candidates of a layer as the kernels want them."""

    paths: torch.Tensor  # the layer's, as they were given
    items: torch.Tensor  # [n_items, ITEM_FIELDS + 2] int32, on the device
    channels: torch.Tensor  # [n_candidates, 2] int16
    place: torch.Tensor  # [n_candidates] int32
    most_components: int  # 2l + 1 of any item


@record
class SampledDeviceLayer(NamedTuple):
    """A layer as CUDA's kernels read it."""

    items: int
    channels: int
    place: int
    n_items: int
    n_candidates: int
    dim_in: int
    dim_out: int
    first_term: int
    end_term: int
    n_chunks: int
    partial: int
    other: int
    delta: int
    segment: int
    n_thresholds: int
    block_sums: int
    grad_values: int
    grad_thresholds: int


def fill_gradients(layers: Sequence[Layer]) -> None:
    """As of _sampled.py."""
    like = layers[0].grad_values
    tables = [_table(layer.tables, like.device) if layer.tables else None for layer in layers]
    n_items = sum(len(t.items) * _n_pairs(layer) for t, layer in zip(tables, layers) if t)
    n_chunks = [0 if t is None else _n_chunks(layer, t, n_items) for t, layer in zip(tables, layers)]
    n_values = [n * _n_pairs(layer) * layer.grad_values.numel() for n, layer in zip(n_chunks, layers)]
    n_sums = [-(-layer.grad_values.numel() // ITEM_SIZE) * layer.grad_thresholds.numel() for layer in layers]
    partial = like.new_empty(sum(n_values)).split(n_values)
    block_sums = like.new_empty(sum(n_sums), dtype=torch.float64).split(n_sums)
    records = []
    terms = []
    for i, (layer, table) in enumerate(zip(layers, tables)):
        first_term = len(terms)
        terms += term_records(layer)
        records.append(
            SampledDeviceLayer(
                items=address(table and table.items),
                channels=address(table and table.channels),
                place=address(table and table.place),
                n_items=len(table.items) if table else 0,
                n_candidates=layer.grad_values.numel(),
                dim_in=layer.dim_in,
                dim_out=layer.dim_out,
                first_term=first_term,
                end_term=len(terms),
                n_chunks=n_chunks[i],
                partial=address(partial[i]),
                other=address(layer.other),
                delta=address(layer.delta),
                segment=address(layer.segment),
                n_thresholds=layer.grad_thresholds.numel(),
                block_sums=address(block_sums[i]),
                grad_values=address(layer.grad_values),
                grad_thresholds=address(layer.grad_thresholds),
            )
        )
    call_cuda("sampled_gradient", like, records, terms)


def _n_pairs(layer: Layer) -> int:
    return -(-len(layer.terms) // TERMS_AT_ONCE)


def _n_chunks(layer: Layer, table: DeviceTable, n_items: int) -> int:
    """Into how many chunks a species' rows are cut. Its rows are not known here, but those of an average one are."""
    rows = max(term.order.numel() / max(term.present.numel(), 1) for term in layer.terms) * table.most_components
    return max(1, min(math.ceil(N_BLOCKS / max(n_items, 1)), math.ceil(rows / MIN_ROWS)))


def _table(tables: SampledTables, device: torch.device) -> DeviceTable:
    of_device: dict[torch.device, DeviceTable] = _tables.setdefault(tables.place, {})  # type: ignore
    if device not in of_device or of_device[device].paths is not tables.paths:
        of_device[device] = make_table(tables, device)
    return of_device[device]


def make_table(tables: SampledTables, device: torch.device) -> DeviceTable:
    """The tables of `_table`."""
    blocks, runs, u_tiles, v_tiles, v_row, place, paths, coefficients = (t.cpu() for t in tables)
    n = place.numel()
    block = torch.repeat_interleave(torch.arange(len(blocks)), blocks[:, 3] - blocks[:, 2])
    u_row = runs[torch.bucketize(torch.arange(n), runs[:, 1].long(), right=True), 0].long()
    u = _channel(u_row, u_tiles, blocks[block, 6])
    v = _channel(v_row.long(), v_tiles, blocks[block, 8])
    # Within a part, what the candidates span fits into the shared memory of a block; u and v still ascend there.
    u_part = u // U_CHANNELS
    v_part = v // V_CHANNELS
    key = (block * _n_values(v_part) + v_part) * _n_values(u_part) + u_part
    order = torch.argsort(key, stable=True)
    u = u[order]
    v = v[order]
    block = block[order]
    first, last = _stretches(key[order])
    item = torch.repeat_interleave(torch.arange(first.numel()), last - first)
    u_begin, u_width = _span(u, item, first.numel())
    v_begin, v_width = _span(v, item, first.numel())
    path, species = blocks[block[first], :2].unbind(1)
    in_offset, out_offset, _, n_components, mul_in, mul_out = paths[path].unbind(1)
    of_x = [in_offset + u_begin, u_width, mul_in]
    of_g = [out_offset + v_begin, v_width, mul_out]
    fields = torch.stack([*of_x, *of_g, n_components, species, first, last], dim=1).int()
    c = coefficients[path].contiguous().view(torch.int32).reshape(-1, 2)
    return DeviceTable(
        paths=tables.paths,
        items=torch.cat([fields, c], dim=1).to(device),
        channels=torch.stack([u - u_begin[item], v - v_begin[item]], dim=1).short().to(device),
        place=place[order].to(device),
        most_components=int(n_components.max()) if n else 1,
    )


def _channel(row: torch.Tensor, tiles: torch.Tensor, first_tile: torch.Tensor) -> torch.Tensor:
    """The channel whose row in the CPU's transposed copy is `row`; its tiles have 16 channels."""
    return tiles[first_tile + row // 16].long() + row % 16


def _n_values(part: torch.Tensor) -> int:
    return int(part.max()) + 1 if part.numel() else 1


def _stretches(key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where stretches of equal keys begin and end, no longer than an item."""
    _, counts = torch.unique_consecutive(key, return_counts=True)
    begins = counts.cumsum(0) - counts
    n_parts = -(-counts // ITEM_SIZE)
    part = torch.arange(int(n_parts.sum())) - torch.repeat_interleave(n_parts.cumsum(0) - n_parts, n_parts)
    first = torch.repeat_interleave(begins, n_parts) + part * ITEM_SIZE
    return first, torch.minimum(first + ITEM_SIZE, torch.repeat_interleave(begins + counts, n_parts))


def _span(channel: torch.Tensor, item: torch.Tensor, n_items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First channel of each item, rounded down, and how many there are from it on."""
    zeros = channel.new_zeros(n_items)
    begin = zeros.scatter_reduce(0, item, channel, "amin", include_self=False) // PACK * PACK
    return begin, zeros.scatter_reduce(0, item, channel, "amax", include_self=False) + 1 - begin
