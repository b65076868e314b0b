"""Files of structures as pieces that processes work on: text of extxyz, rows of a database, whole files.

A piece is some thousand frames. The process that cuts reads ahead by no more than a piece, so that files may be larger
than memory.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import lzma
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import ase.db

from pathtune.data.extxyz import cut, read_frame
from pathtune.data.readers import EXTXYZ, files_in, named_files, read_frames
from pathtune.errors import InputError
from pathtune.files import checked_path

PIECE = 4096  # frames
PIECE_BYTES = 64_000_000  # of text
DATABASES = (".db", ".aselmdb")
MACE_HDF5 = (".h5", ".hdf5")


@dataclasses.dataclass
class Part:
    """Some frames of one file."""

    file: str
    first: int = 0  # number of the first frame
    count: int | None = None  # frames; None: all
    texts: list[bytes] | None = None  # of extxyz, one for each frame
    fault: str = ""  # why the file cannot be read from `first` on
    is_cut: bool = False  # whether other parts of this file exist, so that no part can judge the whole


def pieces(files: Iterable[str]) -> Iterator[list[Part]]:
    """The files in order, as pieces. InputError, which names the file, for one that is not there."""
    waiting: list[Part] = []
    for file in files:
        for part in _parts(file):
            if part.is_cut or part.texts is not None:
                if waiting:
                    yield waiting
                    waiting = []
                yield [part]
                continue
            waiting.append(part)
            if len(waiting) >= PIECE // 16:  # many files of a few frames
                yield waiting
                waiting = []
    if waiting:
        yield waiting


def listed(names: Iterable[str]) -> list[str]:
    """The files that names, globs and folders mean, in order. InputError where there is none, or one is missing."""
    found: list[str] = []
    for name in names:
        for file in named_files(name):
            path = checked_path(file)
            if path.is_dir():
                found += files_in(path)
            elif path.is_file():
                found.append(str(path))
            else:
                raise InputError(f"{file}: no such file")
    return found


def frames_of(part: Part) -> Iterator[tuple[int, Any]]:
    """Number and ASE Atoms of each frame, or the sentence that says why it cannot be read."""
    if part.fault:
        yield part.first, part.fault
    elif part.texts is not None:
        yield from enumerate(_from_texts(part.texts), part.first)
    elif part.file.endswith(DATABASES):
        yield from _from_database(part)
    elif part.file.endswith(MACE_HDF5):
        yield from _from_hdf5(part)
    else:
        try:
            yield from enumerate(read_frames(part.file))
        except InputError as error:
            yield 0, str(error).removeprefix(f"{part.file}: ")


def _parts(file: str) -> Iterator[Part]:
    path = pathlib.Path(file)
    is_packed = path.suffix == ".xz"
    suffix = pathlib.Path(path.stem).suffix if is_packed else path.suffix
    if suffix in EXTXYZ or (is_packed and not suffix):
        try:
            with lzma.open(path, "rb") if is_packed else open(path, "rb") as stream:
                yield from _cut(stream, file)  # type: ignore
        except (OSError, lzma.LZMAError, EOFError) as error:
            raise InputError(f"{file}: not readable ({error})") from error
    elif file.endswith((*DATABASES, *MACE_HDF5)):
        n = _n_rows(file)
        for first in range(0, n, PIECE):
            yield Part(file, first, min(PIECE, n - first), is_cut=n > PIECE)
    else:
        yield Part(file)


def _cut(stream: BinaryIO, file: str) -> Iterator[Part]:
    """Parts of an extxyz file, by the number of atoms that each frame announces; a fault ends the file."""
    first, n_bytes, texts, line = 0, 0, [], 0
    is_cut = False
    head = stream.readline()
    while head.strip():
        try:
            n_atoms = int(head)
        except ValueError:
            n_atoms = -1
        body = list(itertools.islice(stream, n_atoms + 1)) if n_atoms >= 0 else []
        if len(body) < n_atoms + 1 or n_atoms < 0:
            words = f"announces {n_atoms} atoms, but {max(0, len(body) - 1)} lines follow"
            words = words if n_atoms >= 0 else f"is {head.strip()[:40].decode(errors='replace')!r}"
            reason = f"line {line + 1} {words}, expected a number of atoms and as many lines; nothing after it is read"
            if texts:
                yield Part(file, first, len(texts), texts, is_cut=True)
            yield Part(file, first + len(texts), 1, fault=reason, is_cut=True)
            return
        line += n_atoms + 2
        head = stream.readline()
        while head.startswith(b"VEC"):  # ASE's lattice lines
            body.append(head)
            line += 1
            head = stream.readline()
        texts.append(b"".join([b"%d\n" % n_atoms, *body]))
        n_bytes += len(texts[-1])
        if len(texts) >= PIECE or n_bytes >= PIECE_BYTES:
            is_cut = is_cut or bool(head.strip())
            yield Part(file, first, len(texts), texts, is_cut=is_cut)
            first, n_bytes, texts = first + len(texts), 0, []
    if texts or not first:
        yield Part(file, first, len(texts), texts, is_cut=is_cut, fault="" if texts else "holds no frames")


def _from_texts(texts: list[bytes]) -> Iterator[Any]:
    for text in texts:
        try:
            (frame,) = cut(text.decode(), "the record")
            yield read_frame(frame)
        except Exception as error:  # ASE raises anything from KeyError to struct.error
            yield f"not readable as a structure ({type(error).__name__}: {' '.join(str(error).split())})"


def _n_rows(file: str) -> int:
    if file.endswith(MACE_HDF5):
        with _opened_hdf5(file) as data:
            return len(_configurations(data, file))
    try:
        with _connected(file) as rows:
            return rows.count()
    except InputError:
        raise
    except Exception as error:  # of sqlite, lmdb, ASE
        raise InputError(f"{file}: not readable as an ASE database ({type(error).__name__}: {error})") from error


def _connected(file: str) -> Any:
    if file.endswith(".aselmdb"):
        _needed("ase_db_backends", file, "ase-db-backends")
    return ase.db.connect(file, **({"readonly": True} if file.endswith(".aselmdb") else {}))  # type: ignore


def _from_database(part: Part) -> Iterator[tuple[int, Any]]:
    with _connected(part.file) as rows:
        selected = rows.select(sort="id", offset=part.first, limit=part.count) if hasattr(rows, "select") else ()
        for k, row in enumerate(selected, part.first):
            try:
                atoms = row.toatoms()
                atoms.info.update(row.key_value_pairs)
                atoms.info.update(row.data or {})
                yield k, atoms
            except Exception as error:  # of what a row holds
                yield k, f"not readable as a structure ({type(error).__name__}: {error})"


def _opened_hdf5(file: str) -> Any:
    h5py = _needed("h5py", file, "h5py")
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise InputError(f"{file}: not readable as HDF5 ({error})") from error


def _configurations(data: Any, file: str) -> list[tuple[str, str]]:
    """Names of the groups of each structure of a file that mace_prepare_data wrote, in order."""
    batches = sorted((b for b in data if b.startswith("config_batch_")), key=_number)
    if not batches:
        raise InputError(
            f"{file}: holds {', '.join(list(data)[:3]) or 'nothing'}, expected config_batch_N of mace_prepare_data"
        )
    return [(b, c) for b in batches for c in sorted(data[b], key=_number)]


def _number(name: str) -> int:
    return int(name.rsplit("_", 1)[1])


def _from_hdf5(part: Part) -> Iterator[tuple[int, Any]]:
    """mace's names of labels become info and arrays under our default keys."""
    with _opened_hdf5(part.file) as data:
        chosen = _configurations(data, part.file)[part.first :][: part.count]
        for k, (batch, name) in enumerate(chosen, part.first):
            try:
                yield k, _from_mace(data[batch][name])
            except Exception as error:  # of what a group lacks
                yield k, f"not readable as a structure of mace_prepare_data ({type(error).__name__}: {error})"


def _from_mace(group: Any) -> ase.Atoms:
    cell, pbc = _value(group["cell"]), _value(group["pbc"])
    atoms = ase.Atoms(
        numbers=group["atomic_numbers"][()],
        positions=group["positions"][()],
        cell=None if cell is None else cell,
        pbc=False if pbc is None else pbc,
    )
    weights = group["property_weights"]
    for name, values in group["properties"].items():
        value = _value(values)
        if value is None:
            continue
        if name in weights:
            atoms.info[f"config_{name}_weight"] = float(_value(weights[name]) or 0.0)
        place: dict[str, Any] = atoms.arrays if name in ("forces", "charges", "magmom") else atoms.info
        place[f"REF_{name}"] = value
    config_type, weight = _value(group["config_type"]), _value(group["weight"])
    atoms.info["config_type"] = config_type or "Default"
    atoms.info["config_weight"] = 1.0 if weight is None else float(weight)
    return atoms


def _value(dataset: Any) -> Any:
    value = dataset[()]
    value = value.decode() if isinstance(value, bytes) else value
    return None if isinstance(value, str) and value == "None" else value


def _needed(module: str, file: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{file}: needs the package {package}, which is not installed: pip install {package}"
        ) from error
