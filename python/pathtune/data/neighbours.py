"""Neighbours of a structure, found once for each cutoff."""

from __future__ import annotations

import ase.geometry
import numpy as np
import vesin

from pathtune.data.structure import Graph, Structure
from pathtune.errors import InputError

MIN_DISTANCE_A = 0.1


def attach_graph(structure: Structure, r_max: float) -> None:
    """Find the neighbours within r_max (A) once; raises InputError for two atoms on top of each other."""
    cell = np.asarray(ase.geometry.complete_cell(structure.cell)) if structure.pbc.any() else np.zeros((3, 3))
    neighbours = vesin.NeighborList(cutoff=r_max, full_list=False)
    i, j, shift, distance = neighbours.compute(
        points=structure.positions, box=cell, periodic=structure.pbc.tolist(), quantities="ijSd"
    )
    if len(distance) and distance.min() < MIN_DISTANCE_A:
        k = int(distance.argmin())
        raise InputError(
            f"{structure.where}: atoms {i[k]} and {j[k]} are {distance[k]:.3g} A apart, "
            f"expected at least {MIN_DISTANCE_A} A"
        )
    i, j, shift = i.astype(np.int64), j.astype(np.int64), shift.astype(np.float64)
    pair = np.arange(len(i), dtype=np.int64)
    sender, receiver = np.concatenate([i, j]), np.concatenate([j, i])
    unit_shifts = np.concatenate([shift, -shift])
    # A complete key: the same structure gives the same order, whatever the neighbour search did.
    order = np.lexsort((unit_shifts[:, 2], unit_shifts[:, 1], unit_shifts[:, 0], sender, receiver))
    _, pair_in_order = np.unique(_first_seen(np.concatenate([pair, pair])[order]), return_inverse=True)
    structure.graph = Graph(sender[order], receiver[order], unit_shifts[order], pair_in_order.astype(np.int64), r_max)


def _first_seen(labels: np.ndarray) -> np.ndarray:
    """Each label replaced by the place where it is first seen, so that pairs are numbered in edge order."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return first[inverse]
