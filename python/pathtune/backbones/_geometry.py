"""The edges of a batch as a backbone's own forward wants them, and energies, forces and stress from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from pathtune.data import NO_VOLUME_A3, Batch, Request, outputs
from pathtune.layers import Weights
from pathtune.ops import (
    ConvGraph,
    Ends,
    SpeciesGroups,
    conv_graph,
    edge_geometry,
    ends_by_node,
    ends_of,
    group_by_species,
    sum_at_nodes,
)


@dataclasses.dataclass(frozen=True)
class EdgeIndex:
    """Which rows and nodes the edges of a batch belong to; made once for a batch."""

    row_sender: torch.Tensor  # [n_rows]
    row_receiver: torch.Tensor  # [n_rows]
    first: torch.Tensor  # [n_rows] the representative edge of each row
    row: torch.Tensor  # [n_edges]
    sign: torch.Tensor  # [n_edges] +1 on representatives, -1 on their reverses
    graph: ConvGraph
    ends: Ends  # of the rows
    by_pair: bool  # whether an edge and its reverse share a row


@dataclasses.dataclass(frozen=True)
class Edges:
    """Geometry and indices of a batch."""

    vectors: torch.Tensor  # [n_rows, 3] A, from sender to receiver, of the representative edge of each row
    index: EdgeIndex

    @property
    def graph(self) -> ConvGraph:
        """Of the convolutions."""
        return self.index.graph

    def index_on_host(self, host: Batch) -> EdgeIndex:
        """The index of a batch on the host that these are the edges of."""
        return edge_index(host, self.index.by_pair)


def edges_of(batch: Batch, by_pair: bool) -> Edges:
    """Edges with a row of their own or, `by_pair`, one for an edge and its reverse."""
    index = edge_index(batch, by_pair)
    return Edges(_row_vectors(batch, index).detach().requires_grad_(), index)


def edge_index(batch: Batch, by_pair: bool) -> EdgeIndex:
    """The index of edges_of; sorted and checked on the host, wherever the batch is, without waiting for a device."""
    return batch.made_on_host(("edges", by_pair), lambda host: _edge_index(host, by_pair))


def _row_vectors(batch: Batch, index: EdgeIndex) -> torch.Tensor:
    """Of the rows [n_rows, 3], made once for the positions, cells and shifts that the batch has."""
    given = (batch.positions, batch.cell, batch.unit_shifts)
    return batch.made(
        ("vectors", index.by_pair),
        lambda: _vectors(batch, index.row_sender, index.row_receiver, batch.unit_shifts[index.first]),
        given,
    )


def _vectors(batch: Batch, sender: torch.Tensor, receiver: torch.Tensor, unit_shifts: torch.Tensor) -> torch.Tensor:
    shift = torch.einsum("ei,eij->ej", unit_shifts, batch.cell[batch.node_graph[sender]])
    return batch.positions[receiver] - batch.positions[sender] + shift


def prepare(forward: Forward, batch: Batch) -> None:
    """Make, on the host, what the forward will read of the batch, so that it goes along where the batch is moved."""
    index = edge_index(batch, forward.by_pair)
    _row_vectors(batch, index)
    one_group(batch)
    n_species = getattr(forward, "n_species", None)
    if n_species is not None:
        species_groups(batch, n_species)
    tables = getattr(forward, "tables", None)
    if tables is not None:
        closest_a(batch)
        if tables.by_species:
            pairs_of_species(batch, index, tables.n_species)


def held(forward: Any) -> list[Any]:
    """What a forward keeps from call to call on a device and might give up: a CUDA graph that reads it must hold it."""
    tables = getattr(forward, "tables", None)
    coefficients = [product.kept() for product in getattr(forward, "products", ())]
    return [*coefficients, *([] if tables is None else [tables.kept()])]


SHORTEST = "shortest edge"


def shortest_edge(batch: Batch, lengths: torch.Tensor) -> float:
    """The least of the lengths [n_rows] of the batch's rows, A. Where the batch is on a device, its copy on the host
    is asked, so that nobody waits."""
    if batch.host is None:
        return float(lengths.detach().min())
    return closest_a(batch)


def closest_a(batch: Batch) -> float:
    """The shortest edge, A, of the batch's copy on the host."""
    return batch.made_on_host(SHORTEST, _shortest)


def _shortest(host: Batch) -> float:
    if not host.sender.numel():
        return math.inf
    return float(_vectors(host, host.sender, host.receiver, host.unit_shifts).norm(dim=1).min())


def _edge_index(batch: Batch, by_pair: bool) -> EdgeIndex:
    n_edges, kind = batch.sender.numel(), batch.positions.dtype
    if by_pair:
        row = batch.pair
        # the first edge of each pair: edges are numbered so that pairs appear in ascending order
        order = torch.argsort(row, stable=True)
        first = order[0::2]
        sign = torch.ones(n_edges, dtype=kind).index_fill(0, order[1::2], -1.0)
    else:
        row = first = torch.arange(n_edges)
        sign = torch.ones(n_edges, dtype=kind)
    graph = conv_graph(batch.sender, batch.receiver, batch.n_nodes, row)
    sender, receiver = batch.sender[first], batch.receiver[first]
    by_node = (graph.receiver_ptr, row, -sign)  # a node receives one of a row's two edges, and sends the other
    if not by_pair:
        by_node = ends_by_node(batch.sender, batch.receiver, batch.n_nodes, kind)
    return EdgeIndex(sender, receiver, first, row, sign, graph, ends_of(sender, receiver, *by_node), by_pair)


