"""In which order frames are visited: chunks of their indices, one for each batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def in_order(n_frames: int, size: int) -> list[list[int]]:
    """All frames as they stand, `size` at a time."""
    return _split(range(n_frames), size)


def shuffled(n_frames: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """All frames in the order of an epoch, which follows from seed and epoch alone: resuming needs no random state."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return _split(torch.randperm(n_frames, generator=generator).tolist(), size)


def _split(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[i : i + size]) for i in range(0, len(indices), size)]
