"""The candidate entries of a layer's weights, grouped once as csrc/sampled_gradient/sampled_gradient.hpp wants them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

TILE_CHANNELS = 16  # as in the header


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidate entries of a layer's flat weights, grouped by path, species and row of W."""

    indices: torch.Tensor  # [n_candidates] int64, ascending
    blocks: torch.Tensor  # [n_blocks, 10] int64, the fields of SampledBlock
    runs: torch.Tensor  # [n_runs, 2] int32: transposed row of x, one past the last candidate
    u_tiles: torch.Tensor  # [n_u_tiles] int32: first channel
    v_tiles: torch.Tensor  # [n_v_tiles] int32
    v_row: torch.Tensor  # [n_candidates] int32: transposed row of g
    place: torch.Tensor  # [n_candidates] int32: of the grouped candidate among `indices`
    weight_numel: int  # of the layer


def group_candidates(indices: torch.Tensor, shapes: Sequence[tuple[int, int, int]]) -> Candidates:
    """Group the flat `indices` of a layer whose paths have weights (mul_in, n_species, mul_out) in turn.

    A path linear has n_species = 1. Raises ValueError unless the indices ascend and lie in the layer.
    """
    sizes = torch.tensor(shapes, dtype=torch.int64).reshape(-1, 3)
    ends = sizes.prod(1).cumsum(0)
    weight_numel = int(ends[-1]) if len(shapes) else 0
    indices = indices.detach().to("cpu", torch.int64).contiguous()
    if indices.numel() and (int(indices[0]) < 0 or int(indices[-1]) >= weight_numel):
        span = f"{int(indices[0])} to {int(indices[-1])}"
        raise ValueError(f"candidates span {span}, expected 0 to {weight_numel - 1}")
    if bool((indices[1:] <= indices[:-1]).any()):
        raise ValueError("candidates must ascend without repeats")
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
    return Candidates(
        indices=indices,
        blocks=torch.cat([head, run_span, u_span, v_span], dim=1).contiguous(),
        runs=torch.stack([u_row[run_end - 1], run_end], dim=1).int().contiguous(),
        u_tiles=u_tiles.int(),
        v_tiles=v_tiles.int(),
        v_row=v_row.int(),
        place=place.int(),
        weight_numel=weight_numel,
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
