"""Sources made of sources: several one after the other, and one whose frames have other labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from pathtune.data.labels import labels
from pathtune.data.neighbours import Graph
from pathtune.data.source import Frames, Source
from pathtune.data.structure import Structure, config_types_of, heads_of


class Joined:
    """Several sources as one, in their order."""

    def __init__(self, parts: Sequence[Source]):
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self._parts]).astype(int)
        self.elements = tuple(sorted({z for part in self._parts for z in part.elements}))
        self.heads = tuple(sorted({head for part in self._parts for head in heads_of(part)}, key=str))
        self.composition = np.zeros((len(self), len(self.elements)))
        self.present: Mapping[str, np.ndarray] = {}
        start = 0
        for part, end in zip(self._parts, self._ends):
            columns = [self.elements.index(z) for z in part.elements]
            self.composition[start:end, columns] = part.composition
            start = end
        for label in labels():
            absent = [np.zeros(len(part), dtype=bool) for part in self._parts]
            found = [part.present.get(label.name, none) for part, none in zip(self._parts, absent)]
            self.present[label.name] = np.concatenate([np.zeros(0, dtype=bool), *found])

    @property
    def config_types(self) -> tuple[str, ...]:
        """Those of the parts."""
        return tuple(sorted({name for part in self._parts for name in config_types_of(part)}))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, i: int) -> Structure:
        """Frame `i` of all."""
        part, k = self._at(i)
        return part.read(k)

    def graph(self, i: int, r_max: float) -> Graph:
        """Its edges within r_max (A)."""
        part, k = self._at(i)
        return part.graph(k, r_max)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of those of the parts and their lengths, in order."""
        text = repr([(len(part), part.fingerprint) for part in self._parts])
        return hashlib.sha256(text.encode()).hexdigest()

    def _at(self, i: int) -> tuple[Source, int]:
        which = int(np.searchsorted(self._ends, i, side="right"))
        return self._parts[which], i - (int(self._ends[which - 1]) if which else 0)


class Relabelled(Frames):
    """The frames of a source with other labels; the neighbours are the source's."""

    def __init__(self, source: Source, structures: Sequence[Structure]):
        """`structures`: those of the source, in its order, with what is to differ."""
        super().__init__(structures, graph_bytes=0)
        self._source = source

    def graph(self, i: int, r_max: float) -> Graph:
        """Edges within r_max (A) of frame `i`."""
        return self._source.graph(i, r_max)
