"""Structures: atoms, cell and labels of one frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import ase.data
import numpy as np

from pathtune.errors import InputError

ISOLATED_ATOM = "IsolatedAtom"  # MACE's config_type of frames that give E0 directly


def _label(name: str, doc: str) -> Any:
    """A property that reads and writes one label; None is a missing one."""

    def read(self):
        return self.labels.get(name)

    def write(self, value):
        if value is None:
            self.labels.pop(name, None)
        else:
            self.labels[name] = np.asarray(value, dtype=np.float64)

    return property(read, write, doc=doc)


@dataclasses.dataclass
class Structure:
    """One structure and its labels; one that is missing is not in `labels`."""

    where: str  # file and frame, for messages
    atomic_numbers: np.ndarray  # [n_atoms]
    positions: np.ndarray  # [n_atoms, 3] A
    cell: np.ndarray  # [3, 3] A, rows are vectors; zeros when absent
    pbc: np.ndarray  # [3] bool
    labels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # by name; float64, of the label's shape
    config_type: str = "Default"
    head: str | None = None  # level of theory of the labels; None: the one that the model was loaded for
    weight: float = 1.0  # of its errors in the loss
    label_weights: dict[str, float] = dataclasses.field(default_factory=dict)  # and what it is times, by label
    notes: tuple[str, ...] = ()  # what a reader has to say of the file, in sentences

    forces = _label("forces", "[n_atoms, 3] eV/A, or None.")
    stress = _label("stress", "[3, 3] eV/A^3, or None.")

    @property
    def energy_ev(self) -> float | None:
        """Total energy, or None."""
        return float(self.labels["energy"]) if "energy" in self.labels else None

    @energy_ev.setter
    def energy_ev(self, value: float | None) -> None:
        if value is None:
            self.labels.pop("energy", None)
        else:
            self.labels["energy"] = np.array(float(value))

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    def weight_of(self, name: str) -> float:
        """What the errors of a label count in the loss."""
        return self.weight * self.label_weights.get(name, 1.0)

    @property
    def has_volume(self) -> bool:
        """Whether a stress is defined: periodic in all directions."""
        return bool(self.pbc.all()) and abs(np.linalg.det(self.cell)) > 1e-6


def composition(structures: Sequence[Structure], elements: Sequence[int]) -> np.ndarray:
    """[n_structures, n_elements] counts of atoms."""
    return np.array([[int((s.atomic_numbers == z).sum()) for z in elements] for s in structures], dtype=np.float64)


def elements_of(data: Any) -> tuple[int, ...]:
    """Atomic numbers that occur in a Source or in structures, ascending."""
    if hasattr(data, "elements"):
        return data.elements
    return tuple(sorted({int(z) for s in data for z in np.unique(s.atomic_numbers)}))


def heads_of(data: Any) -> tuple[str | None, ...]:
    """Heads that a Source or structures name; None among them where a frame names none."""
    if hasattr(data, "read"):
        return getattr(data, "heads", (None,))
    return tuple(sorted({s.head for s in data}, key=str))


def config_types_of(data: Any) -> tuple[str, ...]:
    """The config_types that occur in a Source, or in the one that it is a part of; of one that does not say, none."""
    return getattr(data, "config_types", ())


def check_elements(data: Any, known: Sequence[int]) -> None:
    """Raise InputError for the first structure, of a Source or of several, with an element outside `known`."""
    if hasattr(data, "read"):
        if set(data.elements) <= set(known):
            return
        structures = [data.read(i) for i in range(len(data))]
    else:
        structures = data
    for s in structures:
        for z in np.unique(s.atomic_numbers):
            if int(z) not in known:
                names = " ".join(ase.data.chemical_symbols[k] for k in known)
                raise InputError(
                    f"{s.where}: contains {ase.data.chemical_symbols[z]}, which the model does not know ({names})"
                )
