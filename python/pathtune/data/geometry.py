"""Atoms and cell of a structure, checked before anything is searched or computed with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ase.geometry
import numpy as np

from pathtune.data.structure import Structure
from pathtune.errors import InputError

LARGEST_A = 1e6  # a tenth of a millimetre: a greater coordinate is a broken calculation or an MD that exploded
SMALLEST_A = 0.1  # between two atoms, or the planes of a lattice
DENSEST = 3.0  # atoms per A^3; diamond has 0.18, hydrogen at 1 TPa about 1.3
AXES = "abc"


def check_geometry(structure: Structure) -> Structure:
    """The structure. Raises InputError for coordinates or lattice vectors that are not finite or absurdly large, a
    periodic direction without a lattice vector, a flat cell, and an impossible density."""
    where = structure.where
    if not np.isfinite(structure.positions).all():
        raise InputError(f"{where}: a position is not finite, expected coordinates in A")
    if np.abs(structure.positions).max() > LARGEST_A / 2:
        _check_extent(structure)
    if not np.isfinite(structure.cell).all():
        raise InputError(f"{where}: a lattice vector is not finite, expected lengths in A")
    if structure.pbc.any():
        _check_lattice(structure)
    return structure


def _check_extent(structure: Structure) -> None:
    far = np.abs(structure.positions - np.median(structure.positions, axis=0)).max(axis=1)
    k = int(far.argmax())
    if far[k] > LARGEST_A:
        raise InputError(
            f"{structure.where}: atom {k} lies {far[k]:.3g} A from the others, expected at most {LARGEST_A:g} A"
        )


def completed(cell: np.ndarray) -> np.ndarray:
    """The cell [3, 3] with vectors for those that are zero, of 1 A and perpendicular to the others."""
    return cell if cell.any(axis=1).all() else np.asarray(ase.geometry.complete_cell(cell))


def heights_and_volume(cell: np.ndarray) -> tuple[list[float], float]:
    """The distances (A) between the opposite faces of a cell [3, 3], 0 where a face has no area, and its volume."""
    a, b, c = cell.tolist()  # numpy takes longer for so few numbers
    normals = _cross(b, c), _cross(c, a), _cross(a, b)
    volume = abs(sum(x * y for x, y in zip(a, normals[0])))
    areas = [math.hypot(*normal) for normal in normals]
    return [volume / area if area > 0 else 0.0 for area in areas], volume


def _check_lattice(structure: Structure) -> None:
    where, periodic = structure.where, structure.pbc.nonzero()[0].tolist()
    largest = np.abs(structure.cell).max()
    if largest > LARGEST_A:
        raise InputError(f"{where}: a lattice vector has {largest:.3g} A, expected at most {LARGEST_A:g} A")
    vectors = structure.cell.tolist()
    for k in periodic:
        if math.hypot(*vectors[k]) < SMALLEST_A:
            raise InputError(
                f"{where}: is periodic along {AXES[k]} with a lattice vector of {math.hypot(*vectors[k]):.3g} A, "
                f"expected one of at least {SMALLEST_A} A, or pbc F along {AXES[k]}"
            )
    heights, volume = heights_and_volume(completed(structure.cell))
    for k in periodic:
        if heights[k] < SMALLEST_A:
            raise InputError(
                f"{where}: the cell is flat, {heights[k]:.3g} A along {AXES[k]}, expected at least {SMALLEST_A} A"
            )
    if len(periodic) == 3 and len(structure) / volume > DENSEST:
        raise InputError(
            f"{where}: has {len(structure) / volume:.3g} atoms per A^3, expected at most {DENSEST:g} "
            "(units of cell or positions?)"
        )


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    (ax, ay, az), (bx, by, bz) = a, b
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
