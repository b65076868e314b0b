"""Errors of a potential on labelled structures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from pathtune.data import Batch, Label, LabelKeys, Structure, as_source, batches, check_elements, in_order, outputs
from pathtune.errors import InputError
from pathtune.model import Potential, Prediction

ABSURD = 1e100  # of a prediction, in any unit: as good as infinite, and its square is
Errors = dict[str, np.ndarray]  # of one structure, by label


def evaluate(
    model: Potential,
    data: Any,
    keys: LabelKeys | None = None,
    batch_size: int = 16,
    max_frames: int | None = None,
) -> dict[str, Any]:
    """Mean absolute and root mean square errors, over all and per element and config_type.

    `data`: a file, several files, ASE Atoms, Structures, or a Source. Energies in meV/atom, forces in meV/A
    (over components), stress in GPa (over the nine components), others as their Label says; an error without a
    label, or of what the model does not predict, is absent. Raises InputError as read_structures does, for an
    element that the model lacks, for a batch_size below 1, and for a prediction that is not finite.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")
    source = as_source(data, keys, max_frames)
    check_elements(source, model.atomic_numbers)
    errors, types = [], []
    by_element: dict[str, list[tuple[int, Errors]]] = defaultdict(list)
    for chunk, batch in zip(in_order(len(source), batch_size), batches(model, source, batch_size)):
        structures = [source.read(i) for i in chunk]
        for structure, error in zip(structures, _errors(model, batch, structures)):
            errors.append(error)
            types.append(structure.config_type)
            for element, part in _by_element(structure, error):
                by_element[element].append(part)
    by_type = defaultdict(list)
    for config_type, error in zip(types, errors):
        by_type[config_type].append(error)
    return {
        "n_structures": len(errors),
        **_summary(errors),
        "per_element": {
            element: {"n_atoms": sum(n for n, _ in parts), **_summary([e for _, e in parts])}
            for element, parts in sorted(by_element.items())
        },
        "per_config_type": {
            name: {"n_structures": len(group), **_summary(group)} for name, group in sorted(by_type.items())
        },
    }


def _errors(model: Potential, batch: Batch, structures: Sequence[Structure]) -> list[Errors]:
    """Per structure the errors that its labels allow, in the labels' units, per atom where extensive."""
    prediction = model(batch, outputs=batch.wanted)
    result: list[Errors] = [{} for _ in structures]
    for label, parts in by_structure(prediction, structures):
        for s, part, error in zip(structures, parts, result):
            if not (np.abs(part) < ABSURD).all():
                phrase = label.phrase.removesuffix(label.name) + f"finite {label.name}"
                raise InputError(
                    f"{s.where}: the model predicts a {label.word} of {_first_bad(part):g}, expected {phrase}"
                )
            if label.name in s.labels:
                difference = _difference(prediction, label.name, part, s)
                error[label.name] = np.asarray(difference / len(s) if label.is_extensive else difference)
    return result


def by_structure(prediction: Prediction, structures: Sequence[Structure]) -> Iterator[tuple[Label, list[np.ndarray]]]:
    """Each label that is predicted, with its value for each of the structures of the batch, float64."""
    ends = np.cumsum([len(s) for s in structures])[:-1]
    for label in outputs():
        if label.name in prediction.outputs:
            found = prediction.of(label.name).detach().double().cpu().numpy()
            yield label, np.split(found, ends) if label.per == "atom" else list(found)


def _difference(prediction: Prediction, name: str, found: np.ndarray, structure: Structure) -> np.ndarray:
    """Output minus label, as the model compares them."""
    if name not in prediction.comparisons:
        return found - structure.labels[name]
    labels = {key: torch.as_tensor(value) for key, value in structure.labels.items()}
    return prediction.comparisons[name].error(torch.as_tensor(found), labels[name], labels).numpy()


def _first_bad(values: np.ndarray) -> float:
    return float(values[~(np.abs(values) < ABSURD)].ravel()[0]) if values.ndim else float(values)


def _by_element(structure: Structure, error: Errors) -> list[tuple[str, tuple[int, Errors]]]:
    """The errors of labels per atom, by element, and of how many atoms they are."""
    atomic = {label.name: error[label.name] for label in outputs() if label.per == "atom" and label.name in error}
    result = []
    for z in np.unique(structure.atomic_numbers) if atomic else ():
        mine = structure.atomic_numbers == z
        result.append((chemical_symbols[z], (int(mine.sum()), {name: e[mine] for name, e in atomic.items()})))
    return result


def _summary(errors: Sequence[Errors]) -> dict[str, float]:
    summary = {}
    for label in outputs():
        parts = [e[label.name].ravel() for e in errors if label.name in e]
        if parts:
            values = np.concatenate(parts) * label.report_factor
            summary[label.mae_key] = float(np.abs(values).mean())
            summary[label.rmse_key] = float(np.sqrt((values**2).mean()))
    return summary


def summed_loss(model: Potential, frames: Iterable[Batch], loss_of) -> tuple[float, int]:
    """Sum over structures of a loss `loss_of(prediction, batch)`, and how many structures there are."""
    total = 0.0
    n = 0
    for batch in frames:
        prediction = model(batch, outputs=batch.wanted)
        with torch.no_grad():
            total += float(loss_of(prediction, batch)) * batch.n_graphs
        n += batch.n_graphs
    return total, n


def mean_loss(model: Potential, frames: Iterable[Batch], loss_of) -> float:
    """Mean over structures of a loss `loss_of(prediction, batch)`."""
    total, n = summed_loss(model, frames, loss_of)
    return total / max(n, 1)
