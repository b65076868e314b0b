"""What a store of structures is on disk.

    STORE/store.json          what it holds, written last: a folder without it is unfinished
    STORE/index/NAME.npy      one row for each structure: n_atoms, n_edges, composition, present, is_isolated
    STORE/shards/N.safetensors  columns of some thousand structures, read through memory maps
    STORE/bad.txt             records that were left out, one sentence each

A shard has a SHA-256 in store.json, and a CRC-32 for each BLOCK structures that is checked when the first of them is
read, so that opening a store of any size reads no shard.
"""

from __future__ import annotations

import json
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from pathtune.data.labels import labels
from pathtune.data.structure import Structure
from pathtune.errors import InputError

VERSION = 1
MANIFEST = "store.json"
PLAN = "prepare.json"  # what an unfinished store is made of
BLOCK = 256  # structures under one CRC-32
PER_ATOM = ("numbers", "positions")
TYPES = {"F64": "<f8", "I64": "<i8", "I32": "<i4", "U32": "<u4", "U8": "u1", "BOOL": "?"}  # of safetensors


def is_store(file: str | pathlib.Path) -> bool:
    """Whether a path is a finished store."""
    return (pathlib.Path(file) / MANIFEST).is_file()


def is_begun(file: str | pathlib.Path) -> bool:
    """Whether a path is an unfinished store."""
    return (pathlib.Path(file) / PLAN).is_file() and not is_store(file)


def packed(structures: Sequence[Structure], places: Sequence[tuple[str, int]], n_edges: Sequence[int]) -> bytes:
    """A shard. `places`: file and frame of each structure."""
    files = list(dict.fromkeys(file for file, _ in places))
    types = list(dict.fromkeys(s.config_type for s in structures))
    heads = list(dict.fromkeys(s.head for s in structures))
    n_atoms = [len(s) for s in structures]
    columns = {
        "offset": np.concatenate([[0], np.cumsum(n_atoms)]).astype(np.int64),
        "file": np.array([files.index(file) for file, _ in places], dtype=np.int32),
        "frame": np.array([frame for _, frame in places], dtype=np.int64),
        "cell": np.stack([s.cell for s in structures]),
        "pbc": np.stack([s.pbc for s in structures]),
        "config_type": np.array([types.index(s.config_type) for s in structures], dtype=np.int32),
        "head": np.array([heads.index(s.head) for s in structures], dtype=np.int32),
        "weight": np.array([s.weight for s in structures], dtype=np.float64),
        **_weight_columns(structures),
        "n_edges": np.array(n_edges, dtype=np.int64),
        "numbers": np.concatenate([s.atomic_numbers for s in structures]).astype(np.uint8),
        "positions": np.concatenate([s.positions for s in structures]),
        **_label_columns(structures),
    }
    columns["crc"] = np.array([_crc(columns, k) for k in range(_n_blocks(len(structures)))], dtype=np.uint32)
    texts = {"files": files, "config_types": types, "heads": heads, "labels": _per(columns)}
    return safetensors.numpy.save(columns, {"pathtune": json.dumps(texts)})


