"""Structures become batches of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from pathtune.data.labels import Label, labels, outputs
from pathtune.data.neighbours import Graph, find_graph
from pathtune.data.packing import Packed, moved
from pathtune.data.structure import Structure
from pathtune.watching import Watch, watch_of

NO_VOLUME_A3 = 1e-6  # below: a molecule
ALWAYS = frozenset({"energy", "forces"})  # asked of a model where nothing else is said


# (final node features [n_nodes, dim], edges, batch) -> energies [n_nodes], eV
EnergyTerm = Callable[[torch.Tensor, Any, "Batch"], torch.Tensor]
# the same -> an output that is not derived from the energy, of the shape of its label
Predictor = Callable[[torch.Tensor, Any, "Batch"], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a backbone."""

    outputs: frozenset[str] = ALWAYS  # names of labels
    training: bool = False  # whether the graph is kept for a loss on them
    terms: tuple[EnergyTerm, ...] = ()  # added to the energies of the atoms
    predictors: Mapping[str, Predictor] = dataclasses.field(default_factory=dict)  # of outputs beside the backbone's


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How an output is compared with its label, where that is not as it stands."""

    scale: float = 1.0  # by what the label is multiplied to be the output
    perpendicular_to: str = ""  # the input label of vectors; only the part perpendicular to them counts

    def error(self, found: torch.Tensor, value: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Output minus label in the label's units; `inputs` by name, in the rows of both."""
        error = found / self.scale - value
        return perpendicular(error, inputs[self.perpendicular_to]) if self.perpendicular_to else error


