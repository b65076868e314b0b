"""Reading structures from files and from ASE. One registry of readers, by suffix, serves every verb."""

from __future__ import annotations

import glob
import io
import lzma
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ase
import ase.io
import numpy as np
from ase.io.formats import filetype

from pathtune.data.extxyz import cut, read_frame
from pathtune.data.geometry import check_geometry
from pathtune.data.labels import LENGTH, STRESS, VIRIALS, VIRIALS_KEY, LabelKeys, labels, outputs
from pathtune.data.notes import keys_in, notes_on, results_of
from pathtune.data.structure import ISOLATED_ATOM, Structure
from pathtune.data.weights import weights_in
from pathtune.errors import InputError
from pathtune.files import checked_path, shown, shown_names

SHIPPED = pathlib.Path(__file__).parent.parent / "demo"  # model and structures that come with this package

EXTXYZ = frozenset({".xyz", ".extxyz"})
MOST_CHARACTERS = 200  # of what ASE says
OTHER = (".md", ".txt", ".json", ".py", ".toml", ".yaml", ".log")  # in folders: files that hold no structures
LARGEST_UNPACKED = 500_000_000  # bytes of a packed file in memory

# (file, keys, max_frames, needs_labels) -> structures, or a Source
Reader = Callable[[pathlib.Path, LabelKeys, "int | None", bool], Any]
_READERS: dict[str, Reader] = {}


def register_reader(suffix: str, reader: Reader) -> None:
    """Read files whose names end in `suffix` (".h5") by `reader`; all others are ASE's. InputError for one taken."""
    if suffix in _READERS:
        raise InputError(f"reader of {suffix!r} is registered already, expected another suffix")
    _READERS[suffix] = reader


def read(file: str | pathlib.Path, keys: LabelKeys, max_frames: int | None, needs_labels: bool) -> Any:
    """What the reader of this file's suffix makes of it: structures, or a Source. InputError as read_structures."""
    path = pathlib.Path(file)
    reader = next((_READERS[suffix] for suffix in _READERS if path.name.endswith(suffix)), read_with_ase)
    return reader(path, keys, max_frames, needs_labels)


def named_files(name: str | pathlib.Path) -> list[str]:
    """The files that a name means: itself, or those that a glob finds, in order; a slice after @ stays on each.

    Raises InputError for a glob that finds none, and as checked_path.
    """
    file, part = split_slice(name)
    if checked_path(file).exists() or not glob.has_magic(file):
        return [str(name)]
    found = sorted(glob.glob(file, recursive=True))
    if not found:
        raise InputError(f"{file}: matches no file, expected some")
    return [f + str(name)[len(file) :] if part else f for f in found]


def files_in(folder: str | pathlib.Path) -> list[str]:
    """The files of structures in a folder and those below it, in order: all but hidden ones and those of OTHER kinds.

    Raises InputError for a folder without any.
    """
    found = [p for p in checked_path(folder).rglob("*") if p.is_file() and not p.name.startswith(".")]
    names = sorted(str(p) for p in found if p.suffix.lower() not in OTHER)
    if not names:
        raise InputError(f"{folder}: is a folder without files of structures, expected some")
    return names


def split_slice(name: str | pathlib.Path) -> tuple[str, slice | None]:
    """A file, and what follows it after @ as ASE takes it: "a.xyz@:20" is the first 20 frames, "a.xyz@-1" the last."""
    file, at, text = str(name).rpartition("@")
    if not at or checked_path(name).exists() or not re.fullmatch("-?[0-9]+|(-?[0-9]*:){1,2}-?[0-9]*", text):
        return str(name), None
    if ":" in text:
        return file, slice(*(int(number) if number else None for number in text.split(":")))
    return file, slice(int(text), int(text) + 1 or None)


def demo_file(split: str) -> pathlib.Path:
    """The shipped structures of glycine at PBE/def2-SVP: "train" (50), "valid" (20) or "test" (100)."""
    if split not in ("train", "valid", "test"):
        raise InputError(f"demo_file: split is {split!r}, expected train, valid or test")
    return SHIPPED / f"glycine_{split}.extxyz.xz"


