"""Errors of a potential on labelled structures."""

from __future__ import annotations

import pathlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from ase.units import GPa

from pathtune.data import LabelKeys, Structure, check_elements, read_structures
from pathtune.model import Potential


def evaluate(
    model: Potential,
    data: str | pathlib.Path | Sequence[Structure],
    keys: LabelKeys | None = None,
    batch_size: int = 16,
    max_frames: int | None = None,
) -> dict[str, Any]:
    """Mean absolute and root mean square errors, over all and per element and config_type.

    Energies in meV/atom, forces in meV/A (over components), stress in GPa (over the nine components);
    an error without a label is absent. Raises InputError as read_structures does, and for an element
    that the model lacks.
    """
    structures = read_structures(data, keys, max_frames) if isinstance(data, (str, pathlib.Path)) else list(data)
    check_elements(structures, model.atomic_numbers)
    errors = [e for start in range(0, len(structures), batch_size)
              for e in _errors(model, structures[start : start + batch_size])]  # fmt: skip
    scores: dict[str, Any] = {"n_structures": len(structures), **_summary(errors)}
    scores["per_element"] = _forces_by_element(structures, errors)
    by_type = defaultdict(list)
    for structure, error in zip(structures, errors):
        by_type[structure.config_type].append(error)
    scores["per_config_type"] = {
        name: {"n_structures": len(group), **_summary(group)} for name, group in sorted(by_type.items())
    }
    return scores


def _errors(model: Potential, structures: Sequence[Structure]) -> list[dict[str, np.ndarray]]:
    """Per structure the errors that its labels allow, in eV/atom, eV/A and eV/A^3."""
    needs_stress = any(s.stress is not None for s in structures)
    prediction = model(model.collate(structures), needs_stress=needs_stress)
    energy = prediction.energy.detach().cpu().numpy()
    forces = np.split(prediction.forces.detach().double().cpu().numpy(), np.cumsum([len(s) for s in structures])[:-1])
    stress = None if prediction.stress is None else prediction.stress.detach().double().cpu().numpy()
    result = []
    for i, s in enumerate(structures):
        error = {}
        if s.energy_ev is not None:
            error["energy"] = np.array([(energy[i] - s.energy_ev) / len(s)])
        if s.forces is not None:
            error["forces"] = forces[i] - s.forces
        if s.stress is not None and stress is not None:
            error["stress"] = stress[i] - s.stress
        result.append(error)
    return result


UNITS = {"energy": ("mev_atom", 1000.0), "forces": ("mev_a", 1000.0), "stress": ("gpa", 1 / GPa)}


def _summary(errors: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    summary = {}
    for name, (unit, factor) in UNITS.items():
        parts = [e[name].ravel() for e in errors if name in e]
        if parts:
            values = np.concatenate(parts) * factor
            summary[f"{name}_mae_{unit}"] = float(np.abs(values).mean())
            summary[f"{name}_rmse_{unit}"] = float(np.sqrt((values**2).mean()))
    return summary


def _forces_by_element(structures: Sequence[Structure], errors: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    by_element = defaultdict(list)
    for structure, error in zip(structures, errors):
        if "forces" in error:
            for z in np.unique(structure.atomic_numbers):
                by_element[chemical_symbols[z]].append(error["forces"][structure.atomic_numbers == z])
    return {
        element: {"n_atoms": sum(len(p) for p in parts), **_summary([{"forces": p} for p in parts])}
        for element, parts in sorted(by_element.items())
    }


def mean_loss(model: Potential, structures: Sequence[Structure], loss_of, batch_size: int) -> float:
    """Mean over structures of a loss `loss_of(prediction, batch)`."""
    total = 0.0
    n = 0
    for start in range(0, len(structures), batch_size):
        batch = model.collate(structures[start : start + batch_size])
        prediction = model(batch, needs_stress=bool(batch.has_stress.any()))
        with torch.no_grad():
            total += float(loss_of(prediction, batch)) * batch.n_graphs
        n += batch.n_graphs
    return total / max(n, 1)
