"""Neighbours of a structure within a cutoff."""

from __future__ import annotations

import dataclasses

import ase.geometry
import numpy as np
import vesin
from scipy.spatial import KDTree

from pathtune.data.geometry import SMALLEST_A
from pathtune.data.structure import Structure
from pathtune.errors import InputError

MANY = 1000  # atoms; below, all pairs fit into memory


@dataclasses.dataclass(frozen=True)
class Graph:
    """Directed edges sorted by receiver; `pair[e]` is shared by an edge and its reverse."""

    sender: np.ndarray  # [n_edges] int64
    receiver: np.ndarray  # [n_edges] int64
    unit_shifts: np.ndarray  # [n_edges, 3]; the receiver's image seen from the sender, in cell vectors
    pair: np.ndarray  # [n_edges] int64

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays."""
        return self.sender.nbytes + self.receiver.nbytes + self.unit_shifts.nbytes + self.pair.nbytes


def find_graph(structure: Structure, r_max: float) -> Graph:
    """All edges within r_max (A); raises InputError for two atoms on top of each other."""
    if len(structure) > MANY:
        _check_apart(structure)
    cell = np.asarray(ase.geometry.complete_cell(structure.cell)) if structure.pbc.any() else np.zeros((3, 3))
    neighbours = vesin.NeighborList(cutoff=r_max, full_list=False)
    i, j, shift, distance = neighbours.compute(
        points=structure.positions, box=cell, periodic=structure.pbc.tolist(), quantities="ijSd"
    )
    if len(distance) and distance.min() < SMALLEST_A:
        k = int(distance.argmin())
        raise _too_close(structure, i[k], j[k], distance[k])
    i, j, shift = i.astype(np.int64), j.astype(np.int64), shift.astype(np.float64)
    pair = np.arange(len(i), dtype=np.int64)
    sender = np.concatenate([i, j])
    receiver = np.concatenate([j, i])
    unit_shifts = np.concatenate([shift, -shift])
    # A complete key: the same structure gives the same order, whatever the neighbour search did.
    order = np.lexsort((unit_shifts[:, 2], unit_shifts[:, 1], unit_shifts[:, 0], sender, receiver))
    _, pair_in_order = np.unique(_first_seen(np.concatenate([pair, pair])[order]), return_inverse=True)
    return Graph(sender[order], receiver[order], unit_shifts[order], pair_in_order.astype(np.int64))


def _check_apart(structure: Structure) -> None:
    """Raise InputError for two atoms on top of each other: many of them would have a quadratic number of edges."""
    found: tuple = KDTree(structure.positions).query(structure.positions, k=2)  # type: ignore
    distance, nearest = found
    k = int(distance[:, 1].argmin())
    if distance[k, 1] < SMALLEST_A:
        raise _too_close(structure, k, nearest[k, 1], distance[k, 1])


def _too_close(structure: Structure, i: int, j: int, distance: float) -> InputError:
    return InputError(
        f"{structure.where}: atoms {i} and {j} are {distance:.3g} A apart, expected at least {SMALLEST_A} A"
    )


def _first_seen(labels: np.ndarray) -> np.ndarray:
    """Each label replaced by the place where it is first seen, so that pairs are numbered in edge order."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse]