def perpendicular(vectors: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """The part of vectors [..., 3] perpendicular to others [..., 3]; all of it where the other is zero."""
    square = to.square().sum(-1, keepdim=True)
    along = (vectors * to).sum(-1, keepdim=True) / torch.where(square > 0, square, 1.0)
    return vectors - along * to


class Labelled(NamedTuple):
    """One label of all structures of a batch; zero where it is missing."""

    value: torch.Tensor  # [n_graphs, *shape] or [n_nodes, *shape]; float64 where extensive
    mask: torch.Tensor  # [n_graphs] or [n_nodes] bool: where it is given


class Kept(NamedTuple):
    """What was made of a batch, and the tensors that it was made of, where these may be written to."""

    given: tuple[torch.Tensor, ...]
    watch: Watch  # of `given`
    value: Any


@dataclasses.dataclass
class Batch:
    """Several structures as one graph."""

    species: torch.Tensor  # [n_nodes] int64, index into the model's atomic numbers
    node_graph: torch.Tensor  # [n_nodes] int64
    positions: torch.Tensor  # [n_nodes, 3] A, from the middle of each structure: float32 is coarse far from 0
    cell: torch.Tensor  # [n_graphs, 3, 3] A
    sender: torch.Tensor  # [n_edges] int64
    receiver: torch.Tensor  # [n_edges] int64, ascending
    unit_shifts: torch.Tensor  # [n_edges, 3]
    pair: torch.Tensor  # [n_edges] int64, shared by an edge and its reverse
    n_atoms: torch.Tensor  # [n_graphs], float
    head: torch.Tensor  # [n_graphs] int64, index into the model's heads
    weights: dict[str, torch.Tensor]  # [n_graphs], of the errors in the loss, by label; absent: all are 1
    config_type: tuple[str, ...]  # n_graphs of them
    labels: dict[str, Labelled]
    # what was made of the tensors above and will not be made again while they are the same (`made`)
    kept: dict[Any, Kept] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    host: Batch | None = None  # the same on the CPU, where this one is elsewhere: indices are made there

    def made(self, key: Any, make: Callable[[], Any], given: Sequence[torch.Tensor] = ()) -> Any:
        """What `make` gives, kept under `key` until one of the tensors `given` is another or is written to."""
        found = self.kept.get(key)
        if found is None or found.watch.has_changed(given):
            watch = watch_of(given)
            found = self.kept[key] = Kept(tuple(given), watch, make())
        return found.value

    def made_on_host(self, key: Any, make: Callable[[Batch], Any]) -> Any:
        """What `make` gives of the batch on the host, moved to where this one is; kept under `key` by both."""
        host = self.host
        if host is None:
            return self.made(key, lambda: make(self))
        return self.made(key, lambda: moved(host.made(key, lambda: make(host)), self.species.device))

    @property
    def n_graphs(self) -> int:
        """Number of structures."""
        return self.n_atoms.numel()

    @property
    def n_nodes(self) -> int:
        """Number of atoms of all structures together."""
        return self.species.numel()

    @property
    def volume(self) -> torch.Tensor:
        """Volumes [n_graphs, 1, 1], A^3; zero for a molecule, which has no stress."""
        return torch.linalg.det(self.cell).abs().reshape(-1, 1, 1)

    @property
    def shared_head(self) -> int | None:
        """The head of all structures, None where they differ."""
        head = (self.host or self).head.tolist()
        return None if len(set(head)) > 1 else (head[0] if head else 0)

    @property
    def node_head(self) -> int | torch.Tensor:
        """`shared_head`, or the head of every atom [n_nodes]."""
        shared = self.shared_head
        return self.head[self.node_graph] if shared is None else shared

    @property
    def wanted(self) -> frozenset[str]:
        """The outputs to ask for, of those that this batch has labels of: energy, forces, and what else is given."""
        held = (self.host or self).labels
        return frozenset(
            label.name
            for label in outputs()
            if label.name in held and (label.name in ALWAYS or bool(held[label.name].mask.any()))
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device, from the CPU, with all that is kept with it: one copy."""
        return self.packed(torch.device(device).type == "cuda").to(device)

    def packed(self, pins: bool = False) -> PackedBatch:
        """The batch and all that is kept with it, ready to be moved; `pins` as in Packed."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("host", "kept")}
        kept = {key: (found.given, found.value) for key, found in self.kept.items()}
        return PackedBatch(self, Packed((fields, kept), pins))


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """A batch on the host whose tensors lie in one buffer."""

    host: Batch
    buffer: Packed

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device: one copy, which the host does not wait for where the buffer is page-locked."""
        return self.seen_in(self.buffer.moved_to(device))

    def seen_in(self, moved: torch.Tensor) -> Batch:
        """The batch with its tensors as views of `moved`, a copy of the buffer."""
        fields, kept = self.buffer.seen_in(moved)
        there = {key: Kept(given, watch_of(given), value) for key, (given, value) in kept.items()}
        return Batch(**fields, kept=there, host=self.host)


def collate(
    structures: Sequence[Structure],
    atomic_numbers: Sequence[int],
    r_max: float,
    dtype: torch.dtype,
    graphs: Sequence[Graph] | None = None,
    heads: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> Batch:
    """One batch in the given order; the structures are only read.

    `graphs`: their edges within `r_max`, found here by default; `heads`: the index of each one's head, 0 by
    default; `names`: which labels to take, by default all registered ones. The structures' elements must be
    among `atomic_numbers` (check_elements says it politely).
    """
    index = np.full(120, -1, dtype=np.int64)
    index[list(atomic_numbers)] = np.arange(len(atomic_numbers))
    graphs = [find_graph(s, r_max) for s in structures] if graphs is None else graphs
    n_atoms = np.array([len(s) for s in structures], dtype=np.int64)
    chosen = [label for label in labels() if names is None or label.name in names]
    n_edges = np.array([len(g.pair) for g in graphs], dtype=np.int64)
    first_node = np.repeat(n_atoms.cumsum() - n_atoms, n_edges)
    first_pair = np.repeat((n_edges // 2).cumsum() - n_edges // 2, n_edges)
    species = _joined([s.atomic_numbers for s in structures], (0,))
    return Batch(
        species=torch.as_tensor(index[species.astype(np.int64)]),
        node_graph=torch.repeat_interleave(torch.arange(len(structures)), torch.as_tensor(n_atoms)),
        positions=torch.as_tensor(_centred(structures, n_atoms)).to(dtype),
        cell=torch.as_tensor(_joined([s.cell[None] for s in structures], (0, 3, 3))).to(dtype),
        sender=torch.as_tensor(_joined([g.sender for g in graphs], (0,)) + first_node).to(torch.int64),
        receiver=torch.as_tensor(_joined([g.receiver for g in graphs], (0,)) + first_node).to(torch.int64),
        unit_shifts=torch.as_tensor(_joined([g.unit_shifts for g in graphs], (0, 3))).to(dtype),
        pair=torch.as_tensor(_joined([g.pair for g in graphs], (0,)) + first_pair).to(torch.int64),
        n_atoms=torch.as_tensor(n_atoms).to(dtype),
        head=torch.tensor([0] * len(structures) if heads is None else list(heads), dtype=torch.int64),
        weights=_weights(structures, [label.name for label in chosen if not label.is_input], dtype),
        config_type=tuple(s.config_type for s in structures),
        labels={label.name: _labelled(label, structures, n_atoms, dtype) for label in chosen},
    )


def _weights(structures: Sequence[Structure], names: Sequence[str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """By label, [n_structures] of those that have one other than 1."""
    if all(s.weight == 1.0 and not s.label_weights for s in structures):
        return {}
    found = {name: [s.weight_of(name) for s in structures] for name in names}
    return {name: torch.tensor(w, dtype=dtype) for name, w in found.items() if any(value != 1.0 for value in w)}


def _centred(structures: Sequence[Structure], n_atoms: np.ndarray) -> np.ndarray:
    """Positions [n_nodes, 3] from the mean of each structure."""
    sums = [np.add.reduce(s.positions, axis=0) for s in structures]  # reduceat rounds otherwise
    means = np.reshape(sums, (-1, 3)) / n_atoms[:, None]
    return _joined([s.positions for s in structures], (0, 3)) - np.repeat(means, n_atoms, axis=0)


def _labelled(label: Label, structures: Sequence[Structure], n_atoms: np.ndarray, dtype: torch.dtype) -> Labelled:
    rows = n_atoms if label.per == "atom" else np.ones_like(n_atoms)
    found = [s.labels.get(label.name) for s in structures]
    values = [
        np.zeros((n, *label.shape)) if value is None else value.reshape(n, *label.shape)
        for n, value in zip(rows.tolist(), found)
    ]
    mask = np.repeat(np.array([value is not None for value in found], dtype=bool), rows)
    kind = torch.float64 if label.is_extensive else dtype
    return Labelled(torch.as_tensor(_joined(values, (0, *label.shape))).to(kind), torch.as_tensor(mask))


def _joined(parts: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(shape)
