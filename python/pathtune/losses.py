"""Losses on energies, forces and stresses; labels that a structure lacks do not count."""

from __future__ import annotations

import torch

from pathtune.data import Batch
from pathtune.model import Prediction


def loss(
    prediction: Prediction,
    batch: Batch,
    kind: str = "huber",
    energy_weight: float = 1.0,
    forces_weight: float = 100.0,
    stress_weight: float = 1.0,
    huber_delta: float = 0.01,
) -> torch.Tensor:
    """Weighted sum of the means over labelled energies (per atom, eV), forces (eV/A) and stresses (eV/A^3).

    `kind`: "weighted" squares the errors, "huber" is quadratic up to huber_delta and linear beyond. Weights
    and huber_delta default to those of mace-torch. Energies are compared as interaction energies: the sum
    of E0 is taken off the label in float64, so that float32 keeps its digits (METHOD, section 3, item 9).
    """
    interaction_label = (batch.energy_ev - prediction.e0_energy).to(prediction.interaction_energy.dtype)
    energy_error = (prediction.interaction_energy - interaction_label) / batch.n_atoms
    total = energy_weight * _mean(energy_error, batch.has_energy, kind, huber_delta)
    total = total + forces_weight * _mean(prediction.forces - batch.forces, batch.has_forces, kind, huber_delta)
    if prediction.stress is not None:
        total = total + stress_weight * _mean(prediction.stress - batch.stress, batch.has_stress, kind, huber_delta)
    return total


def _mean(error: torch.Tensor, is_labelled: torch.Tensor, kind: str, huber_delta: float) -> torch.Tensor:
    if kind == "huber":
        magnitude = error.abs()
        cost = torch.where(magnitude <= huber_delta, 0.5 * error**2, huber_delta * (magnitude - 0.5 * huber_delta))
    else:
        cost = error**2
    mask = is_labelled.to(error.dtype).reshape(-1, *[1] * (error.dim() - 1))
    n_labelled = is_labelled.sum() * (error[0].numel() if error.dim() > 1 and len(error) else 1)
    return (cost * mask).sum() / n_labelled.clamp(min=1)
