"""Labels: what a structure may carry beside its atoms, each an object that the whole package asks.

Reading, batches, losses, errors, flags and the calculator go through the registered labels; none of them names
one. The energy alone is special: its derivative gives forces and stress, and E0 is taken off it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from ase.units import GPa

from pathtune.data.units import conversion
from pathtune.errors import InputError
from pathtune.files import shown
from pathtune.options import Option, check_fields, option, option_group, with_groups

LENGTH = "length"  # beside the labels: of positions and cells
VIRIALS, VIRIALS_KEY = "virials", "REF_virials"  # which become stresses when they are read
ABSURD = 1e30  # of a label of any unit: what is larger has no finite square in float32 or is no number of physics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """One kind of label. An input is given to the backbone, an output is predicted by it and trained on."""

    name: str  # lower case; its flags are --NAME-key and, for an output, --NAME-weight
    per: str  # "graph" or "atom"
    shape: tuple[int, ...] = ()  # of one graph's or one atom's value; each 3 is a Cartesian axis
    parity: int = 1  # under inversion: -1 for forces, 1 for a stress or an axial vector
    time_parity: int = 1  # under time reversal: -1 for a magnetic moment
    unit: str = ""
    key: str  # by default, in info (per graph), arrays (per atom), or the results of an ASE calculator
    weight: float = 1.0  # in the loss, by default
    is_input: bool = False
    is_optional: bool = True  # an output: no frame needs it; an input: the backbone does without it
    is_extensive: bool = False  # kept in float64 and compared per atom
    is_voigt: bool = False  # a symmetric [3, 3], also taken as 6 numbers xx yy zz yz xz xy
    is_axis: bool = False  # a vector for each atom, also taken as one number, its z component
    conjugate_to: str = ""  # of an output: the input label of which it is minus the derivative of the energy
    length_of: str = ""  # of an output: the label of vectors whose lengths it is, where a frame has no others
    needs_volume: bool = False  # defined for crystals only
    largest: float | None = None  # a greater magnitude, in `unit`, is a unit error or a broken calculation
    title: str = ""  # in the help, where the name does not say enough
    note: str = ""  # in the help, behind the unit
    aliases: tuple[str, ...] = ()  # where `key` is not changed and absent: other keys that hold it
    hint: str = ""  # where it is missing and a model reads it: what to write
    word: str = ""  # what one of them is called, by default the name
    report_unit: str = ""  # of the reported errors, by default `unit`
    report_factor: float = 1.0  # from `unit`, per atom where extensive, to the reported one

    def __post_init__(self):
        """Fill in what follows from the rest. Raises InputError for a wrong field."""
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):
            raise InputError(f"label name is {self.name!r}, expected lower-case letters, digits and _")
        if self.per not in ("graph", "atom"):
            raise InputError(f"label {self.name}: per is {self.per!r}, expected graph or atom")
        for field in ("parity", "time_parity"):
            if getattr(self, field) not in (1, -1):
                raise InputError(f"label {self.name}: {field} is {getattr(self, field)}, expected 1 or -1")
        for field, default in (("title", self.name), ("word", self.name), ("report_unit", self.unit)):
            object.__setattr__(self, field, getattr(self, field) or default)

    @property
    def mae_key(self) -> str:
        """Name of the mean absolute error in the scores of `evaluate`."""
        return f"{self.name}_mae_{self._unit_word}"

    @property
    def rmse_key(self) -> str:
        """Name of the root mean square error."""
        return f"{self.name}_rmse_{self._unit_word}"

    @property
    def _unit_word(self) -> str:
        return re.sub("[^a-z0-9]+", "_", self.report_unit.lower()).strip("_") or "1"

    @property
    def phrase(self) -> str:
        """With its article in `expected {phrase} in eV/A`; an atom's label is a plural."""
        return self.name if self.per == "atom" else f"a {self.name}"

    def checked(self, value: Any, n_atoms: int, key: str, where: str, factor: float = 1.0) -> np.ndarray:
        """The value times `factor` as float64 [*shape], or [n_atoms, *shape]; InputError names `where` and `key`."""
        array = self._number(value, key, where) if self.per == "graph" and not self.shape else None
        if array is None:
            try:
                array = np.asarray(value, dtype=np.float64)
            except (TypeError, ValueError):
                message = f"{where}: {key} is not numeric, expected {self.phrase} in {self.unit}"
                raise InputError(message) from None
            array = self._shaped(array, n_atoms, key, where)
            if not np.isfinite(array).all():
                finite = self.phrase.removesuffix(self.name) + f"finite {self.name}"
                raise InputError(f"{where}: {key} holds NaN or infinity, expected {finite} in {self.unit}")
        array = array * factor
        largest = ABSURD if self.largest is None else self.largest
        if array.size and np.abs(array).max() > largest:
            raise InputError(
                f"{where}: {key} reaches {np.abs(array).max():.3g} {self.unit}, expected at most {largest:g} (units?)"
            )
        return array

    def _number(self, value: Any, key: str, where: str) -> np.ndarray:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise InputError(f"{where}: {key} is {shown(value)}, expected a number in {self.unit}") from None
        if not np.isfinite(number):
            raise InputError(f"{where}: {key} is {number}, expected a finite {self.name} in {self.unit}")
        return np.array(number)

    def _shaped(self, array: np.ndarray, n_atoms: int, key: str, where: str) -> np.ndarray:
        if self.is_voigt:
            if array.size == 6:
                xx, yy, zz, yz, xz, xy = array.ravel()
                return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
            if array.size != 9:
                raise InputError(f"{where}: {key} has {array.size} numbers, expected 6 (Voigt) or 9")
            return array.reshape(3, 3)
        if self.is_axis and array.shape == (n_atoms,):
            return np.stack([np.zeros(n_atoms), np.zeros(n_atoms), array], axis=1)
        expected = (n_atoms, *self.shape) if self.per == "atom" else self.shape
        if array.shape != expected:
            raise InputError(f"{where}: {key} has shape {array.shape}, expected {expected}")
        return array