def read_with_ase(file: pathlib.Path, keys: LabelKeys, max_frames: int | None, needs_labels: bool) -> list[Structure]:
    """Read and check the frames of extxyz, also .xz, or anything ASE reads; InputError as read_structures."""
    frames = read_frames(file)[:max_frames]
    if not frames:
        raise InputError(f"{file}: holds no frames, expected at least one")
    return from_frames(frames, keys, str(file), needs_labels)


def read_frames(file: str | pathlib.Path) -> list[ase.Atoms]:
    """All frames of a file as ASE reads them. Raises InputError when there is no such or no readable file."""
    path = checked_path(file)
    if not path.is_file():
        raise InputError(f"{file}: no such file")
    is_packed = path.suffix == ".xz"
    suffix = pathlib.Path(path.stem).suffix if is_packed else path.suffix
    is_extxyz = suffix in EXTXYZ or (is_packed and not suffix)
    try:
        if not (is_packed or is_extxyz):  # a name without a suffix may hold it too
            is_extxyz = filetype(str(path)) == "extxyz"
        if not (is_packed or is_extxyz):
            return ase.io.read(path, ":")  # type: ignore
        # ASE seeks in the file and xz rewinds each time: unpacking first is 200 times faster.
        text = _unpacked(path) if is_packed else path.read_text()
        if is_extxyz:
            return [read_frame(frame) for frame in cut(text, str(file))]
        return ase.io.read(io.StringIO(text), ":", format=suffix[1:])  # type: ignore
    except InputError:
        raise
    except Exception as error:  # ASE raises anything from KeyError to struct.error on a foreign file
        text = " ".join(str(error).split())
        raise InputError(
            f"{file}: not readable as structures ({type(error).__name__}: {text[:MOST_CHARACTERS]})"
        ) from error


def _unpacked(path: pathlib.Path) -> str:
    with lzma.open(path, "rb") as stream:
        data = stream.read(LARGEST_UNPACKED + 1)
    if len(data) > LARGEST_UNPACKED:
        raise InputError(
            f"{path}: unpacks to more than {LARGEST_UNPACKED:,d} bytes, expected less, or an unpacked file (xz -d)"
        )
    return data.decode()


def from_frames(frames: Sequence[ase.Atoms], keys: LabelKeys, where: str, needs_labels: bool) -> list[Structure]:
    """from_atoms for each frame of `where`; `needs_labels`: refuse a label key that no frame has.

    Where no frame has a label under the default keys, the results of the frames' calculators are taken: what ASE
    makes of VASP's and others' files. The structures' notes say so.
    """
    used = keys_in(frames, keys)
    structures = [from_atoms(atoms, used, f"{where}, frame {i}") for i, atoms in enumerate(frames)]
    notes = tuple(f"{where}: {note}" for note in notes_on(frames, structures, keys, used))
    for s in structures:
        s.notes = notes
    if needs_labels:
        _check_present(where, structures, frames, used)
    return structures


