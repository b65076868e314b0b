"""In which order frames are visited: chunks of their indices, one for each batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

GOLDEN = (5**0.5 - 1) / 2


def in_order(n_frames: int, size: int) -> list[list[int]]:
    """All frames as they stand, `size` at a time."""
    return _split(range(n_frames), size)


def shuffled(n_frames: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """All frames in the order of an epoch, which follows from seed and epoch alone: resuming needs no random state."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return _split(torch.randperm(n_frames, generator=generator).tolist(), size)


def spread(n_frames: int) -> np.ndarray:
    """All indices in an order whose beginning, of any length, lies all over them: files are often sorted."""
    return np.argsort(np.arange(n_frames) * GOLDEN % 1, kind="stable")


def _split(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[i : i + size]) for i in range(0, len(indices), size)]