_REGISTRY: dict[str, Label] = {}


def register_label(label: Label) -> Label:
    """Make a label known to the whole package. Raises InputError for a name or key that another one has."""
    if label.name in _REGISTRY:
        raise InputError(f"label {label.name!r} is registered already, expected another name")
    for other in labels():
        if other.key == label.key:
            raise InputError(_two_labels(label.key, other.name, label.name))
    _REGISTRY[label.name] = label
    return label


def unregister_label(name: str) -> None:
    """Forget a label; InputError as label_of."""
    del _REGISTRY[label_of(name).name]


def labels() -> tuple[Label, ...]:
    """All registered labels, in the order of their registration."""
    return tuple(_REGISTRY.values())


def outputs() -> tuple[Label, ...]:
    """The labels that a backbone may predict."""
    return tuple(label for label in labels() if not label.is_input)


def conjugates(inputs: Collection[str]) -> tuple[Label, ...]:
    """The outputs that a model with these inputs has for them: minus the derivatives of its energy."""
    return tuple(label for label in outputs() if label.conjugate_to in inputs)


def label_of(name: str) -> Label:
    """The label of a name. Raises InputError where none is registered."""
    if name not in _REGISTRY:
        raise InputError(f"label is {name!r}, expected one of {', '.join(_REGISTRY)}")
    return _REGISTRY[name]


def weight_options() -> Mapping[str, Option]:
    """By label, the option that says what its errors weigh in the loss."""
    return {
        label.name: Option(
            f"{label.name}_weight",
            float,
            label.weight,
            f"weight of the {label.name}{' per atom' if label.is_extensive else ''}",
        )
        for label in outputs()
    }


def key_options() -> Mapping[str, Option]:
    """By label, the option that says what it is called in files."""
    result = {}
    for label in labels():
        place = "info" if label.per == "graph" else "arrays"
        about = ", ".join(text for text in (label.title, label.unit, label.note) if text)
        result[label.name] = Option(f"{label.name}_key", str, label.key, f"{place} key of the {about}")
    return result


