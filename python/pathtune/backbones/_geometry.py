"""The edges of a batch as a backbone's own forward wants them, and energies, forces and stress from them."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch

from pathtune.data import NO_VOLUME_A3, Batch, Request
from pathtune.layers import Weights
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


FEATURES = "features"  # among a forward's node outputs: what terms of the energy are functions of


class Forward(Protocol):
    """A backbone's own forward."""

    parameters: dict[str, torch.nn.Parameter]  # of the stock model, by name
    by_pair: bool  # whether an edge and its reverse share a row

    def node_outputs(self, parameters: Weights, batch: Batch, edges: Edges) -> dict[str, torch.Tensor]:
        """Under "energy" that of every atom [n_nodes], under FEATURES its final features, and outputs that are not
        derived from the energy."""
        ...


def differentiate(forward: Forward, weights: Weights, batch: Batch, request: Request) -> dict[str, torch.Tensor]:
    """The outputs of `request`, by name, of a Forward with `weights` in place of some parameters.

    Energies are summed [n_graphs]; one gradient, that to the vectors, gives forces [n_nodes, 3] and
    stress [n_graphs, 3, 3]: a stress costs nothing. The forward's other outputs pass through.
    """
    parameters = {**forward.parameters, **weights}
    derived = request.outputs & {"forces", "stress"}
    slope = None
    with torch.enable_grad():
        edges = edges_of(batch, forward.by_pair)
        result = forward.node_outputs(parameters, batch, edges)
        node_energy = result["energy"]
        features = result.pop(FEATURES)
        for term in request.terms:
            node_energy = node_energy + term(features, edges, batch).to(node_energy.dtype)
        result["energy"] = node_energy.new_zeros(batch.n_graphs).index_add(0, batch.node_graph, node_energy)
        if derived:
            energy = result["energy"].sum()
            (slope,) = torch.autograd.grad(energy, edges.vectors, create_graph=request.training, allow_unused=True)
    if not request.training:
        result = {name: value.detach() for name, value in result.items()}
    if slope is None:  # no edges at all
        slope = torch.zeros_like(edges.vectors)
    if "forces" in derived:
        forces = torch.zeros_like(batch.positions)
        result["forces"] = forces.index_add(0, edges.row_sender, slope).index_add(0, edges.row_receiver, -slope)
    if "stress" in derived:
        result["stress"] = _stress(batch, edges, slope)
    return {name: value for name, value in result.items() if name in request.outputs}


def _stress(batch: Batch, edges: Edges, slope: torch.Tensor) -> torch.Tensor:
    """(1/V) dE/d(strain) [n_graphs, 3, 3]; zero where there is no volume."""
    outer = edges.vectors.unsqueeze(2) * slope.unsqueeze(1)
    virial = outer.new_zeros(batch.n_graphs, 3, 3).index_add(0, batch.node_graph[edges.row_sender], outer)
    stress = 0.5 * (virial + virial.mT) / batch.volume.clamp(min=NO_VOLUME_A3)
    return torch.where(batch.volume > NO_VOLUME_A3, stress, torch.zeros_like(stress))
