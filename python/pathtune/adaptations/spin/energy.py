"""The energy of moments: Landau terms of each atom, exchange of pairs, and a network of spin densities.

Only |m_i|^2 and m_i . m_j enter, so that time reversal and rotations of the spins alone change nothing. All parts are
zero without moments, to the last bit, and in their gradients too: docs/magnetism.md.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from pathtune.adaptations.spin.graph import SpinGraph, n_pairs, radial, spin_graph
from pathtune.data import Batch

N_POWERS = 3  # |m|^2, |m|^4, |m|^6
N_PRODUCTS = 4  # of a pair: see products
SMALLEST = 0.1  # spread of a feature, of the mean spread of all: what varies less is not blown up further


@dataclasses.dataclass(frozen=True)
class SpinShape:
    """Sizes of a layer."""

    elements: tuple[int, ...]  # atomic numbers, ascending
    cutoff: float  # A
    n_features: int  # invariant ones of the backbone
    n_basis: int
    n_hidden: int
    is_many_body: bool

    @property
    def n_densities(self) -> int:
        """Invariants of the spin densities of one atom: see density_invariants."""
        return 1 + 7 * self.n_basis


def powers(moments: torch.Tensor) -> torch.Tensor:
    """|m|^2, |m|^4 and |m|^6 [n, 3] of moments [n, 3]."""
    square = moments.square().sum(1)
    return torch.stack([square, square**2, square**3], dim=1)


def products(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of pairs of moments [n, 3]: p = m_i . m_j, p^2, p (|m_i|^2 + |m_j|^2), |m_i|^2 |m_j|^2; [n, 4]."""
    p = (first * second).sum(1)
    one, other = first.square().sum(1), second.square().sum(1)
    return torch.stack([p, p**2, p * (one + other), one * other], dim=1)


def density_invariants(
    moments: torch.Tensor, graph: SpinGraph, basis: torch.Tensor, unit: torch.Tensor
) -> torch.Tensor:
    """Invariants [n_spin, 1 + 7 n_basis] of the spin densities rho_l = sum_j phi(r_ij) Y_l(r_ij) m_j, l = 0, 1, 2.

    |m_i|^2; m_i . rho_0; and for each l |rho_l|^2 and |m_i rho_l|^2, where m_i takes the spin's axis and the
    norm is over what is left. `basis`: [n_pairs, n_basis]; `unit`: vectors [n_pairs, 3] from sender to receiver.
    """
    centre, neighbour, row, sign = graph.directed
    n, k = moments.shape[0], basis.shape[1]
    direction = unit[row] * sign.to(unit).unsqueeze(1)
    harmonics = torch.cat([torch.ones_like(direction[:, :1]), direction, second_harmonics(direction)], dim=1)
    terms = torch.einsum("nk,ny,na->nkya", basis[row], harmonics, moments[neighbour])
    density = terms.new_zeros(n, k, harmonics.shape[1], 3).index_add(0, centre, terms)
    along = torch.einsum("nkya,na->nky", density, moments)
    parts = [moments.square().sum(1, keepdim=True), along[:, :, 0]]
    for begin, end in ((0, 1), (1, 4), (4, 9)):
        parts.append(density[:, :, begin:end].square().sum((2, 3)))
        parts.append(along[:, :, begin:end].square().sum(2))
    return torch.cat(parts, dim=1)


def second_harmonics(unit: torch.Tensor) -> torch.Tensor:
    """Harmonics of l = 2 [n, 5] of unit vectors [n, 3]: coordinates of the traceless tensor u u - 1/3, whose norm is
    theirs."""
    x, y, z = unit.unbind(1)
    root = 2**0.5
    return torch.stack(
        [root * x * y, root * y * z, root * z * x, (x * x - y * y) / root, (3 * z * z - 1) / 6**0.5], dim=1
    )


