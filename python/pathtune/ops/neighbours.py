"""Edges of a structure, made in C++ without Python's lock; no operators of torch, and nothing to differentiate."""

from __future__ import annotations

import numpy as np

from pathtune.ops import _core

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def edges_of_molecule(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, r_max: float
) -> tuple[Arrays, tuple[int, int, float] | None] | None:
    """All edges within r_max (A) of atoms that lie farther than that from every periodic image; None where others do.

    `positions` [n_atoms, 3] and `cell` [3, 3] in A, `pbc` [3]. The edges are those of `edges_of_pairs`, without shifts.
    With them the closest pair: its atoms and distance (A), None where there is none. The time grows with the square of
    the number of atoms.
    """
    found = _core.edges_of_molecule(positions, cell, pbc, r_max)
    return found and (found[:4], found[4])


def edges_of_pairs(i: np.ndarray, j: np.ndarray, shift: np.ndarray, n_atoms: int) -> Arrays:
    """Each pair as an edge and its reverse: sender, receiver, unit_shifts [n_edges, 3] and pair, [n_edges] each.

    `i`, `j` [n_pairs]: each pair once, of atoms below `n_atoms`; `shift` [n_pairs, 3]: j's cell seen from i's. Edges
    are sorted by receiver, sender and shift, whatever the order of the pairs; `pair` numbers these as they first occur.
    """
    return _core.edges_of_pairs(i, j, shift, n_atoms)