def from_atoms(
    atoms: ase.Atoms, keys: LabelKeys | None = None, where: str = "structure", with_outputs: bool = True
) -> Structure:
    """A checked Structure from an ASE Atoms; labels are looked up in info, arrays and calculator results.

    `with_outputs`: whether labels that a model predicts are taken. Raises InputError as read_structures.
    """
    keys = keys or LabelKeys()
    if len(atoms) == 0:
        raise InputError(f"{where}: has no atoms, expected at least one")
    results = results_of(atoms)
    factors = keys.conversions()
    length = factors.get(LENGTH, (1.0, False))[0]
    weight, own = weights_in(atoms, where) if with_outputs else (1.0, {})
    found = {}
    for label in labels():
        if not (with_outputs or label.is_input) or own.get(label.name) == 0:
            continue  # what does not count is taken for missing, as it is for mace
        place = atoms.info if label.per == "graph" else atoms.arrays
        key = keys.of(label)
        value = place.get(key, results.get(key))
        if value is None and key == label.key:
            value = next((place[other] for other in label.aliases if place.get(other) is not None), None)
        if value is not None:
            factor, is_per_atom = factors.get(label.name, (1.0, False))
            factor = factor * len(atoms) if is_per_atom else factor
            found[label.name] = label.checked(value, len(atoms), key, where, factor)
    if with_outputs and STRESS.name not in found and own.get(STRESS.name) != 0:
        found |= _stress_of_virials(atoms, keys.virials_key, factors, where)
    for label in labels() if with_outputs else ():
        if label.length_of in found and label.name not in found and own.get(label.name) != 0:
            found[label.name] = np.linalg.norm(found[label.length_of], axis=1)
    structure = Structure(
        where=where,
        atomic_numbers=atoms.numbers.astype(np.int64),
        positions=length * np.asarray(atoms.positions, dtype=np.float64),
        cell=length * np.asarray(atoms.cell.array, dtype=np.float64),
        pbc=np.asarray(atoms.pbc, dtype=bool),
        labels=found,
        config_type=str(atoms.info.get("config_type", "Default")),
        head=str(atoms.info["head"]) if atoms.info.get("head") is not None else None,
        weight=weight,
        label_weights={name: value for name, value in own.items() if name in found and value != 1.0},
    )
    check_geometry(structure)
    for label in labels():
        if label.needs_volume and label.name in found and not structure.has_volume:
            raise InputError(
                f"{where}: has {label.phrase} ({keys.of(label)}) but is not periodic in three directions, "
                f"expected {label.phrase} only for crystals"
            )
    return structure


def _stress_of_virials(
    atoms: ase.Atoms, key: str, factors: Mapping[str, tuple[float, bool]], where: str
) -> dict[str, np.ndarray]:
    """The stress, -virials / volume, where the frame has virials; `factors` as LabelKeys.conversions gives them."""
    value = atoms.info.get(key, results_of(atoms).get(key))
    if value is None:
        return {}
    volume = abs(np.linalg.det(factors.get(LENGTH, (1.0, False))[0] * atoms.cell.array))
    if not atoms.pbc.all() or not volume > 0:
        raise InputError(
            f"{where}: has virials ({key}) but is not periodic in three directions, expected virials only for crystals"
        )
    factor = factors.get(VIRIALS, (1.0, False))[0]
    return {STRESS.name: STRESS.checked(value, len(atoms), key, where, -factor / volume)}


def _check_present(where: str, structures: list[Structure], frames: Sequence[ase.Atoms], keys: LabelKeys) -> None:
    infos = sorted({k for a in frames for k in a.info} | _result_keys(frames))
    arrays = sorted(({k for a in frames for k in a.arrays} | _result_keys(frames)) - {"numbers", "positions"})
    for label in labels():
        key = keys.of(label)
        is_optional = label.is_optional or label.is_input
        if is_optional and key == label.key:
            continue
        # An isolated atom has no forces.
        asked = [s for s in structures if label.per == "graph" or s.config_type != ISOLATED_ATOM]
        if asked and not any(label.name in s.labels for s in asked):
            present = shown_names(infos if label.per == "graph" else arrays)
            raise InputError(f"{where}: no frame has the {label.name} key {shown(key)}; present: {present}")
    if keys.virials_key != VIRIALS_KEY and not any(STRESS.name in s.labels for s in structures):
        raise InputError(
            f"{where}: no frame has the virials key {shown(keys.virials_key)}; present: {shown_names(infos)}"
        )
    needed = [label for label in outputs() if not label.is_optional]
    for s in structures:
        if not any(label.name in s.labels for label in needed):
            names = " nor ".join(keys.of(label) for label in needed)
            raise InputError(f"{s.where}: has neither {names}, expected a label")


def _result_keys(frames: Sequence[ase.Atoms]) -> set[str]:
    return {k for a in frames for k in results_of(a)}
