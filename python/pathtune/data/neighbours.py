"""Neighbours of a structure within a cutoff."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import vesin
from scipy.spatial import KDTree

from pathtune.data.geometry import SMALLEST_A, completed, heights_and_volume
from pathtune.data.structure import Structure
from pathtune.errors import InputError
from pathtune.ops.neighbours import edges_of_molecule, edges_of_pairs

MOST_CELLS = 1000  # of a search by cells; four for each atom where that is more
FEW = 200  # atoms of a molecule; below, all distances take less than a search by cells
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
    if len(structure) <= FEW:
        molecule = edges_of_molecule(structure.positions, structure.cell, structure.pbc, r_max)
        if molecule is not None:
            edges, closest = molecule
            if closest and closest[2] < SMALLEST_A:
                raise _too_close(structure, *closest)
            return Graph(*edges)
    return Graph(*edges_of_pairs(*_half(structure, r_max), len(structure)))


def count_edges(structure: Structure, r_max: float) -> int:
    """Number of edges of find_graph; InputError as there."""
    return len(find_graph(structure, r_max).pair)


def _half(structure: Structure, r_max: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pair within r_max once: i [n], j [n], and j's cell seen from i's [n, 3], integers."""
    if len(structure) > MANY:
        _check_apart(structure)
    cell = completed(structure.cell) if structure.pbc.any() else np.zeros((3, 3))
    search = _pairs_by_cells if _is_compact(structure, cell, r_max) else _pairs_by_tree
    i, j, shift, distance = search(structure, cell, r_max)
    if len(distance) and distance.min() < SMALLEST_A:
        k = int(distance.argmin())
        raise _too_close(structure, i[k], j[k], distance[k])
    return i, j, shift


def _pairs_by_cells(structure: Structure, cell: np.ndarray, r_max: float) -> tuple[np.ndarray, ...]:
    """Each pair once: sender, receiver, shift of the receiver's image in cell vectors, distance (A)."""
    neighbours = vesin.NeighborList(cutoff=r_max, full_list=False)
    return tuple(
        neighbours.compute(points=structure.positions, box=cell, periodic=structure.pbc.tolist(), quantities="ijSd")
    )


def _pairs_by_tree(structure: Structure, cell: np.ndarray, r_max: float) -> tuple[np.ndarray, ...]:
    """The same from a tree of the atoms and their images, for structures whose atoms are few for their extent."""
    periodic = structure.pbc.astype(float)
    images = np.zeros((1, 3))
    offset = np.zeros((len(structure), 3))
    if structure.pbc.any():
        offset = np.floor(structure.positions @ np.linalg.inv(cell)) * periodic
        most = np.ceil(r_max / np.array(heights_and_volume(cell)[0])) * periodic
        images = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, 3)
    inside = structure.positions - offset @ cell
    everywhere = (inside[None] + (images @ cell)[:, None]).reshape(-1, 3)
    found = KDTree(inside).sparse_distance_matrix(KDTree(everywhere), r_max, output_type="ndarray")
    i, j = found["i"].astype(np.int64), found["j"] % len(structure)
    shift = images[found["j"] // len(structure)]
    x, y, z = shift.T
    is_forward = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
    once = (i < j) | ((i == j) & is_forward)
    i, j = i[once], j[once]
    return i, j, shift[once] + offset[i] - offset[j], found["v"][once]


def _is_compact(structure: Structure, cell: np.ndarray, r_max: float) -> bool:
    """Whether cells of r_max are a good way to search.

    Above 1e5 of them vesin makes them fewer in proportion, down to none along a short direction, and then divides by
    zero: atoms 2,000 A apart in a plane are enough.
    """
    lengths = np.ptp(structure.positions, axis=0).tolist()
    if structure.pbc.any():
        extent = math.hypot(*lengths)
        heights, _ = heights_and_volume(cell)
        lengths = [h if periodic else max(h, extent) for h, periodic in zip(heights, structure.pbc.tolist())]
    return math.prod(max(length / r_max, 1.0) for length in lengths) <= max(MOST_CELLS, 4 * len(structure))


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
