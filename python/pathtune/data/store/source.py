"""A store as a Source: structures stay in their files, and memory does not grow with their number."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from pathtune.data.labels import VIRIALS_KEY, Label, LabelKeys, labels, outputs
from pathtune.data.neighbours import Graph, find_graph
from pathtune.data.store.layout import Shard
from pathtune.data.store.manifest import open_index, read_manifest
from pathtune.data.structure import Structure
from pathtune.errors import InputError


class Store:
    """What `pathtune prepare` made, read through memory maps; neighbours are searched when they are asked for."""

    streams = True  # read ahead of the training by a thread

    def __init__(self, folder: str | pathlib.Path):
        """Raises InputError for a store that is damaged, of another version, or with labels that are now others."""
        self.folder = pathlib.Path(folder)
        self.manifest = read_manifest(self.folder)
        self.elements = tuple(self.manifest["elements"])
        index = open_index(self.folder, self.manifest)
        self.n_atoms, self.n_edges = index["n_atoms"], index["n_edges"]
        self.composition, self.is_isolated = index["composition"], index["is_isolated"]
        for label in labels():
            self._check_label(label)
        none = np.broadcast_to(np.zeros(1, dtype=bool), len(self.n_atoms))
        order = self.manifest["label_order"]
        self.present: Mapping[str, np.ndarray] = {
            label.name: index["present"][:, order.index(label.name)] if label.name in order else none
            for label in labels()
        }
        self.notes = tuple(self.manifest["notes"])
        self._ends = np.cumsum([shard["n"] for shard in self.manifest["shards"]])
        self._shards: dict[int, Shard] = {}

    def __len__(self) -> int:
        return len(self.n_atoms)

    @property
    def fingerprint(self) -> str:
        """A hash of the checksums of the shards."""
        return self.manifest["fingerprint"]

    @property
    def config_types(self) -> tuple[str, ...]:
        """Those that occur; every shard is opened for them, none is read."""
        n = len(self.manifest["shards"])
        return tuple(sorted({name for k in range(n) for name in self._shard(k).config_types}))

    def read(self, i: int) -> Structure:
        """Structure `i`; its arrays lie in the file. InputError for a damaged shard."""
        which = int(np.searchsorted(self._ends, i, side="right"))
        shard = self._shard(which)
        return shard.read(int(i - self._ends[which] + len(shard)))

    def _shard(self, which: int) -> Shard:
        shard = self._shards.get(which)
        if shard is None:
            about = self.manifest["shards"][which]
            shard = self._shards[which] = Shard(self.folder / "shards" / about["file"], about["bytes"])
        return shard

    def graph(self, i: int, r_max: float) -> Graph:
        """Its edges within r_max (A); InputError as find_graph."""
        return find_graph(self.read(i), r_max)

    def check_cutoff(self, r_max: float) -> None:
        """Raise InputError where the store was prepared for models of another cutoff (A)."""
        mine = self.manifest["r_max"]
        if self.manifest["is_r_max_asked"] and abs(mine - r_max) > 1e-6:
            raise InputError(
                f"{self.folder}: was prepared with --r-max {mine:g}, but the cutoff of the model is {r_max:g} A, "
                "expected a store of the same, or one without --r-max"
            )

    def check_asked(self, keys: LabelKeys, needs_labels: bool) -> None:
        """Raise InputError for keys other than those of the store, and for a needed label that no structure has."""
        for label in labels():
            mine = self.manifest["keys"].get(label.name, label.key)
            if keys.of(label) not in (label.key, mine):
                raise InputError(
                    f"{self.folder}: was prepared with {label.name}_key {mine!r}, not {keys.of(label)!r}, "
                    "expected the same, or a store prepared again"
                )
        mine = tuple(self.manifest.get("units", ()))
        if keys.units and sorted(keys.units) != sorted(mine):
            raise InputError(
                f"{self.folder}: was prepared with {' '.join(mine) or 'no other units'}, not {' '.join(keys.units)}, "
                "expected the same or none, since a store is in eV and A, or one prepared again"
            )
        if keys.virials_key not in (VIRIALS_KEY, self.manifest.get("virials_key", VIRIALS_KEY)):
            raise InputError(
                f"{self.folder}: was not prepared with the virials_key {keys.virials_key!r}, expected a store prepared "
                "again"
            )
        for label in outputs():
            if needs_labels and not label.is_optional and label.name not in self.manifest["label_order"]:
                has = ", ".join(self.manifest["label_order"]) or "no labels"
                raise InputError(f"{self.folder}: holds {has}, but no {label.name}, expected it for a training")

    def _check_label(self, label: Label) -> None:
        about = self.manifest["labels"].get(label.name)
        now = {"unit": label.unit, "shape": list(label.shape), "per": label.per}
        if about is not None and any(about[key] != value for key, value in now.items()):
            raise InputError(
                f"{self.folder}: holds {label.name} in {about['unit']} of shape {about['shape']} per {about['per']}, "
                f"expected {label.unit}, {list(label.shape)}, per {label.per}"
            )


class Selected:
    """Some structures of a source, in a given order, which stay where they are."""

    streams = True

    def __init__(self, source: Store | Selected, indices: Sequence[int]):
        self._source = source
        self._indices = np.asarray(indices, dtype=np.int64)
        self.elements = source.elements
        self.notes = source.notes
        self.composition = source.composition[self._indices]
        self.n_atoms, self.n_edges = source.n_atoms[self._indices], source.n_edges[self._indices]
        self.is_isolated = source.is_isolated[self._indices]
        self.present: Mapping[str, np.ndarray] = {name: found[self._indices] for name, found in source.present.items()}
        occurring = self.composition.sum(axis=0) > 0
        self.elements = tuple(z for z, occurs in zip(source.elements, occurring) if occurs)
        self.composition = self.composition[:, occurring]

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def fingerprint(self) -> str:
        """A hash of the store's and the indices."""
        return hashlib.sha256(self._source.fingerprint.encode() + self._indices.tobytes()).hexdigest()

    @property
    def config_types(self) -> tuple[str, ...]:
        """The source's."""
        return self._source.config_types

    def read(self, i: int) -> Structure:
        """Structure `i` of those selected."""
        return self._source.read(int(self._indices[i]))

    def graph(self, i: int, r_max: float) -> Graph:
        """Its edges within r_max (A)."""
        return self._source.graph(int(self._indices[i]), r_max)

    def check_cutoff(self, r_max: float) -> None:
        """As the source's."""
        self._source.check_cutoff(r_max)
