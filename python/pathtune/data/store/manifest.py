"""store.json and the index of a store: made of its shards at the end, read when it is opened."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pathtune.data.labels import labels
from pathtune.data.store.layout import MANIFEST, VERSION, Shard
from pathtune.data.structure import ISOLATED_ATOM
from pathtune.errors import InputError
from pathtune.files import read_text, with_an_end, write_text
from pathtune.forms import check_form, from_json

INDEX = ("n_atoms", "n_edges", "composition", "present", "is_isolated")
FORM = {
    "format": "pathtune store",
    "version": int,
    "pathtune": str,
    "n": int,
    "n_atoms": int,
    "shards": [{"file": str, "n": int, "bytes": int, "sha256": str}],
    "labels": {...: {"n": int, "unit": str, "shape": [int], "per": str}},
    "label_order": [str],
    "keys": {...: str},
    "elements": [int],
    "r_max": float,
    "is_r_max_asked": bool,
    "n_bad": int,
    "notes": [str],
    "index": {...: str},
    "fingerprint": str,
}
MAY_HOLD = {"units": [str], "virials_key": str}  # what is not in every store


def finish(folder: pathlib.Path, records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write the index and store.json, of the records beside the shards. InputError where they cannot be written."""
    records = [record for record in records if record["n"]]
    shards = [Shard(folder / "shards" / record["file"], record["bytes"]) for record in records]
    found = {name for record in records for name in record["labels"]}
    known = [label for label in labels() if label.name in found]
    elements = sorted(set().union(*(np.unique(shard.columns["numbers"]).tolist() for shard in shards)))
    index = folder / "index"
    try:
        index.mkdir(parents=True, exist_ok=True)
        counts = _write_index(index, shards, elements, [label.name for label in known])
    except OSError as error:
        raise InputError(f"{index}: cannot be written ({error.strerror})") from error
    digest = hashlib.sha256(repr([record["sha256"] for record in records]).encode()).hexdigest()
    content = {
        "format": "pathtune store",
        "version": VERSION,
        "n": sum(record["n"] for record in records),
        "n_atoms": sum(record["n_atoms"] for record in records),
        "shards": [{key: record[key] for key in ("file", "n", "bytes", "sha256")} for record in records],
        "labels": {
            label.name: {"n": n, "unit": label.unit, "shape": list(label.shape), "per": label.per}
            for label, n in zip(known, counts)
        },
        "label_order": [label.name for label in known],
        "elements": elements,
        "index": {name: _hash(index / f"{name}.npy") for name in INDEX},
        "fingerprint": digest,
        **about,
    }
    write_text(folder / MANIFEST, json_text(content))


def json_text(content: Mapping[str, Any]) -> str:
    """JSON that a person can read."""
    return json.dumps(content, indent=1) + "\n"


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """What store.json says. InputError for one that is damaged or of another version."""
    file = folder / MANIFEST
    text = read_text(file)
    version = from_json(text, {"version": int}, str(file))["version"]
    if version != VERSION:
        raise InputError(f"{file}: the store is of version {version}, expected {VERSION}: prepare it again")
    manifest = from_json(text, FORM, str(file))
    for name, form in MAY_HOLD.items():
        if name in manifest:
            check_form(manifest[name], form, str(file), name)
    n = sum(shard["n"] for shard in manifest["shards"])
    if n != manifest["n"] or any(shard["n"] < 1 for shard in manifest["shards"]):
        raise InputError(f"{file}: has {manifest['n']} structures, but {n} in its shards, expected as many")
    return manifest


def open_index(folder: pathlib.Path, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The columns of the index, mapped into memory. InputError for one that is missing or damaged."""
    columns = {}
    for name in INDEX:
        file = folder / "index" / f"{name}.npy"
        try:
            if _hash(file) != manifest["index"].get(name):
                raise InputError(f"{file}: is damaged, expected the index that pathtune prepare wrote")
            columns[name] = np.load(file, mmap_mode="r").view(np.ndarray)
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: cannot be read ({error}), expected the index of the store") from error
        if len(columns[name]) != manifest["n"]:
            raise InputError(f"{file}: has {len(columns[name])} rows, expected {manifest['n']}")
    return columns


def damaged_shards(folder: pathlib.Path, manifest: Mapping[str, Any]) -> list[str]:
    """A sentence for each shard whose checksum is another than the manifest's."""
    found = []
    for shard in manifest["shards"]:
        file = folder / "shards" / shard["file"]
        if not file.is_file() or _hash(file) != shard["sha256"]:
            found.append(f"{file}: is missing or damaged, expected the SHA-256 {shard['sha256'][:12]}...")
    return found


def _write_index(index: pathlib.Path, shards: Sequence[Shard], elements: list[int], names: list[str]) -> list[int]:
    """How many structures have each label. One row for each structure, written shard by shard."""
    n = sum(len(shard) for shard in shards)
    kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
        "n_atoms": (np.int32, (n,)),
        "n_edges": (np.int64, (n,)),
        "composition": (np.int32, (n, len(elements))),
        "present": (bool, (n, len(names))),
        "is_isolated": (bool, (n,)),
    }
    columns = {
        name: np.lib.format.open_memmap(index / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
        for name, (kind, shape) in kinds.items()
    }
    start = 0
    for shard in shards:
        c, rows = shard.columns, slice(start, start + len(shard))
        n_atoms = np.diff(c["offset"])
        columns["n_atoms"][rows] = n_atoms
        columns["n_edges"][rows] = c["n_edges"]
        place = np.repeat(np.arange(len(shard)), n_atoms) * 128 + c["numbers"]
        columns["composition"][rows] = np.bincount(place, minlength=128 * len(shard)).reshape(-1, 128)[:, elements]
        for k, name in enumerate(names):
            columns["present"][rows, k] = c.get(f"has {name}", False)
        is_isolated = np.array([t == ISOLATED_ATOM for t in shard.config_types])
        columns["is_isolated"][rows] = is_isolated[c["config_type"]]
        start += len(shard)
    for column in columns.values():
        column.flush()
    return [int(columns["present"][:, k].sum()) for k in range(len(names))]


def _hash(file: pathlib.Path) -> str:
    with open(with_an_end(file), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
