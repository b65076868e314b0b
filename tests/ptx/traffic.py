"""What a warp's accesses to memory cost beyond the bytes: sectors of global memory, passes over the banks of shared.

    global   a sector is 32 bytes that lie together; least: as many as the distinct bytes of a warp's access fill
    shared   32 banks of 4 bytes; a pass serves one word of each bank to any number of lanes. 32 lanes of 4 bytes, 16
             of 8 or 8 of 16 go together; least: one pass for these

A model on paper, from the addresses that the interpreter sees. Caches, and lanes that add to one address in turn, are
not in it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

SECTOR, BANKS, WORD = 32, 32, 4  # bytes, number, bytes


@dataclasses.dataclass
class Traffic:
    """Counts of one kernel, of all warps."""

    global_accesses: int = 0  # of warps
    sectors: int = 0
    least_sectors: int = 0
    shared_accesses: int = 0
    passes: int = 0
    least_passes: int = 0

    def add(self, space: str, warp: np.ndarray, lane: np.ndarray, address: np.ndarray, n_bytes: int) -> None:
        """One instruction: its lanes with their warps, and n_bytes at each of the addresses."""
        if space == "global":
            self.global_accesses += np.unique(warp).size
            self.sectors += _n_distinct(warp, address // SECTOR)
            _, of_warp = np.unique(_distinct(warp, address)[0], return_counts=True)
            self.least_sectors += int((-(-of_warp * n_bytes // SECTOR)).sum())
        elif space == "shared":
            together = warp * BANKS + lane * max(n_bytes, WORD) // (BANKS * WORD)
            words = np.arange(max(n_bytes // WORD, 1))
            group, word = _distinct(np.repeat(together, words.size), (address[:, None] // WORD + words).ravel())
            (group, _), of_bank = np.unique([group, word % BANKS], axis=1, return_counts=True)
            n_passes = np.zeros(group.max() + 1, np.int64)
            np.maximum.at(n_passes, group, of_bank)
            self.shared_accesses += np.unique(warp).size
            self.passes += int(n_passes.sum())
            self.least_passes += np.unique(together).size


def _distinct(first: np.ndarray, second: np.ndarray) -> np.ndarray:  # [2, n]
    low = second.min()
    span = int(second.max() - low) + 1
    key = np.unique((first - first.min()) * span + (second - low))
    return np.stack([key // span + first.min(), key % span + low])


def _n_distinct(first: np.ndarray, second: np.ndarray) -> int:
    return _distinct(first, second).shape[1]
