"""Reference of grouping candidates, in operations of torch: csrc/candidates/candidates.hpp has the contract."""

from __future__ import annotations

from collections.abc import Sequence

import torch

TILE_CHANNELS = 16  # as in csrc/sampled_gradient/sampled_gradient.hpp


def group_candidates(indices: torch.Tensor, shapes: Sequence[tuple[int, int, int]]) -> tuple[torch.Tensor, ...]:
    """Blocks, runs, tiles of u and of v, compact rows of v, and places, of ascending `indices` within the layer."""
    sizes = torch.tensor(shapes, dtype=torch.int64).reshape(-1, 3)
    ends = sizes.prod(1).cumsum(0)
    path = torch.bucketize(indices, ends, right=True)
    _, n_species, mul_out = sizes[path].unbind(1)
    local = indices - (ends - sizes.prod(1))[path]
    u = local // (n_species * mul_out)
    species = local // mul_out % n_species
    v = local % mul_out
    key = path * (int(sizes[:, 1].max()) if len(shapes) else 1) + species
    place = torch.argsort(key, stable=True)  # within a block u and v ascend already
    _, block, n_of_block = torch.unique_consecutive(key[place], return_inverse=True, return_counts=True)
    first = n_of_block.cumsum(0) - n_of_block
    u = u[place]
    v = v[place]
    u_tiles, u_span, u_row = _tiles(block, u, n_of_block.numel())
    v_tiles, v_span, v_row = _tiles(block, v, n_of_block.numel())
    is_last = torch.ones_like(u, dtype=torch.bool)  # of a run: candidates of one block and one u
    is_last[:-1] = (u[1:] != u[:-1]) | (block[1:] != block[:-1])
    run_end = is_last.nonzero().flatten() + 1
    run_span = _span(block[run_end - 1], n_of_block.numel())
    head = torch.stack([path[place][first], species[place][first], first, first + n_of_block], dim=1)
    return (
        torch.cat([head, run_span, u_span, v_span], dim=1),
        torch.stack([u_row[run_end - 1], run_end], dim=1).int(),
        u_tiles.int(),
        v_tiles.int(),
        v_row.int(),
        place.int(),
    )


def _tiles(block: torch.Tensor, channel: torch.Tensor, n_blocks: int) -> tuple[torch.Tensor, ...]:
    """First channels of the tiles that each block uses, their span per block, each channel's compact row."""
    n = int(channel.max()) // TILE_CHANNELS + 1 if channel.numel() else 1
    used, tile = torch.unique(block * n + channel // TILE_CHANNELS, return_inverse=True)
    span = _span(used // n, n_blocks)
    row = (tile - span[block, 0]) * TILE_CHANNELS + channel % TILE_CHANNELS
    return used % n * TILE_CHANNELS, span, row


def _span(block: torch.Tensor, n_blocks: int) -> torch.Tensor:  # [n_blocks, 2]
    """Where each block's stretch of the ascending `block` begins and ends."""
    ids = torch.arange(n_blocks)
    return torch.stack([torch.searchsorted(block, ids), torch.searchsorted(block, ids, right=True)], dim=1)
