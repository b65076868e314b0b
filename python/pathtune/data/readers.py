"""Reading structures from files and from ASE."""

from __future__ import annotations

import io
import lzma
import pathlib

import ase
import ase.io
import numpy as np

from pathtune.data.labels import LabelKeys, checked_forces, checked_number, checked_stress
from pathtune.data.structure import ISOLATED_ATOM, Structure
from pathtune.errors import InputError

SHIPPED = pathlib.Path(__file__).parent.parent / "demo"  # model and structures that come with this package


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
        energy_ev=None if energy is None else checked_number(energy, keys.energy_key, where),
        forces=None if forces is None else checked_forces(forces, len(atoms), keys.forces_key, where),
        stress=None if stress is None else checked_stress(stress, keys.stress_key, where),
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