class SpinEnergy(torch.nn.Module):
    """The term of the energy; callable as (features [n_nodes, dim], edges, batch) -> [n_nodes], eV.

    Coefficients are constants by element or pair of elements, plus networks of the final features h whose last layer
    starts at zero. Moments are in units of `moment_unit`, an element's typical length, and coefficients in units of
    `energy_unit`, so that steps of one size suit energies of every spread.
    """

    species: torch.Tensor  # [n_species] index among the shape's elements, or -1
    feature_mean: torch.Tensor  # [n_features]
    feature_scale: torch.Tensor  # [n_features]
    moment_unit: torch.Tensor  # [n_elements] mu_B
    energy_unit: torch.Tensor  # [1] eV, of all coefficients
    site_constants: torch.nn.Parameter  # [n_elements, 3]
    site_in: torch.nn.Parameter  # [n_features, n_hidden]
    site_bias: torch.nn.Parameter  # [n_hidden]
    site_out: torch.nn.Parameter  # [n_hidden, 3]
    pair_constants: torch.nn.Parameter  # [n_pairs, 4, n_basis]
    pair_in: torch.nn.Parameter  # [n_features, n_hidden]
    pair_bias: torch.nn.Parameter  # [n_hidden]
    pair_out: torch.nn.Parameter  # [n_hidden, 4 n_basis]
    density_in: torch.nn.Parameter  # [n_features, n_hidden]; these five of a many-body layer only
    density_bias: torch.nn.Parameter  # [n_hidden]
    density_mix: torch.nn.Parameter  # [n_densities, n_hidden]
    density_out: torch.nn.Parameter  # [n_hidden, 1]
    density_unit: torch.Tensor  # [n_densities]

    def __init__(self, shape: SpinShape, species: torch.Tensor, dtype: torch.dtype):
        """`species` [n_species]: index among the shape's elements, or -1."""
        super().__init__()
        self.shape = shape
        self.register_buffer("species", species, persistent=False)
        self.element_of = tuple(species.tolist())  # `species` on the host, where graphs are made
        n, f, h, k = len(shape.elements), shape.n_features, shape.n_hidden, shape.n_basis
        zeros = {"site_constants": (n, N_POWERS), "pair_constants": (n_pairs(n), N_PRODUCTS, k)}
        drawn = {}
        for name, n_out in (("site", N_POWERS), ("pair", N_PRODUCTS * k)):
            drawn[f"{name}_in"] = (f, h)
            zeros |= {f"{name}_bias": (h,), f"{name}_out": (h, n_out)}
        buffers = {"feature_mean": torch.zeros(f), "feature_scale": torch.ones(f), "moment_unit": torch.ones(n)}
        buffers["energy_unit"] = torch.ones(1)
        if shape.is_many_body:
            drawn |= {"density_in": (f, h), "density_mix": (shape.n_densities, h)}
            zeros |= {"density_bias": (h,), "density_out": (h, 1)}
            buffers["density_unit"] = torch.ones(shape.n_densities)
        for name, size in zeros.items():
            setattr(self, name, torch.nn.Parameter(torch.zeros(size, dtype=dtype)))
        for name, size in drawn.items():
            values = torch.randn(size, dtype=dtype) / math.sqrt(max(size[0], 1))
            setattr(self, name, torch.nn.Parameter(values))
        for name, value in buffers.items():
            self.register_buffer(name, value.to(dtype))

    def forward(self, features: torch.Tensor, edges: Any, batch: Batch) -> torch.Tensor:
        """Energies of the atoms [n_nodes], eV."""
        graph = spin_graph(batch, edges, self.element_of)
        h = self.standardised(features[graph.atoms])
        moments = self.moments(batch, graph)
        vectors = edges.vectors[graph.rows]
        lengths = vectors.norm(dim=1)
        basis = radial(lengths, self.shape.cutoff, self.shape.n_basis)
        energy = self._site(h, moments, graph).index_add(0, graph.receiver, self._pairs(h, moments, basis, graph))
        if self.shape.is_many_body:
            invariants = density_invariants(moments, graph, basis, vectors / lengths.unsqueeze(1))
            energy = energy + self._densities(h, invariants)
        return energy.new_zeros(batch.n_nodes).index_add(0, graph.atoms, self.energy_unit * energy)

    def standardised(self, features: torch.Tensor) -> torch.Tensor:
        """The invariant features, about zero mean and unit spread on the training data."""
        return (features[:, : self.shape.n_features] - self.feature_mean) / self.feature_scale

    def moments(self, batch: Batch, graph: SpinGraph) -> torch.Tensor:
        """Those that count [n_spin, 3], in the elements' units."""
        return batch.labels["magmom"].value[graph.atoms] / self.moment_unit[graph.element].unsqueeze(1)

    def _site(self, h: torch.Tensor, moments: torch.Tensor, graph: SpinGraph) -> torch.Tensor:
        hidden = torch.nn.functional.silu(h @ self.site_in + self.site_bias)
        coefficients = self.site_constants[graph.element] + hidden @ self.site_out
        return (coefficients * powers(moments)).sum(1)

    def _pairs(self, h: torch.Tensor, moments: torch.Tensor, basis: torch.Tensor, graph: SpinGraph) -> torch.Tensor:
        own = h @ self.pair_in
        hidden = torch.nn.functional.silu(own[graph.sender] + own[graph.receiver] + self.pair_bias)
        coefficients = self.pair_constants[graph.pair] + (hidden @ self.pair_out).unflatten(1, (N_PRODUCTS, -1))
        strengths = torch.einsum("nqk,nk->nq", coefficients, basis)
        return graph.share * (strengths * products(moments[graph.sender], moments[graph.receiver])).sum(1)

    def _densities(self, h: torch.Tensor, invariants: torch.Tensor) -> torch.Tensor:
        # g(h, I) - g(h, 0), in such an order that gradients to h cancel to the last bit at I = 0
        silu, own = torch.nn.functional.silu, h @ self.density_in + self.density_bias
        moved = own + (invariants / self.density_unit) @ self.density_mix
        return ((silu(moved) - silu(own)) @ self.density_out).squeeze(1)

    @torch.no_grad()
    def set_units(self, features: torch.Tensor, moments: torch.Tensor, elements: torch.Tensor) -> None:
        """Means and spreads of features [n, dim] and typical lengths of moments [n, 3] of atoms of `elements` [n]."""
        known = features[:, : self.shape.n_features]
        spread = known.std(dim=0, correction=0)
        self.feature_mean.copy_(known.mean(dim=0))
        self.feature_scale.copy_(spread.clamp(min=max(SMALLEST * float(spread.square().mean().sqrt()), 1e-8)))
        for i in range(len(self.shape.elements)):
            mine = moments[elements == i].square().sum(1)
            rms = float(mine.mean().sqrt()) if mine.numel() else 0.0
            self.moment_unit[i] = rms if rms > 0 else 1.0

    @torch.no_grad()
    def density_squares(self, edges: Any, batch: Batch) -> torch.Tensor:
        """Mean squares [n_densities] of the densities' invariants in one batch, float64."""
        graph = spin_graph(batch, edges, self.element_of)
        vectors = edges.vectors[graph.rows]
        lengths = vectors.norm(dim=1)
        basis = radial(lengths, self.shape.cutoff, self.shape.n_basis)
        invariants = density_invariants(self.moments(batch, graph), graph, basis, vectors / lengths.unsqueeze(1))
        return invariants.double().square().mean(dim=0)
