"""Sources: where the frames of a set come from. In memory they are a list; a large set may stay in its file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import ase
import numpy as np
import torch

from pathtune.data.ahead import read_ahead
from pathtune.data.batch import Batch
from pathtune.data.geometry import check_geometry
from pathtune.data.labels import LabelKeys, labels
from pathtune.data.neighbours import Graph, find_graph
from pathtune.data.order import shuffled
from pathtune.data.readers import files_in, from_frames, named_files, read, split_slice
from pathtune.data.store import Selected, Store, is_begun, is_store
from pathtune.data.structure import ISOLATED_ATOM, Structure, composition, elements_of, heads_of
from pathtune.data.weights import checked_weight
from pathtune.errors import InputError

T = TypeVar("T")
GRAPH_BYTES = 2_000_000_000  # of neighbours that one set keeps in memory


class Source(Protocol):
    """The frames of a set, in an order of their own; they do not change."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        ...

    @property
    def composition(self) -> np.ndarray:
        """[n_frames, n_elements] counts of atoms, float64."""
        ...

    @property
    def present(self) -> Mapping[str, np.ndarray]:
        """By label, which frames have it: [n_frames] bool."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of the content: atoms, cells, labels, in order."""
        ...

    def __len__(self) -> int: ...

    def read(self, i: int) -> Structure:
        """Frame `i`, which the caller must not change."""
        ...

    def graph(self, i: int, r_max: float) -> Graph:
        """Its edges within r_max (A)."""
        ...


class Frames:
    """A Source in memory. It keeps the neighbours it found, up to `graph_bytes`; beyond, they are searched again."""

    def __init__(self, structures: Sequence[Structure], graph_bytes: int = GRAPH_BYTES):
        self._structures = list(structures)
        self.elements = elements_of(self._structures)
        self.heads = heads_of(self._structures)  # which they name; None where they name none
        self.composition = composition(self._structures, self.elements).reshape(len(self), len(self.elements))
        self.present = {
            label.name: np.array([label.name in s.labels for s in self._structures], dtype=bool) for label in labels()
        }
        self.config_types = tuple(sorted({s.config_type for s in self._structures}))
        self.notes = tuple(dict.fromkeys(note for s in self._structures for note in s.notes))  # of the files read
        self._graphs: dict[tuple[int, float], Graph] = {}
        self._free_bytes = graph_bytes

    def __len__(self) -> int:
        return len(self._structures)

    def __iter__(self) -> Iterator[Structure]:
        return iter(self._structures)

    def read(self, i: int) -> Structure:
        """Frame `i`."""
        return self._structures[i]

    def graph(self, i: int, r_max: float) -> Graph:
        """Its edges within r_max (A); InputError as find_graph."""
        kept = self._graphs.get((i, r_max))
        if kept is not None:
            return kept
        graph = find_graph(self._structures[i], r_max)
        if graph.n_bytes <= self._free_bytes:
            self._free_bytes -= graph.n_bytes
            self._graphs[i, r_max] = graph
        return graph

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content: atoms, cells, labels, heads, weights and types, in order."""
        total = hashlib.sha256()
        for s in self._structures:
            total.update(repr((s.config_type, s.head, s.weight, sorted(s.labels))).encode())
            if s.label_weights:
                total.update(repr(sorted(s.label_weights.items())).encode())
            values = [s.labels[name] for name in sorted(s.labels)]
            for array in (s.atomic_numbers, s.positions, s.cell, s.pbc, *values):
                total.update(repr((array.shape, array.dtype.str)).encode())
                total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()


class Shifted:
    """A source whose frames of some config_types have other energies: less a constant for each atom."""

    def __init__(self, source: Source, offsets: Mapping[str, float]):
        """`offsets`: by config_type, eV/atom."""
        self._source, self._offsets = source, dict(offsets)
        self.elements, self.composition, self.present = source.elements, source.composition, source.present

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def fingerprint(self) -> str:
        """A hash of the source's and the offsets."""
        return hashlib.sha256(repr((self._source.fingerprint, sorted(self._offsets.items()))).encode()).hexdigest()

    def read(self, i: int) -> Structure:
        """Frame `i`."""
        s = self._source.read(i)
        offset = self._offsets.get(s.config_type)
        if offset is None or "energy" not in s.labels:
            return s
        energy = s.labels["energy"] - offset * len(s)
        return dataclasses.replace(s, labels={**s.labels, "energy": energy})

    def graph(self, i: int, r_max: float) -> Graph:
        """Its edges within r_max (A)."""
        return self._source.graph(i, r_max)

    def subset(self, indices: Sequence[int]) -> Shifted:
        """Some of its frames."""
        return Shifted(subset(self._source, indices), self._offsets)


