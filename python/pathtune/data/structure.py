"""Structures: atoms, cell and labels of one frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import ase.data
import numpy as np

from pathtune.errors import InputError

ISOLATED_ATOM = "IsolatedAtom"  # MACE's config_type of frames that give E0 directly


@dataclasses.dataclass(frozen=True)
class Graph:
    """Directed edges sorted by receiver; `pair[e]` is shared by an edge and its reverse."""

    sender: np.ndarray  # [n_edges] int64
    receiver: np.ndarray  # [n_edges] int64
    unit_shifts: np.ndarray  # [n_edges, 3]; the receiver's image seen from the sender, in cell vectors
    pair: np.ndarray  # [n_edges] int64
    r_max: float  # A, within which these are all edges


@dataclasses.dataclass
class Structure:
    """One labelled structure; a missing label is None."""

    where: str  # file and frame, for messages
    atomic_numbers: np.ndarray  # [n_atoms]
    positions: np.ndarray  # [n_atoms, 3] A
    cell: np.ndarray  # [3, 3] A, rows are vectors; zeros when absent
    pbc: np.ndarray  # [3] bool
    energy_ev: float | None = None
    forces: np.ndarray | None = None  # [n_atoms, 3] eV/A
    stress: np.ndarray | None = None  # [3, 3] eV/A^3
    config_type: str = "Default"
    graph: Graph | None = None

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    @property
    def has_volume(self) -> bool:
        """Whether a stress is defined: periodic in all directions."""
        return bool(self.pbc.all()) and abs(np.linalg.det(self.cell)) > 1e-6


def composition(structures: Sequence[Structure], elements: Sequence[int]) -> np.ndarray:
    """[n_structures, n_elements] counts of atoms."""
    return np.array([[int((s.atomic_numbers == z).sum()) for z in elements] for s in structures], dtype=np.float64)


def elements_of(structures: Iterable[Structure]) -> tuple[int, ...]:
    """Atomic numbers that occur, ascending."""
    return tuple(sorted({int(z) for s in structures for z in s.atomic_numbers}))


def check_elements(structures: Iterable[Structure], known: Sequence[int]) -> None:
    """Raise InputError for the first structure with an element outside `known`."""
    for s in structures:
        for z in np.unique(s.atomic_numbers):
            if int(z) not in known:
                names = " ".join(ase.data.chemical_symbols[k] for k in known)
                raise InputError(
                    f"{s.where}: contains {ase.data.chemical_symbols[z]}, which the model does not know ({names})"
                )
