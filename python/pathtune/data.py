"""Structures: reading them from files, checking their labels, finding neighbours once."""

from __future__ import annotations

import dataclasses
import io
import lzma
import pathlib
from collections.abc import Iterable, Sequence

import ase
import ase.data
import ase.geometry
import ase.io
import numpy as np
import vesin

from pathtune.errors import InputError
from pathtune.options import option

MAX_FORCE_EV_A = 1000.0  # beyond any structure a potential is trained on: a unit error or a broken run
MIN_DISTANCE_A = 0.1
SHIPPED = pathlib.Path(__file__).parent / "demo"  # model and structures that come with this package
ISOLATED_ATOM = "IsolatedAtom"  # MACE's config_type of frames that give E0 directly


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelKeys:
    """Names of the labels in the files."""

    energy_key: str = option("REF_energy", "info key of the total energy, eV")
    forces_key: str = option("REF_forces", "arrays key of the forces, eV/A")
    stress_key: str = option("REF_stress", "info key of the stress, eV/A^3, positive is tensile (ASE)")


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


def demo_file(split: str) -> pathlib.Path:
    """The shipped structures of glycine at PBE/def2-SVP: "train" (50), "valid" (20) or "test" (100)."""
    if split not in ("train", "valid", "test"):
        raise InputError(f"demo_file: split is {split!r}, expected train, valid or test")
    return SHIPPED / f"glycine_{split}.extxyz.xz"


def read_structures(
    file: str | pathlib.Path, keys: LabelKeys | None = None, max_frames: int | None = None, needs_labels: bool = True
) -> list[Structure]:
    """Read and check every frame of `file` (extxyz, also .xz, or anything ASE reads).

    Raises InputError for a missing or unreadable file, a label key that no frame has, and for labels that
    are not finite, of the wrong shape, or absurd; it names file and frame.
    """
    keys = keys or LabelKeys()
    frames = read_frames(file)[:max_frames]
    if not frames:
        raise InputError(f"{file}: holds no frames, expected at least one")
    structures = [from_atoms(atoms, keys, f"{file}, frame {i}") for i, atoms in enumerate(frames)]
    if needs_labels:
        _check_present(str(file), structures, frames, keys)
    return structures


def read_frames(file: str | pathlib.Path) -> list[ase.Atoms]:
    """All frames of a file as ASE reads them. Raises InputError when there is no such or no readable file."""
    path = pathlib.Path(file)
    if not path.is_file():
        raise InputError(f"{file}: no such file")
    try:
        if path.suffix == ".xz":
            # ASE seeks in the file and xz rewinds each time: unpacking first is 200 times faster.
            stem = pathlib.Path(path.stem)
            file_format = "extxyz" if stem.suffix in {".xyz", ".extxyz"} else (stem.suffix[1:] or "extxyz")
            with lzma.open(path, "rt") as stream:
                return ase.io.read(io.StringIO(stream.read()), ":", format=file_format)  # type: ignore
        file_format = "extxyz" if path.suffix in {".xyz", ".extxyz"} else None
        return ase.io.read(path, ":", format=file_format)  # type: ignore
    except Exception as error:  # ASE raises anything from KeyError to struct.error on a foreign file
        raise InputError(f"{file}: not readable as structures ({type(error).__name__}: {error})") from error


def from_atoms(atoms: ase.Atoms, keys: LabelKeys | None = None, where: str = "structure") -> Structure:
    """A checked Structure from an ASE Atoms; labels are looked up in info, arrays and calculator results."""
    keys = keys or LabelKeys()
    if len(atoms) == 0:
        raise InputError(f"{where}: has no atoms, expected at least one")
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    energy = atoms.info.get(keys.energy_key, results.get(keys.energy_key))
    forces = atoms.arrays.get(keys.forces_key, results.get(keys.forces_key))
    stress = atoms.info.get(keys.stress_key, results.get(keys.stress_key))
    structure = Structure(
        where=where,
        atomic_numbers=atoms.numbers.astype(np.int64),
        positions=np.asarray(atoms.positions, dtype=np.float64),
        cell=np.asarray(atoms.cell.array, dtype=np.float64),
        pbc=np.asarray(atoms.pbc, dtype=bool),
        energy_ev=None if energy is None else _number(energy, keys.energy_key, where),
        forces=None if forces is None else _forces(forces, len(atoms), keys.forces_key, where),
        stress=None if stress is None else _stress(stress, keys.stress_key, where),
        config_type=str(atoms.info.get("config_type", "Default")),
    )
    if not np.isfinite(structure.positions).all():
        raise InputError(f"{where}: a position is not finite, expected coordinates in A")
    if structure.stress is not None and not structure.has_volume:
        raise InputError(
            f"{where}: has a stress ({keys.stress_key}) but is not periodic in three directions, "
            "expected a stress only for crystals"
        )
    return structure


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


def _number(value, key: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {key} is {value!r}, expected a number in eV") from None
    if not np.isfinite(number):
        raise InputError(f"{where}: {key} is {number}, expected a finite energy in eV")
    return number


def _forces(value, n_atoms: int, key: str, where: str) -> np.ndarray:
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


def _stress(value, key: str, where: str) -> np.ndarray:
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


def _check_present(file: str, structures: list[Structure], frames: list[ase.Atoms], keys: LabelKeys) -> None:
    infos = sorted({k for a in frames for k in a.info} | _result_keys(frames))
    arrays = sorted(({k for a in frames for k in a.arrays} | _result_keys(frames)) - {"numbers", "positions"})
    molecules = [s for s in structures if s.config_type != ISOLATED_ATOM]
    if all(s.energy_ev is None for s in structures):
        raise InputError(f"{file}: no frame has the energy key {keys.energy_key!r}; present: {', '.join(infos)}")
    if molecules and all(s.forces is None for s in molecules):
        raise InputError(f"{file}: no frame has the forces key {keys.forces_key!r}; present: {', '.join(arrays)}")
    default = LabelKeys().stress_key
    if keys.stress_key != default and all(s.stress is None for s in structures):
        raise InputError(f"{file}: no frame has the stress key {keys.stress_key!r}; present: {', '.join(infos)}")
    for s in structures:
        if s.energy_ev is None and s.forces is None:
            raise InputError(f"{s.where}: has neither {keys.energy_key} nor {keys.forces_key}, expected a label")


def _result_keys(frames: list[ase.Atoms]) -> set[str]:
    return {k for a in frames if a.calc is not None for k in getattr(a.calc, "results", {})}
