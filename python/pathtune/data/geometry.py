"""Atoms and cell of a structure, checked before anything is searched or computed with them."""

from __future__ import annotations

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
    far = np.abs(structure.positions - np.median(structure.positions, axis=0)).max(axis=1)
    if far.max() > LARGEST_A:
        k = int(far.argmax())
        raise InputError(f"{where}: atom {k} lies {far[k]:.3g} A from the others, expected at most {LARGEST_A:g} A")
    if not np.isfinite(structure.cell).all():
        raise InputError(f"{where}: a lattice vector is not finite, expected lengths in A")
    if structure.pbc.any():
        _check_lattice(structure)
    return structure


def _check_lattice(structure: Structure) -> None:
    where, periodic = structure.where, np.flatnonzero(structure.pbc)
    largest = np.abs(structure.cell).max()
    if largest > LARGEST_A:
        raise InputError(f"{where}: a lattice vector has {largest:.3g} A, expected at most {LARGEST_A:g} A")
    lengths = np.linalg.norm(structure.cell, axis=1)
    for k in periodic:
        if lengths[k] < SMALLEST_A:
            raise InputError(
                f"{where}: is periodic along {AXES[k]} with a lattice vector of {lengths[k]:.3g} A, "
                f"expected one of at least {SMALLEST_A} A, or pbc F along {AXES[k]}"
            )
    cell = np.asarray(ase.geometry.complete_cell(structure.cell))
    volume = abs(np.linalg.det(cell))
    for k in periodic:
        area = np.linalg.norm(_cross(cell[k - 2], cell[k - 1]))
        height = volume / area if area > 0 else 0.0
        if height < SMALLEST_A:
            raise InputError(
                f"{where}: the cell is flat, {height:.3g} A along {AXES[k]}, expected at least {SMALLEST_A} A"
            )
    density = len(structure) / volume
    if structure.pbc.all() and density > DENSEST:
        raise InputError(
            f"{where}: has {density:.3g} atoms per A^3, expected at most {DENSEST:g} (units of cell or positions?)"
        )


def _cross(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """The cross product, of two vectors several times faster than numpy's."""
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
