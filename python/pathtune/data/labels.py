"""Labels: their names in files, and what is checked of their values."""

from __future__ import annotations

import dataclasses

import numpy as np

from pathtune.errors import InputError
from pathtune.options import option

MAX_FORCE_EV_A = 1000.0  # beyond any structure a potential is trained on: a unit error or a broken run


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelKeys:
    """Names of the labels in the files."""

    energy_key: str = option("REF_energy", "info key of the total energy, eV")
    forces_key: str = option("REF_forces", "arrays key of the forces, eV/A")
    stress_key: str = option("REF_stress", "info key of the stress, eV/A^3, positive is tensile (ASE)")


def checked_number(value, key: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {key} is {value!r}, expected a number in eV") from None
    if not np.isfinite(number):
        raise InputError(f"{where}: {key} is {number}, expected a finite energy in eV")
    return number


def checked_forces(value, n_atoms: int, key: str, where: str) -> np.ndarray:
    try:
        forces = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {key} is not numeric, expected forces in eV/A") from None
    if forces.shape != (n_atoms, 3):
        raise InputError(f"{where}: {key} has shape {forces.shape}, expected ({n_atoms}, 3)")
    if not np.isfinite(forces).all():
        raise InputError(f"{where}: {key} holds NaN or infinity, expected finite forces in eV/A")
    if np.abs(forces).max() > MAX_FORCE_EV_A:
        raise InputError(
            f"{where}: {key} reaches {np.abs(forces).max():.3g} eV/A, expected at most {MAX_FORCE_EV_A:g} (units?)"
        )
    return forces


def checked_stress(value, key: str, where: str) -> np.ndarray:
    try:
        stress = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {key} is not numeric, expected a stress in eV/A^3") from None
    if stress.size == 6:
        xx, yy, zz, yz, xz, xy = stress.ravel()
        stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    elif stress.size == 9:
        stress = stress.reshape(3, 3)
    else:
        raise InputError(f"{where}: {key} has {stress.size} numbers, expected 6 (Voigt) or 9")
    if not np.isfinite(stress).all():
        raise InputError(f"{where}: {key} holds NaN or infinity, expected a finite stress in eV/A^3")
    return stress
