"""The part of the spin energy that is linear in constants: its columns, and one least-squares solve for them.

    E - E_plain = sum_z n_z dE0_z + sum_zk a_zk sum_i |m_i|^(2k) + sum_pb c_pb sum_(ij of p) phi_b(r_ij) m_i . m_j

and T = -dE/dm and the forces -dE/dr likewise, without E0. A head trained by
gradients alone is far from these constants for long.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pathtune.adaptations.spin.energy import N_POWERS, SpinEnergy, powers
from pathtune.adaptations.spin.graph import n_pairs, radial, spin_graph
from pathtune.data import Batch, perpendicular

RIDGE = 1e-5  # of the mean square of a column: what the data do not determine stays small
NO_ENERGIES = 0.001  # eV: the unit of coefficients where no energies say one
LEAST_EXPLAINED = 0.9  # of the energies, that exchange fitted to T must explain for a factor to mean something


@dataclasses.dataclass(frozen=True)
class Consistency:
    """Whether magforces are -dE/dm of the energies beside them."""

    factor: float  # times the magforces of the files gives -dE/dm of the energies of the files
    error: float  # its standard error
    explained: float  # share of the energies' variance, beyond E0 and lengths, that exchange fitted to T explains

    @property
    def is_known(self) -> bool:
        """Whether the moments are most of what the energies say, so that the factor is not that of something else."""
        return self.factor > 0 and self.explained > LEAST_EXPLAINED

    @property
    def is_off(self) -> bool:
        """Whether the factor is another than 1, by a tenth and by three standard errors."""
        return self.is_known and abs(self.factor - 1) > max(0.1, 3 * self.error)


class LinearProblem:
    """Rows of the training frames, gathered one structure at a time; float64 throughout."""

    def __init__(self, energy: SpinEnergy, species: list[int], is_perpendicular: bool):
        """`species`: those of the data, whose E0 are found; `is_perpendicular`: only that part of T is fitted."""
        n = len(energy.shape.elements)
        self.energy = energy
        self.species = species
        self.is_perpendicular = is_perpendicular
        self.n_exchange = n_pairs(n) * energy.shape.n_basis
        self.n_constants = n * N_POWERS + self.n_exchange
        self.rows: list[torch.Tensor] = []  # of energies, per atom: [n_constants + n_species]
        self.residuals: list[float] = []  # eV per atom
        self.torques = Normal(self.n_constants)  # of T, as it is fitted
        self.across = Normal(self.n_constants)  # of its part perpendicular to the moments
        self.pulls = Normal(self.n_constants)  # of forces

    def add(self, edges: Any, batch: Batch, residual: torch.Tensor, pulls: torch.Tensor) -> None:
        """One structure; `residual` [1] and `pulls` [n_nodes, 3]: its energy and forces minus the plain model's."""
        columns, slopes, atoms = linear_columns(self.energy, edges, batch)
        forces = batch.labels.get("forces")
        if forces is not None and bool(forces.mask.any()):
            self.pulls.add(force_columns(self.energy, edges, batch).flatten(1), pulls[atoms].double().cpu().flatten())
        if bool(batch.labels["energy"].mask.any()):
            counts = torch.stack([(batch.species == s).sum() for s in self.species]).double()
            self.rows.append(torch.cat([columns, counts]) / batch.n_nodes)
            self.residuals.append(float(residual) / batch.n_nodes)
        label = batch.labels.get("magforces")
        if label is not None and bool(label.mask.any()):
            value, moments = (batch.labels[k].value[atoms].double().cpu() for k in ("magforces", "magmom"))
            across, sideways = perpendicular(slopes, moments), perpendicular(value, moments)
            self.across.add(across.flatten(1), sideways.flatten())
            is_across = self.is_perpendicular
            self.torques.add((across if is_across else slopes).flatten(1), (sideways if is_across else value).flatten())

    def solve(self, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Constants [n_constants] and shifts of E0 [n_species], eV; `scale` multiplies the magforces of the files.

        Energies, magforces and forces count alike: each set of rows is divided by its spread and its length.
        """
        whole = Normal(self.n_constants + len(self.species))
        if self.rows:
            x, y = self._energies()
            weight = 1 / (len(y) * self._spread(x, y) ** 2)
            whole.gram += weight * x.T @ x
            whole.right += weight * x.T @ y
        if self.torques.n:
            n, weight = self.n_constants, 1 / (scale**2 * max(self.torques.squares, 1e-12))
            whole.gram[:n, :n] += weight * self.torques.gram
            whole.right[:n] += weight * scale * self.torques.right
        if self.pulls.n:
            n, weight = self.n_constants, 1 / max(self.pulls.squares, 1e-12)
            whole.gram[:n, :n] += weight * self.pulls.gram
            whole.right[:n] += weight * self.pulls.right
        found = whole.solve()
        return found[: self.n_constants], found[self.n_constants :]

    def energy_unit(self) -> float:
        """eV: if each constant changed by so much, energies would by about their spread."""
        if not self.rows:
            return NO_ENERGIES
        x, y = self._energies()
        reach = float(x[:, : self.n_constants].abs().sum(1).mean())
        return self._spread(x, y) / reach if reach > 0 else NO_ENERGIES

    def consistency(self) -> Consistency | None:
        """By what the exchange constants that fit T must be multiplied to fit the energies; None without both."""
        if not self.torques.n or len(self.rows) < 3:
            return None
        x, y = self._energies()
        first = self.n_constants - self.n_exchange
        exchange = self.across.solve(slice(first, self.n_constants))
        rest = torch.cat([x[:, :first], x[:, self.n_constants :]], dim=1)
        shape = x[:, first : self.n_constants] @ exchange
        # what neither lengths nor E0 explain
        shape, y = shape - _projected(shape, rest), y - _projected(y, rest)
        n_free = max(len(y) - rest.shape[1] - 1, 1)
        norm = float(shape @ shape)
        if norm <= 1e-24:
            return None
        factor = float(shape @ y) / norm
        left = float((y - factor * shape).square().sum())
        return Consistency(factor, (left / n_free / norm) ** 0.5, 1 - left / max(float(y @ y), 1e-300))

    def _energies(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack(self.rows), torch.tensor(self.residuals, dtype=torch.float64)

    def _spread(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Of the energies per atom that E0 does not explain."""
        rest = y - _projected(y, x[:, self.n_constants :])
        return max(float(rest.square().mean().sqrt()), 1e-9)


class Normal:
    """A least-squares problem as its normal equations."""

    def __init__(self, n: int):
        self.gram = torch.zeros(n, n, dtype=torch.float64)
        self.right = torch.zeros(n, dtype=torch.float64)
        self.squares = 0.0  # of the right-hand sides
        self.n = 0

    def add(self, columns: torch.Tensor, values: torch.Tensor) -> None:
        """More rows: columns [n, n_rows] and what they are to give [n_rows]."""
        self.gram += columns @ columns.T
        self.right += columns @ values
        self.squares += float(values.square().sum())
        self.n += values.numel()

    def solve(self, part: slice = slice(None)) -> torch.Tensor:
        """The solution, of some unknowns alone, with columns scaled alike and a ridge where they determine nothing."""
        gram, right = self.gram[part, part], self.right[part]
        scale = gram.diagonal().sqrt()
        inverse = torch.where(scale > 0, 1 / scale.clamp(min=1e-300), 0.0)
        scaled = gram * inverse.unsqueeze(0) * inverse.unsqueeze(1)
        scaled = scaled + RIDGE * torch.eye(len(right), dtype=torch.float64)
        return inverse * torch.linalg.solve(scaled, inverse * right)


def linear_columns(energy: SpinEnergy, edges: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Energies of the constants [n_constants] and their T [n_constants, n_spin, 3], float64; and the atoms [n_spin].

    The constants are those of the layer, Landau's first: in its units of moments, T in eV/mu_B.
    """
    graph = spin_graph(batch, edges, energy.element_of)
    n, k = len(energy.shape.elements), energy.shape.n_basis
    moments = energy.moments(batch, graph).double()
    basis = graph.share * radial(edges.vectors[graph.rows].norm(dim=1).double(), energy.shape.cutoff, k)
    one, other = moments[graph.sender], moments[graph.receiver]
    n_spin = len(graph.atoms)
    landau = moments.new_zeros(n, N_POWERS).index_add(0, graph.element, powers(moments))
    square = moments.square().sum(1, keepdim=True)
    falls = torch.stack([-2 * (p + 1) * square**p * moments for p in range(N_POWERS)])  # [3, n_spin, 3]
    of_element = torch.nn.functional.one_hot(graph.element, n).to(moments)
    landau_slopes = torch.einsum("pia,iz->zpia", falls, of_element)
    exchange = moments.new_zeros(n_pairs(n), k)
    exchange = exchange.index_add(0, graph.pair, basis * (one * other).sum(1, keepdim=True))
    slopes = moments.new_zeros(n_pairs(n) * n_spin, k, 3)
    for mine, neighbour in ((graph.sender, other), (graph.receiver, one)):
        slopes = slopes.index_add(0, graph.pair * n_spin + mine, -basis.unsqueeze(2) * neighbour.unsqueeze(1))
    slopes = slopes.reshape(n_pairs(n), n_spin, k, 3).transpose(1, 2)
    columns = torch.cat([landau.flatten(), exchange.flatten()])
    both = torch.cat([landau_slopes.reshape(n * N_POWERS, n_spin, 3), slopes.reshape(n_pairs(n) * k, n_spin, 3)])
    unit = energy.moment_unit[graph.element].double()
    return columns.cpu(), (both / unit.reshape(1, -1, 1)).cpu(), graph.atoms


def force_columns(energy: SpinEnergy, edges: Any, batch: Batch) -> torch.Tensor:
    """Forces of the constants [n_constants, n_spin, 3], eV/A, float64; Landau's have none."""
    graph = spin_graph(batch, edges, energy.element_of)
    n, k, n_spin = n_pairs(len(energy.shape.elements)), energy.shape.n_basis, len(graph.atoms)
    moments = energy.moments(batch, graph).double()
    vectors = edges.vectors[graph.rows].double()
    lengths = vectors.norm(dim=1)
    found = torch.func.jvp(lambda r: radial(r, energy.shape.cutoff, k), (lengths,), (torch.ones_like(lengths),))
    slope = found[1]
    strength = (moments[graph.sender] * moments[graph.receiver]).sum(1) / lengths
    pull = (graph.share * strength.unsqueeze(1) * slope).unsqueeze(2) * vectors.unsqueeze(1)  # [n_pairs, k, 3]
    forces = pull.new_zeros(n * n_spin, k, 3)
    forces = forces.index_add(0, graph.pair * n_spin + graph.sender, pull)
    forces = forces.index_add(0, graph.pair * n_spin + graph.receiver, -pull)
    exchange = forces.reshape(n, n_spin, k, 3).transpose(1, 2).reshape(n * k, n_spin, 3)
    return torch.cat([exchange.new_zeros(len(energy.shape.elements) * N_POWERS, n_spin, 3), exchange]).cpu()


def _projected(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """What columns [n, k] explain of values [n]."""
    return columns @ torch.linalg.lstsq(columns, values.unsqueeze(1), driver="gelsd").solution.squeeze(1)