def as_source(
    data: Any, keys: LabelKeys | None = None, max_frames: int | None = None, needs_labels: bool = True
) -> Source:
    """A file, several files, a store, an ASE Atoms, a list of Atoms or of Structures, or a Source, as a Source.

    A file may be a glob, and end in a slice as ASE takes it: "runs/*.traj@:20" is the first 20 frames of each. A folder
    that is no store means the files in it.
    `max_frames`: only the first so many. `needs_labels`: refuse a label key that no frame of a file, or none
    of the Atoms, has. Raises InputError as read_structures does, and for anything else.
    """
    if max_frames is not None and max_frames < 1:
        raise InputError(f"max_frames is {max_frames}, expected at least 1")
    if hasattr(data, "read") and hasattr(data, "graph"):
        return data if max_frames is None or len(data) <= max_frames else subset(data, range(max_frames))
    keys = keys or LabelKeys()
    if isinstance(data, (str, pathlib.Path)):
        names = named_files(data)
        if len(names) > 1:
            return as_source(names, keys, max_frames, needs_labels)
        file, part = split_slice(names[0])
        if is_store(file):
            store = Store(file)
            store.check_asked(keys, needs_labels)
            return subset(store, range(len(store))[part or slice(None)][:max_frames]) if part or max_frames else store
        if pathlib.Path(file).is_dir():
            if is_begun(file):
                raise InputError(
                    f"{file}: is an unfinished store, expected the same pathtune prepare to finish it first"
                )
            found = [name + names[0][len(file) :] for name in files_in(file)]
            return as_source(found, keys, max_frames, needs_labels)
        found = read(file, keys, None if part else max_frames, needs_labels)
        source = Frames(found) if isinstance(found, (list, tuple)) else found
        return subset(source, range(len(source))[part][:max_frames]) if part else source
    is_several = isinstance(data, Iterable) and not isinstance(data, (ase.Atoms, Structure))
    parts: list[Any] = list(data) if is_several else [data]
    if not parts:
        raise InputError("data hold no structures, expected at least one")
    kinds = {_kind(part) for part in parts}
    if not kinds <= {"file"} and not kinds <= {"atoms"} and not kinds <= {"structure"}:
        names = ", ".join(sorted({type(part).__name__ for part in parts}))
        raise InputError(f"data hold {names}, expected files, ASE Atoms, or Structures, of one kind")
    if kinds == {"file"}:
        sources = [as_source(part, keys, None, needs_labels) for part in parts]
        if len(sources) == 1 and streams(sources[0]):
            return as_source(sources[0], keys, max_frames)
        if any(streams(source) for source in sources):
            raise InputError(
                f"data hold {len(sources)} files, one of them a store, expected a single store: prepare all as one"
            )
        structures = [source.read(i) for source in sources for i in range(len(source))]
    elif kinds == {"atoms"}:
        structures = from_frames(parts[:max_frames], keys, "atoms", needs_labels)
    else:
        structures = [checked(s) for s in parts[:max_frames]]
    return Frames(structures[:max_frames])


def streams(source: Any) -> bool:
    """Whether the structures of a source stay in their files, so that reading ahead is worth a thread."""
    return getattr(source, "streams", False)


def check_cutoff(source: Any, r_max: float) -> None:
    """Raise InputError for a store that was prepared for models of another cutoff (A)."""
    if isinstance(source, (Store, Selected)):
        source.check_cutoff(r_max)


def subset(source: Source, indices: Sequence[int]) -> Source:
    """Some frames of a source: in memory, or where they stay in their files, in these."""
    if isinstance(source, Shifted):
        return source.subset(indices)
    if isinstance(source, (Store, Selected)):
        return Selected(source, indices)
    return Frames([source.read(i) for i in indices])