def pairs_of_species(batch: Batch, index: EdgeIndex, n_species: int) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """For each row the lower species of its atoms times n_species plus the higher one, and the pairs that occur."""

    def make(host: Batch) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        rows = edge_index(host, index.by_pair)
        both = host.species[rows.row_sender], host.species[rows.row_receiver]
        key = torch.minimum(*both) * n_species + torch.maximum(*both)
        return key, [divmod(k, n_species) for k in torch.unique(key).tolist()]

    return batch.made_on_host(("pairs of species", n_species), make)


def species_groups(batch: Batch, n_species: int) -> SpeciesGroups:
    """Nodes of the batch by species, grouped on the host like the edges."""
    return batch.made_on_host(("species", n_species), lambda host: group_by_species(host.species, n_species))


def one_group(batch: Batch) -> SpeciesGroups:
    """All nodes of the batch as if of one species, in their order."""
    return batch.made_on_host("one group", lambda host: group_by_species(torch.zeros_like(host.species), 1))


def harmonics_factors(module: Any) -> list[float] | None:
    """What turns e3nn's normalisation "norm" into that of an o3.SphericalHarmonics, for each l; None: not covered."""
    ls = [ir.l for _, ir in module.irreps_out]
    if not module.normalize or any(mul != 1 for mul, _ in module.irreps_out) or ls != list(range(min(len(ls), 4))):
        return None
    component = [(2 * l + 1) ** 0.5 for l in ls]
    return {"norm": [1.0] * len(ls), "component": component, "integral": [c / (4 * math.pi) ** 0.5 for c in component]}[
        module.normalization
    ]


class Harmonics:
    """Lengths of the rows and spherical harmonics of the edges, as a model's o3.SphericalHarmonics has them.

    `orientation`: -1 where the model's vectors point from receiver to sender. What edge_geometry does not cover is
    left to the module.
    """

    def __init__(self, module: Any, orientation: int = 1):
        self._module, self._orientation = module, orientation
        factors = harmonics_factors(module)
        self._factors = factors and [c * orientation**l for l, c in enumerate(factors)]
        self._parity = torch.cat([torch.full((2 * ir.l + 1,), float((-1) ** ir.l)) for _, ir in module.irreps_out])

    def __call__(self, edges: Edges) -> tuple[torch.Tensor, torch.Tensor]:
        """Lengths [n_rows] and harmonics [n_edges, dim_y]."""
        if self._factors is not None:
            return edge_geometry(edges.vectors, self._factors, edges.graph, edges.index.sign)
        y = self._module(self._orientation * edges.vectors).index_select(0, edges.index.row)
        # reversing an edge turns the sign of the odd harmonics
        against = edges.index.sign.unsqueeze(1) < 0
        return edges.vectors.norm(dim=1), torch.where(against, self._parity.to(y), 1.0) * y


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
    stress [n_graphs, 3, 3]: a stress costs nothing. The same pass gives what is conjugate to an input. The forward's
    other outputs pass through.
    """
    parameters = {**forward.parameters, **weights}
    derived = request.outputs & {"forces", "stress"}
    conjugate = [label for label in outputs() if label.conjugate_to and label.name in request.outputs]
    slope, gradients = None, []
    with torch.enable_grad():
        batch, leaves = _with_leaves(batch, [label.conjugate_to for label in conjugate])
        edges = edges_of(batch, forward.by_pair)
        result = forward.node_outputs(parameters, batch, edges)
        node_energy = result["energy"]
        features = result.pop(FEATURES)
        for term in request.terms:
            node_energy = node_energy + term(features, edges, batch).to(node_energy.dtype)
        result |= {name: predict(features, edges, batch) for name, predict in request.predictors.items()}
        result["energy"] = node_energy.new_zeros(batch.n_graphs).index_add(0, batch.node_graph, node_energy)
        if derived or leaves:
            wanted = [edges.vectors, *leaves] if derived else leaves
            ones = torch.ones_like(node_energy)  # of the sum of all energies
            found = torch.autograd.grad(node_energy, wanted, ones, create_graph=request.training, allow_unused=True)
            slope, gradients = (found[0], found[1:]) if derived else (None, found)
    if not request.training:
        result = {name: value.detach() for name, value in result.items()}
    if slope is None:  # no edges at all
        slope = torch.zeros_like(edges.vectors)
    if "forces" in derived:
        result["forces"] = sum_at_nodes(slope, edges.index.ends, is_signed=True)
    if "stress" in derived:
        result["stress"] = _stress(batch, edges, slope)
    for label, leaf, gradient in zip(conjugate, leaves, gradients):
        result[label.name] = torch.zeros_like(leaf) if gradient is None else -gradient
    return {name: value for name, value in result.items() if name in request.outputs}


def _with_leaves(batch: Batch, names: Sequence[str]) -> tuple[Batch, list[torch.Tensor]]:
    """The batch with these labels as leaves of the graph, and the leaves; it shares what is kept."""
    if not names:
        return batch, []
    leaves = {name: batch.labels[name].value.detach().requires_grad_() for name in names}
    labels = {**batch.labels, **{name: batch.labels[name]._replace(value=leaf) for name, leaf in leaves.items()}}
    return dataclasses.replace(batch, labels=labels), [leaves[name] for name in names]


def _stress(batch: Batch, edges: Edges, slope: torch.Tensor) -> torch.Tensor:
    """(1/V) dE/d(strain) [n_graphs, 3, 3]; zero where there is no volume."""
    outer = edges.vectors.unsqueeze(2) * slope.unsqueeze(1)
    virial = outer.new_zeros(batch.n_graphs, 3, 3).index_add(0, batch.node_graph[edges.index.row_sender], outer)
    stress = 0.5 * (virial + virial.mT) / batch.volume.clamp(min=NO_VOLUME_A3)
    return torch.where(batch.volume > NO_VOLUME_A3, stress, torch.zeros_like(stress))