@with_groups
@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelKeys:
    """Names of the labels in the files, and their units: `LabelKeys(energy_key="dft_energy", units=("energy=Ry",))`."""

    keys: Mapping[str, str] = option_group("_key", key_options)
    virials_key: str = option(
        VIRIALS_KEY, "info key of the virials in eV, minus stress times volume, read where a frame has no stress"
    )
    units: tuple[str, ...] | None = option(
        None,
        "units of labels that are in others than eV and A, such as energy=kcal/mol forces=hartree/bohr stress=kbar, "
        "and length=bohr for positions and cells",
    )

    def __post_init__(self):
        """Raises InputError for a key that names two labels, or is no text."""
        check_fields(self)
        seen: dict[str, str] = {}
        for name, key in [*self.keys.items(), (VIRIALS, self.virials_key)]:
            if key in seen:
                raise InputError(_two_labels(key, seen[key], name))
            seen[key] = name
        self.conversions()

    def of(self, label: Label) -> str:
        """The key of a label."""
        return self.keys.get(label.name, label.key)

    def conversions(self) -> Mapping[str, tuple[float, bool]]:
        """By label, or "length", what a value in the files is multiplied by, and whether also by the number of atoms.

        Only of those whose units are given. Raises InputError for a name that is no label and a unit that is not its.
        """
        found: dict[str, tuple[float, bool]] = {}
        if not self.units:
            return found
        owns = {LENGTH: ("A", False), VIRIALS: ("eV", False)}
        owns |= {label.name: (label.unit, label.is_extensive) for label in labels()}
        for pair in self.units:
            name, _, unit = pair.partition("=")
            if not unit or name in found:
                raise InputError(f"units has {shown(pair)}, expected NAME=UNIT such as energy=kcal/mol, each NAME once")
            if name not in owns:
                raise InputError(f"units names {shown(name)}, expected one of {', '.join(owns)}")
            found[name] = conversion(unit, *owns[name], f"units, {name}")
        return found


def _two_labels(key: str, first: str, second: str) -> str:
    return f"key {key!r} names two labels, {first} and {second}, expected a key of its own for each"


ENERGY = register_label(
    Label(
        name="energy",
        per="graph",
        unit="eV",
        key="REF_energy",
        is_optional=False,
        is_extensive=True,
        title="total energy",
        report_unit="meV/atom",
        report_factor=1000.0,
    )
)
FORCES = register_label(
    Label(
        name="forces",
        per="atom",
        shape=(3,),
        parity=-1,
        unit="eV/A",
        key="REF_forces",
        weight=100.0,
        is_optional=False,
        largest=1000.0,
        word="force",
        report_unit="meV/A",
        report_factor=1000.0,
    )
)
STRESS = register_label(
    Label(
        name="stress",
        per="graph",
        shape=(3, 3),
        unit="eV/A^3",
        key="REF_stress",
        is_voigt=True,
        needs_volume=True,
        note="positive is tensile (ASE)",
        report_unit="GPa",
        report_factor=1 / GPa,
    )
)
MAGMOM = register_label(
    Label(
        name="magmom",
        per="atom",
        shape=(3,),
        time_parity=-1,
        unit="mu_B",
        key="REF_magmom",
        is_input=True,
        is_optional=False,
        is_axis=True,
        largest=20.0,
        title="magnetic moments, which models with a spin adaptation read",
        note="3 numbers for each atom, or one along z",
    )
)
MAGFORCES = register_label(
    Label(
        name="magforces",
        per="atom",
        shape=(3,),
        time_parity=-1,
        unit="eV/mu_B",
        key="REF_magforces",
        weight=100.0,
        conjugate_to="magmom",
        largest=1000.0,
        title="magnetic forces -dE/dm",
        word="magforce",
        report_unit="meV/mu_B",
        report_factor=1000.0,
    )
)
MOMENT_LENGTH = register_label(
    Label(
        name="moment_length",
        per="atom",
        unit="mu_B",
        key="REF_moment_length",
        length_of="magmom",
        largest=20.0,
        title="lengths of magnetic moments, where they are not those of the moments",
        word="length",
    )
)
TOTAL_CHARGE = register_label(
    Label(
        name="total_charge",
        per="graph",
        unit="e",
        key="total_charge",
        aliases=("charge",),
        is_input=True,
        is_optional=False,
        largest=1000.0,
        title="charge of the structure, which models with an embedding of it read",
        hint="0 for a neutral structure",
    )
)
TOTAL_SPIN = register_label(
    Label(
        name="total_spin",
        per="graph",
        unit="1",
        key="total_spin",
        aliases=("spin",),
        is_input=True,
        is_optional=False,
        largest=1000.0,
        title="spin multiplicity 2S + 1 of the structure, which models with an embedding of it read",
        hint="the multiplicity 2S + 1, 1 for a closed shell",
    )
)
