"""Structures become batches of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pathtune.data import Structure, attach_graph

NO_VOLUME_A3 = 1e-6  # below: a molecule


@dataclasses.dataclass
class Batch:
    """Several structures as one graph. A label that a structure lacks is zero with weight zero."""

    species: torch.Tensor  # [n_nodes] int64, index into the model's atomic numbers
    node_graph: torch.Tensor  # [n_nodes] int64
    positions: torch.Tensor  # [n_nodes, 3] A
    cell: torch.Tensor  # [n_graphs, 3, 3] A
    sender: torch.Tensor  # [n_edges] int64
    receiver: torch.Tensor  # [n_edges] int64, ascending
    unit_shifts: torch.Tensor  # [n_edges, 3]
    pair: torch.Tensor  # [n_edges] int64, shared by an edge and its reverse
    n_atoms: torch.Tensor  # [n_graphs], float
    energy_ev: torch.Tensor  # [n_graphs] float64, total energies
    has_energy: torch.Tensor  # [n_graphs] bool
    forces: torch.Tensor  # [n_nodes, 3] eV/A
    has_forces: torch.Tensor  # [n_nodes] bool
    stress: torch.Tensor  # [n_graphs, 3, 3] eV/A^3
    has_stress: torch.Tensor  # [n_graphs] bool
    host: Batch | None = None  # the same on the CPU, where this one is elsewhere: indices are made there
    # what a model made of the indices above when it first saw them, and will not make again
    kept: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def n_graphs(self) -> int:
        """Number of structures."""
        return self.n_atoms.numel()

    @property
    def volume(self) -> torch.Tensor:
        """Volumes [n_graphs, 1, 1], A^3; zero for a molecule, which has no stress."""
        return torch.linalg.det(self.cell).abs().reshape(-1, 1, 1)

    @property
    def n_nodes(self) -> int:
        """Number of atoms of all structures together."""
        return self.species.numel()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device, from the CPU."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("host", "kept")]
        return Batch(**{name: getattr(self, name).to(device) for name in names}, host=self)


def collate(
    structures: Sequence[Structure], atomic_numbers: Sequence[int], r_max: float, dtype: torch.dtype
) -> Batch:
    """One batch in the given order; neighbours are found for structures that have none within this r_max yet.

    The structures' elements must be among `atomic_numbers` (check_elements says it politely).
    """
    index = np.full(120, -1, dtype=np.int64)
    index[list(atomic_numbers)] = np.arange(len(atomic_numbers))
    for s in structures:
        if s.graph is None or s.graph.r_max != r_max:
            attach_graph(s, r_max)
    graphs = [s.graph for s in structures if s.graph is not None]
    n_atoms = np.array([len(s) for s in structures], dtype=np.int64)
    node_offset = np.concatenate([[0], n_atoms.cumsum()])
    pair_offset = np.concatenate([[0], np.cumsum([len(g.pair) // 2 for g in graphs])]).astype(np.int64)

    def joined(parts: list[np.ndarray], shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(np.concatenate(parts) if parts else np.zeros(shape)).to(kind)

    return Batch(
        species=joined([index[s.atomic_numbers] for s in structures], (0,), torch.int64),
        node_graph=torch.repeat_interleave(torch.arange(len(structures)), torch.as_tensor(n_atoms)),
        positions=joined([s.positions for s in structures], (0, 3), dtype),
        cell=joined([s.cell[None] for s in structures], (0, 3, 3), dtype),
        sender=joined([g.sender + o for g, o in zip(graphs, node_offset)], (0,), torch.int64),
        receiver=joined([g.receiver + o for g, o in zip(graphs, node_offset)], (0,), torch.int64),
        unit_shifts=joined([g.unit_shifts for g in graphs], (0, 3), dtype),
        pair=joined([g.pair + o for g, o in zip(graphs, pair_offset)], (0,), torch.int64),
        n_atoms=torch.as_tensor(n_atoms).to(dtype),
        energy_ev=torch.tensor([s.energy_ev or 0.0 for s in structures], dtype=torch.float64),
        has_energy=torch.tensor([s.energy_ev is not None for s in structures], dtype=torch.bool),
        forces=joined([np.zeros((len(s), 3)) if s.forces is None else s.forces for s in structures], (0, 3), dtype),
        has_forces=joined([np.full(len(s), s.forces is not None) for s in structures], (0,), torch.bool),
        stress=joined([np.zeros((1, 3, 3)) if s.stress is None else s.stress[None] for s in structures],
                      (0, 3, 3), dtype),
        has_stress=torch.tensor([s.stress is not None for s in structures], dtype=torch.bool),
    )  # fmt: skip
