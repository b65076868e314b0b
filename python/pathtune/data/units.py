"""Units in which labels and lengths may come: kcal/mol, hartree/bohr, kbar. Constants are ASE's (CODATA 2014).

A unit is a product of names with powers: "kJ/mol/nm", "hartree/bohr^3", "eV/atom". What one of it is in another follows
from the constants, if both are made of the same dimensions.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from ase import units as ase_units

from pathtune.errors import InputError
from pathtune.files import shown

Powers = tuple[int, ...]  # of energy, length, magnetic moment, charge, atoms
NONE: Powers = (0, 0, 0, 0, 0)
ENERGY: Powers = (1, 0, 0, 0, 0)
LENGTH: Powers = (0, 1, 0, 0, 0)
PRESSURE: Powers = (1, -3, 0, 0, 0)
PER_ATOM: Powers = (0, 0, 0, 0, -1)

NAMES: dict[str, tuple[float, Powers]] = {
    "eV": (1.0, ENERGY),
    "meV": (1e-3, ENERGY),
    "hartree": (ase_units.Hartree, ENERGY),
    "Ry": (ase_units.Rydberg, ENERGY),
    "kcal": (ase_units.kcal, ENERGY),
    "kJ": (ase_units.kJ, ENERGY),
    "J": (ase_units.J, ENERGY),
    "mol": (ase_units.mol, NONE),
    "A": (1.0, LENGTH),
    "nm": (ase_units.nm, LENGTH),
    "pm": (1e-2, LENGTH),
    "bohr": (ase_units.Bohr, LENGTH),
    "Pa": (ase_units.Pascal, PRESSURE),
    "MPa": (1e6 * ase_units.Pascal, PRESSURE),
    "GPa": (ase_units.GPa, PRESSURE),
    "bar": (ase_units.bar, PRESSURE),
    "kbar": (1e3 * ase_units.bar, PRESSURE),
    "mu_B": (1.0, (0, 0, 1, 0, 0)),
    "e": (1.0, (0, 0, 0, 1, 0)),
    "atom": (1.0, (0, 0, 0, 0, 1)),
    "1": (1.0, NONE),
}
ALIASES = {
    "Ha": "hartree",
    "Eh": "hartree",
    "E_h": "hartree",
    "Hartree": "hartree",
    "rydberg": "Ry",
    "Rydberg": "Ry",
    "Bohr": "bohr",
    "a0": "bohr",
    "Ang": "A",
    "angstrom": "A",
    "Angstrom": "A",
    "Å": "A",
}
FACTOR = r"([^\W\d]\w*|1)(?:\^(-?[1-9]))?"  # a name and its power


class Unit(NamedTuple):
    """What one of a unit is in eV, A, mu_B and e, and of which dimensions it is."""

    value: float
    powers: Powers


@functools.lru_cache(64)  # every frame asks
def unit_of(text: str) -> Unit | None:
    """The unit that a text names; None where it names none."""
    product = re.sub(r"\s+", "*", re.sub(r"\s*([*/])\s*", r"\1", text.strip().replace("**", "^")))
    if not re.fullmatch(rf"{FACTOR}([*/]{FACTOR})*", product):
        return None
    value, powers = 1.0, NONE
    for sign, name, power in re.findall(rf"([*/]?){FACTOR}", product):
        known = NAMES.get(ALIASES.get(str(name), str(name)))
        if known is None:
            return None
        exponent = int(power or 1) * (-1 if sign == "/" else 1)
        value *= known[0] ** exponent
        powers = tuple(p + exponent * q for p, q in zip(powers, known[1]))
    return Unit(value, powers)


def conversion(text: str, own: str, is_extensive: bool, where: str) -> tuple[float, bool]:
    """What a number in the unit `text` is multiplied by to be in `own`, and whether also by the number of atoms.

    `is_extensive`: whether it may be given per atom. Raises InputError, which names `where`, for a text that is no unit
    and for one of other dimensions.
    """
    unit, target = unit_of(text), unit_of(own)
    if target is None:  # of a label that was registered
        raise InputError(f"{where}: values in {own} cannot be converted, expected no unit for them")
    if unit is None:
        known = ", ".join(name for name in NAMES if name != "1")
        raise InputError(f"{where}: {shown(text)} is no unit, expected names with *, / and ^ among {known}")
    is_per_atom = is_extensive and unit.powers == tuple(p + q for p, q in zip(target.powers, PER_ATOM))
    if unit.powers != target.powers and not is_per_atom:
        raise InputError(f"{where}: {shown(text)} cannot become {own}, expected a unit of the same dimensions")
    return unit.value / target.value, is_per_atom
