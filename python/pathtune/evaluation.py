"""Errors of a potential on labelled structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from pathtune.data import Batch, Label, LabelKeys, Source, Structure, as_source, batches_of, check_elements, outputs
from pathtune.errors import InputError
from pathtune.model import Potential, Prediction
from pathtune.printed import Printed, Table, table_of
from pathtune.processes import world

KINDS = ("MAE", "RMSE")
ABSURD = 1e100  # of a prediction, in any unit: as good as infinite, and its square is
Errors = dict[str, np.ndarray]  # of one structure, by label


def evaluate(
    model: Potential,
    data: Any,
    keys: LabelKeys | None = None,
    batch_size: int = 16,
    max_frames: int | None = None,
) -> Scores:
    """Mean absolute and root mean square errors, over all and per element and config_type; they print as a table.

    `data`: a file, several files, ASE Atoms, Structures, or a Source. Energies in meV/atom, forces in meV/A
    (over components), stress in GPa (over the nine components), others as their Label says; an error without a
    label, or of what the model does not predict, is absent. Raises InputError as read_structures does, for an
    element that the model lacks, for a batch_size below 1, and for a prediction that is not finite. Several processes
    share the structures.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}, expected at least 1")
    source = as_source(data, keys, max_frames)
    check_elements(source, model.atomic_numbers)
    here = world()

    def mine() -> Groups:
        found = Groups()
        chunks = [c for k, c in enumerate(_chunks(len(source), batch_size)) if k % here.size == here.rank]
        for chunk, batch in zip(chunks, batches_of(model, source, chunks)):
            structures = [source.read(i) for i in chunk]
            for structure, error in zip(structures, _errors(model, batch, structures)):
                found.add(structure, error)
        return found

    total, *others = here.gather(mine)
    for other in others:
        total.merge(other)
    return total.scores()


def _chunks(n: int, size: int) -> Iterator[range]:
    return (range(k, min(k + size, n)) for k in range(0, n, size))


class Scores(Printed, dict):
    """Errors by key, as `evaluate` gives them; prints as a table of all structures, elements and config_types."""

    def table(self) -> Table:
        """A row for each group, MAE and RMSE of each label."""
        found = [label for label in outputs() if label.mae_key in self]
        header = ["", "number", *(f"{label.word} {kind}, {label.report_unit}" for label in found for kind in KINDS)]
        groups = [("all", self["n_structures"], self)]
        groups += [(z, s["n_atoms"], s) for z, s in self["per_element"].items()]
        types = self["per_config_type"] if len(self["per_config_type"]) > 1 else {}
        groups += [(name, s["n_structures"], s) for name, s in types.items()]
        keys = [key for label in found for key in (label.mae_key, label.rmse_key)]
        rows = [[name, f"{n:,d}", *(f"{s[k]:.3f}" if k in s else "" for k in keys)] for name, n, s in groups]
        return table_of(header, rows, "number: structures, of an element atoms")


class Groups:
    """Sums of errors over all structures, by element and by config_type: those of several processes add up."""

    def __init__(self):
        self.n: dict[tuple[str, str], int] = {}  # structures, or atoms of an element
        self.sums: dict[tuple[str, str, str], np.ndarray] = {}  # by group and label: numbers, |error|, error^2

    def add(self, structure: Structure, errors: Errors) -> None:
        """One structure's."""
        self._add("all", "", 1, errors)
        self._add("config_type", structure.config_type, 1, errors)
        for element, (n_atoms, part) in _by_element(structure, errors):
            self._add("element", element, n_atoms, part)

    def merge(self, other: Groups) -> None:
        """Those of another process."""
        for key, n in other.n.items():
            self.n[key] = self.n.get(key, 0) + n
        for key, sums in other.sums.items():
            self.sums[key] = self.sums.get(key, 0.0) + sums

    def scores(self) -> Scores:
        """As `evaluate` gives them."""
        elements = sorted(name for kind, name in self.n if kind == "element")
        types = sorted(name for kind, name in self.n if kind == "config_type")
        found = {
            "n_structures": self.n.get(("all", ""), 0),
            **self._summary("all", ""),
            "per_element": {z: {"n_atoms": self.n["element", z], **self._summary("element", z)} for z in elements},
            "per_config_type": {
                t: {"n_structures": self.n["config_type", t], **self._summary("config_type", t)} for t in types
            },
        }
        return Scores(found)

    def _add(self, kind: str, group: str, n: int, errors: Errors) -> None:
        self.n[kind, group] = self.n.get((kind, group), 0) + n
        for name, error in errors.items():
            sums = np.array([error.size, np.abs(error).sum(), (error**2).sum()])
            key = (kind, group, name)
            self.sums[key] = self.sums[key] + sums if key in self.sums else sums

    def _summary(self, kind: str, group: str) -> dict[str, float]:
        summary = {}
        for label in outputs():
            n, absolute, square = self.sums.get((kind, group, label.name), (0, 0.0, 0.0))
            if n:
                summary[label.mae_key] = float(absolute / n * label.report_factor)
                summary[label.rmse_key] = float(np.sqrt(square / n) * label.report_factor)
        return summary


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


def summed_loss(model: Potential, source: Source, size: int, loss_of) -> tuple[float, int]:
    """Sum over structures of a loss `loss_of(prediction, batch)` in batches of `size`, and their number.

    The processes share the batches; the sum is in the order of the batches, whatever their number.
    """
    here = world()
    chunks = list(_chunks(len(source), size))

    def mine() -> list[float]:
        found = []
        for batch in batches_of(model, source, chunks[here.rank :: here.size]):
            prediction = model(batch, outputs=batch.wanted)
            with torch.no_grad():
                found.append(float(loss_of(prediction, batch)) * batch.n_graphs)
        return found

    by_rank = here.gather(mine)
    total = 0.0
    for k in range(len(chunks)):
        total += by_rank[k % here.size][k // here.size]
    return total, len(source)


def mean_loss(model: Potential, source: Source, size: int, loss_of) -> float:
    """Mean over structures of a loss `loss_of(prediction, batch)`, in batches of `size`."""
    total, n = summed_loss(model, source, size, loss_of)
    return total / max(n, 1)


def losses(model: Potential, source: Source, loss_of) -> list[float]:
    """The loss of each structure; the processes share them."""
    here = world()

    def mine() -> list[float]:
        own = ([i] for i in range(here.rank, len(source), here.size))
        return [float(loss_of(model(b, outputs=b.wanted), b).detach()) for b in batches_of(model, source, own)]

    by_rank = here.gather(mine)
    return [by_rank[i % here.size][i // here.size] for i in range(len(source))]