def isolated_frames(source: Source) -> list[int]:
    """Indices, ascending, of the frames of config_type IsolatedAtom."""
    if isinstance(source, (Store, Selected)):
        return np.flatnonzero(source.is_isolated).tolist()
    return [i for i in range(len(source)) if source.read(i).config_type == ISOLATED_ATOM]


def split_off(source: Source, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of a training and a validation part, both ascending, drawn by `seed`; isolated atoms stay in training.

    Raises InputError where either part would be empty.
    """
    if not 0 < fraction < 1:
        raise InputError(f"valid_fraction is {fraction}, expected a number between 0 and 1")
    free = np.setdiff1d(np.arange(len(source)), isolated_frames(source)).tolist()
    order = shuffled(len(free), max(1, len(free)), seed, 0)
    n_valid = max(1, round(fraction * len(free)))
    if n_valid >= len(free):
        raise InputError(f"valid_fraction is {fraction} of {len(free)} structures, expected to leave both sets some")
    valid = {free[k] for k in order[0][:n_valid]}
    return [i for i in range(len(source)) if i not in valid], sorted(valid)


def read_structures(
    file: str | pathlib.Path, keys: LabelKeys | None = None, max_frames: int | None = None, needs_labels: bool = True
) -> list[Structure]:
    """Read and check every frame of `file` (extxyz, also .xz, or anything ASE reads).

    Raises InputError for a missing or unreadable file, a label key that no frame has, and for labels that
    are not finite, of the wrong shape, or absurd; it names file and frame.
    """
    source = as_source(file, keys, max_frames, needs_labels)
    return [source.read(i) for i in range(len(source))]


def checked(structure: Structure) -> Structure:
    """The structure, or one with its labels in their full shapes.

    Raises InputError as check_geometry, and for a label that is not registered, not finite, or of the wrong shape.
    """
    known = {label.name: label for label in labels()}
    found = {}
    for name, value in structure.labels.items():
        if name not in known:
            raise InputError(f"{structure.where}: has the label {name!r}, expected some of {', '.join(known)}")
        found[name] = known[name].checked(value, len(structure), name, structure.where)
    for name, value in {"weight": structure.weight, **structure.label_weights}.items():
        checked_weight(value, f"the weight of {name}" if name in known else name, structure.where)
    check_geometry(structure)
    is_full = all(np.shape(structure.labels[name]) == value.shape for name, value in found.items())
    return structure if is_full else dataclasses.replace(structure, labels=found)


class Collates(Protocol):
    """What `batches` needs of a model."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def staged(self, source: Source, indices: Sequence[int]) -> Callable[[], Batch]:
        """These frames as one batch, but for its way to the device, which a call goes."""
        ...


def batches(
    model: Collates, source: Source, size: int, indices: Sequence[int] | np.ndarray | None = None
) -> Iterator[Batch]:
    """The frames of `source`, or those of `indices`, in order, as the model's batches of `size`, one at a time."""
    indices = range(len(source)) if indices is None else indices
    starts = range(0, len(indices), size)
    yield from batches_of(model, source, ([int(i) for i in indices[k : k + size]] for k in starts))


def batches_of(model: Collates, source: Source, chunks: Iterable[Sequence[int]]) -> Iterator[Batch]:
    """The frames of each chunk as a batch of the model, made ahead as by `made_ahead`."""
    with made_ahead((model.staged(source, chunk) for chunk in chunks), source, model.device) as staged:
        for batch in staged:
            yield batch()


def made_ahead(
    staged: Generator[T, None, None], source: Source, device: torch.device
) -> contextlib.closing[Generator[T, None, None]]:
    """The items, to be closed: by a thread where frames stay in their files, or a device computes meanwhile."""
    return contextlib.closing(read_ahead(staged) if streams(source) or device.type != "cpu" else staged)


def _kind(part: Any) -> str:
    if isinstance(part, (str, pathlib.Path)):
        return "file"
    return "atoms" if isinstance(part, ase.Atoms) else "structure" if isinstance(part, Structure) else "other"
