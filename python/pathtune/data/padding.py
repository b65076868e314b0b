"""Batches of few shapes: a structure that means nothing fills atoms and edges up to the next size of a grid.

It has no label, so that nothing of it counts in a loss, and no edge to another structure, so that nothing of it counts
in a prediction. It has an atom of every element and an edge of every pair of them: which species occur in a batch, and
which pairs of them, is then the same for all batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pathtune.data.neighbours import Graph
from pathtune.data.structure import Structure

PER_OCTAVE = 4  # sizes of the grid between a number and its double: rounding adds 25 % at most
SMALLEST = 16


def grid_size(n: int) -> int:
    """The least size of the grid that is at least n; even."""
    step = max(SMALLEST, 1 << max(n - 1, 1).bit_length() - 1) // PER_OCTAVE
    return max(SMALLEST, -(-n // step) * step)


def padding(
    elements: Sequence[int], n_atoms: int, n_edges: int, r_max: float, head: str | None = None
) -> tuple[Structure, Graph]:
    """What is added to structures of so many atoms and directed edges, of these elements.

    Its edges lead from its atoms to images of its atoms 0.9 `r_max` away; `head`: that of the structures.
    """
    pairs = list(itertools.combinations_with_replacement(range(len(elements)), 2))
    n_more_atoms = grid_size(n_atoms + len(elements)) - n_atoms
    n_more_pairs = (grid_size(n_edges + 2 * len(pairs)) - n_edges) // 2
    more = np.arange(n_more_pairs - len(pairs)) % n_more_atoms  # to their own images, spread over the atoms
    first = np.concatenate([[i for i, _ in pairs], more]).astype(np.int64)
    second = np.concatenate([[j for _, j in pairs], more]).astype(np.int64)
    sender, receiver = np.concatenate([first, second]), np.concatenate([second, first])
    shift = np.zeros((2 * n_more_pairs, 3))
    shift[:, 0] = np.repeat([1, -1], n_more_pairs)
    order = np.argsort(receiver, kind="stable")
    pair = np.tile(np.arange(n_more_pairs), 2)[order]
    structure = Structure(
        where="padding",
        atomic_numbers=np.resize(np.asarray(elements), n_more_atoms),
        positions=np.zeros((n_more_atoms, 3)),
        cell=0.9 * r_max * np.eye(3),
        pbc=np.ones(3, dtype=bool),
        head=head,
    )
    return structure, Graph(sender[order], receiver[order], shift[order], pair)