class Shard:
    """The columns of one shard, mapped into memory and never loaded as a whole."""

    def __init__(self, file: pathlib.Path, n_bytes: int):
        """Raises InputError for a file that is missing, of another size, or no shard."""
        self.file = file
        try:
            size = file.stat().st_size
            if size != n_bytes:
                raise InputError(f"{file}: has {size:,d} bytes, expected {n_bytes:,d}: the shard is damaged")
            data = np.memmap(file, dtype=np.uint8, mode="r").view(np.ndarray)  # slices of a memmap are slow to make
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}), expected a shard of the store") from error
        try:
            start = 8 + int.from_bytes(bytes(data[:8]), "little")
            header = json.loads(bytes(data[8:start]))
            texts = json.loads(header.pop("__metadata__")["pathtune"])
            self.columns = {name: _column(data, start, about) for name, about in header.items()}
            self.files, self.config_types, self.heads = texts["files"], texts["config_types"], texts["heads"]
            self.labels: dict[str, str] = texts["labels"]  # per graph or per atom, by name
            self._is_checked = np.zeros(_n_blocks(len(self)), dtype=bool)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: is damaged ({error}), expected a shard of the store") from error

    def __len__(self) -> int:
        return len(self.columns["offset"]) - 1

    def read(self, i: int) -> Structure:
        """Structure `i`; its arrays lie in the file. InputError for a damaged block, with its range."""
        block = i // BLOCK
        if not self._is_checked[block]:
            self._check(block)
        c = self.columns
        a, b = int(c["offset"][i]), int(c["offset"][i + 1])
        found = {}
        for name, per in self.labels.items():
            if c[f"has {name}"][i]:
                values = c[f"label {name}"]
                found[name] = values[a:b] if per == "atom" else np.asarray(values[i])
        return Structure(
            where=f"{self.files[c['file'][i]]}, frame {c['frame'][i]}",
            atomic_numbers=c["numbers"][a:b].astype(np.int64),
            positions=c["positions"][a:b],
            cell=c["cell"][i],
            pbc=c["pbc"][i],
            labels=found,
            config_type=self.config_types[c["config_type"][i]],
            head=self.heads[c["head"][i]],
            weight=float(c["weight"][i]),
            label_weights={name: float(c[f"weight {name}"][i]) for name in found if f"weight {name}" in c},
        )

    def _check(self, block: int) -> None:
        try:
            is_whole = _crc(self.columns, block) == self.columns["crc"][block]
        except (ValueError, IndexError, KeyError):  # offsets that lead nowhere
            is_whole = False
        if not is_whole:
            first, last = block * BLOCK, min((block + 1) * BLOCK, len(self)) - 1
            raise InputError(
                f"{self.file}: structures {first} to {last} are damaged, expected what pathtune prepare wrote: "
                "prepare the store again"
            )
        self._is_checked[block] = True


def _column(data: np.ndarray, start: int, about: Mapping[str, Any]) -> np.ndarray:
    a, b = about["data_offsets"]
    return data[start + a : start + b].view(TYPES[about["dtype"]]).reshape(about["shape"])


def _label_columns(structures: Sequence[Structure]) -> dict[str, np.ndarray]:
    """For each label that some structure has: `has NAME` [n] and `label NAME`, zero where it is missing."""
    columns = {}
    for label in labels():
        if not any(label.name in s.labels for s in structures):
            continue
        values = []
        for s in structures:
            shape = (len(s) if label.per == "atom" else 1, *label.shape)
            value = s.labels.get(label.name)
            values.append(np.zeros(shape) if value is None else np.asarray(value, dtype=np.float64).reshape(shape))
        columns[f"label {label.name}"] = np.concatenate(values)
        columns[f"has {label.name}"] = np.array([label.name in s.labels for s in structures])
    return columns


def _weight_columns(structures: Sequence[Structure]) -> dict[str, np.ndarray]:
    """For each label that has a weight of its own in some structure: `weight NAME` [n]."""
    names = sorted({name for s in structures for name in s.label_weights})
    return {f"weight {name}": np.array([s.label_weights.get(name, 1.0) for s in structures]) for name in names}


def _per(columns: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {label.name: label.per for label in labels() if f"label {label.name}" in columns}


def _crc(columns: Mapping[str, np.ndarray], block: int) -> int:
    """Over the rows of one block of every column, in the order of their names."""
    offset = columns["offset"]
    n = len(offset) - 1
    first, last = block * BLOCK, min((block + 1) * BLOCK, n)
    a, b = int(offset[first]), int(offset[last])
    result = zlib.crc32(np.ascontiguousarray(offset[first : last + 1]).data)
    for name in sorted(columns):
        if name in ("offset", "crc"):
            continue
        column = columns[name]
        part = column[first:last] if len(column) == n and name not in PER_ATOM else column[a:b]
        result = zlib.crc32(np.ascontiguousarray(part).data, result)
    return result


def _n_blocks(n: int) -> int:
    return -(-n // BLOCK)
