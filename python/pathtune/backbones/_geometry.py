"""The edges of a batch as a backbone's own forward wants them, and energies, forces and stress from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from pathtune.data import NO_VOLUME_A3, Batch
from pathtune.ops import ConvGraph, SpeciesGroups, conv_graph, group_by_species


@dataclasses.dataclass
class Edges:
    """Geometry and indices of a batch."""

    vectors: torch.Tensor  # [n_rows, 3] A, from sender to receiver, of the representative edge of each row
    row_sender: torch.Tensor  # [n_rows]
    row_receiver: torch.Tensor  # [n_rows]
    row: torch.Tensor  # [n_edges]
    sign: torch.Tensor  # [n_edges] +1 on representatives, -1 on their reverses
    graph: ConvGraph


def edges_of(batch: Batch, by_pair: bool) -> Edges:
    """Edges with a row of their own or, `by_pair`, one for an edge and its reverse."""
    # On the host, wherever the batch is: indices are sorted and checked there without waiting for a device.
    host, device = batch.host or batch, batch.positions.device
    n_edges = host.sender.numel()
    if by_pair:
        row = host.pair
        # the first edge of each pair: edges are numbered so that pairs appear in ascending order
        order = torch.argsort(row, stable=True)
        first = order[0::2]
        sign = torch.ones(n_edges, dtype=batch.positions.dtype).index_fill(0, order[1::2], -1.0)
    else:
        row = first = torch.arange(n_edges)
        sign = torch.ones(n_edges, dtype=batch.positions.dtype)
    graph = conv_graph(host.sender, host.receiver, host.n_nodes, row)
    if device.type != "cpu":
        graph, row, first, sign = graph.to(device), row.to(device), first.to(device), sign.to(device)
    sender, receiver = batch.sender[first], batch.receiver[first]
    shift = torch.einsum("ei,eij->ej", batch.unit_shifts[first], batch.cell[batch.node_graph[sender]])
    vectors = (batch.positions[receiver] - batch.positions[sender] + shift).detach().requires_grad_()
    return Edges(vectors, sender, receiver, row, sign, graph)


def species_groups(batch: Batch, n_species: int) -> SpeciesGroups:
    """Nodes of the batch by species, grouped on the host like the edges."""
    groups = group_by_species((batch.host or batch).species, n_species)
    device = batch.species.device
    return groups if device.type == "cpu" else groups.to(device)


def harmonics_parity(irreps) -> torch.Tensor:  # [dim_y]
    """Reversing an edge turns the sign of the odd spherical harmonics."""
    return torch.cat([torch.full((2 * ir.l + 1,), float((-1) ** ir.l)) for _, ir in irreps])


def on_edges(y: torch.Tensor, edges: Edges, parity: torch.Tensor) -> torch.Tensor:  # [n_edges, dim_y]
    """Spherical harmonics of every edge from those of the rows."""
    parity = parity.to(y)
    signs = torch.where(edges.sign.unsqueeze(1) > 0, torch.ones_like(parity), parity)
    return y.index_select(0, edges.row) * signs


def differentiate(
    node_energies: Callable[[Edges], torch.Tensor], batch: Batch, by_pair: bool, needs_stress: bool, training: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Energies [n_graphs], forces [n_nodes, 3] and stress [n_graphs, 3, 3] of a function of the edges' vectors.

    Forces and stress are sums of one gradient, that to the vectors: a stress costs nothing.
    """
    with torch.enable_grad():
        edges = edges_of(batch, by_pair)
        node_energy = node_energies(edges)
        energy = node_energy.new_zeros(batch.n_graphs).index_add(0, batch.node_graph, node_energy)
        (slope,) = torch.autograd.grad(energy.sum(), edges.vectors, create_graph=training, allow_unused=True)
    if slope is None:  # no edges at all
        slope = torch.zeros_like(edges.vectors)
    forces = torch.zeros_like(batch.positions)
    forces = forces.index_add(0, edges.row_sender, slope).index_add(0, edges.row_receiver, -slope)
    stress = _stress(batch, edges, slope) if needs_stress else None
    return energy if training else energy.detach(), forces, stress


def _stress(batch: Batch, edges: Edges, slope: torch.Tensor) -> torch.Tensor:
    """(1/V) dE/d(strain) [n_graphs, 3, 3]; zero where there is no volume."""
    outer = edges.vectors.unsqueeze(2) * slope.unsqueeze(1)
    virial = outer.new_zeros(batch.n_graphs, 3, 3).index_add(0, batch.node_graph[edges.row_sender], outer)
    stress = 0.5 * (virial + virial.mT) / batch.volume.clamp(min=NO_VOLUME_A3)
    return torch.where(batch.volume > NO_VOLUME_A3, stress, torch.zeros_like(stress))
