"""Magnetic moments of least energy, at fixed atoms."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch

from pathtune.data import Batch
from pathtune.errors import InputError
from pathtune.model import Potential

LARGEST_MU_B = 20.0  # beyond: the energy falls without end
MOST_STEPS = 1000


def relaxed_moments(model: Potential, batch: Batch, tolerance: float) -> np.ndarray:
    """Moments [n_nodes, 3], mu_B, from which no component of -dE/dm is above `tolerance`, eV/mu_B.

    The atoms stay, and so do their features: only the terms of the energy are computed again, in float64, by L-BFGS.
    A set of moments on which no force acts, such as zeros, is kept. Raises InputError where the energy has no
    minimum within 20 mu_B, or where it is not reached.
    """
    from scipy.optimize import minimize  # here: it takes a tenth of a second

    _, (features, edges, batch) = model.final_features(batch)
    edges = dataclasses.replace(edges, vectors=edges.vectors.double())
    parts = [c for c in model.adaptation.parts() if c.energy_term() is not None]
    terms = [copy.deepcopy(c, {id(c.base): c.base}).double().energy_term() for c in parts]
    label = batch.labels["magmom"]
    shape = label.value.shape

    def slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        moments = torch.as_tensor(flat.reshape(shape), device=label.value.device).requires_grad_()
        moved = dataclasses.replace(batch, labels={**batch.labels, "magmom": label._replace(value=moments)})
        with torch.enable_grad():
            energies = [term(features.double(), edges, moved).sum() for term in terms if term is not None]
            energy = torch.stack(energies).sum()
        (gradient,) = torch.autograd.grad(energy, moments, allow_unused=True, materialize_grads=True)
        return float(energy.detach()), gradient.cpu().numpy().ravel()

    bounds = [(-LARGEST_MU_B, LARGEST_MU_B)] * label.value.numel()
    start = label.value.double().cpu().numpy().ravel()
    options = {"gtol": tolerance, "ftol": 0.0, "maxiter": MOST_STEPS, "maxfun": 10 * MOST_STEPS}
    found = minimize(slope, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    largest, moment = np.abs(slope(found.x)[1]).max(initial=0.0), np.abs(found.x).max(initial=0.0)
    if moment >= LARGEST_MU_B:
        raise InputError(f"relax_moments: a moment reaches {moment:.3g} mu_B, expected a minimum of the energy below")
    if largest > tolerance:
        raise InputError(
            f"relax_moments: the largest -dE/dm is {largest:.3g} eV/mu_B after {found.nit} steps, "
            f"expected at most moment_tolerance, {tolerance:g}"
        )
    return found.x.reshape(shape)
