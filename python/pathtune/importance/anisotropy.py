"""How far the surroundings of atoms are from isotropic, degree by degree.

    q_l(i)^2 = sum_jk w_j w_k P_l(cos angle between r_ij and r_ik) / (sum_j w_j)^2
    w = (1 + cos(pi r / r_max)) / 2

over the neighbours j, k of atom i within the model's cutoff r_max; P_l is Legendre's polynomial. It is the bond order
parameter of Steinhardt, Nelson and Ronchetti (Phys. Rev. B 28, 784, 1983) with a smooth weight: between 0 and 1, 1 for
a single neighbour. q_1 is 0 at a centre of inversion, q_2 is 0 in a cubic surrounding: there features of l = 2 have
little to see.
"""

from __future__ import annotations

import numpy as np

from pathtune.data import Source

LARGEST = 3  # degree


def local_order(source: Source, r_max: float, largest: int = LARGEST) -> np.ndarray:
    """q_l [n_atoms, largest] for l = 1 to `largest`, of all atoms of the source with a neighbour within r_max (A)."""
    parts = []
    for i in range(len(source)):
        structure, graph = source.read(i), source.graph(i, r_max)
        if not len(graph.sender):
            continue
        shifts = np.asarray(graph.unit_shifts, dtype=np.float64) @ structure.cell
        vectors = structure.positions[graph.receiver] - structure.positions[graph.sender] + shifts
        parts.append(order_of(vectors, np.asarray(graph.receiver), r_max, largest))
    return np.concatenate(parts) if parts else np.zeros((0, largest))


def order_of(vectors: np.ndarray, receiver: np.ndarray, r_max: float, largest: int = LARGEST) -> np.ndarray:
    """q_l [n, largest] of the atoms that receive these edges (vectors [n_edges, 3], A), in ascending order."""
    lengths = np.linalg.norm(vectors, axis=1)
    weight = 0.5 * (1 + np.cos(np.pi * np.clip(lengths / r_max, 0, 1)))
    units = vectors / lengths[:, None]
    atoms, row = np.unique(receiver, return_inverse=True)
    powers, moment = [], weight[:, None]  # the k-th: sum over edges of w times the k-fold product of the unit vector
    for _ in range(largest + 1):
        total = np.zeros((len(atoms), moment.shape[1]))
        np.add.at(total, row, moment)
        powers.append((total**2).sum(axis=1))  # = sum_jk w_j w_k cos^k
        moment = (moment[:, :, None] * units[:, None, :]).reshape(len(units), -1)
    norm = np.where(powers[0] > 0, powers[0], 1.0)
    result = []
    for degree in range(1, largest + 1):
        coefficients = np.polynomial.legendre.leg2poly([0.0] * degree + [1.0])
        square = sum(c * power for c, power in zip(coefficients, powers)) / norm
        result.append(np.sqrt(np.clip(square, 0.0, 1.0)))
    return np.stack(result, axis=1)
