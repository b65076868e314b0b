"""What a model predicts for labelled structures, as a file that ASE reads."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import ase
import ase.io
import numpy as np

from pathtune.data import Source, Structure, in_order
from pathtune.evaluation import by_structure
from pathtune.files import write_text
from pathtune.model import Potential

PREFIX = "pathtune_"  # of the keys of predictions


def write_predictions(
    model: Potential, sets: Mapping[str, Source], file: str | pathlib.Path, batch_size: int = 16
) -> None:
    """An extxyz file of the structures of `sets`, in order, with labels and predictions.

    `info["split"]`: the name of the set; labels under their default keys (REF_energy, REF_forces, REF_stress), what
    is predicted for them under pathtune_energy (eV), pathtune_forces (eV/A) and pathtune_stress (eV/A^3, nine numbers).
    """
    frames = []
    for split, source in sets.items():
        for chunk in in_order(len(source), batch_size):
            frames += _predicted(model, source, chunk, split)
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")  # type: ignore
    write_text(pathlib.Path(file), text.getvalue())


def _predicted(model: Potential, source: Source, chunk: list[int], split: str) -> list[ase.Atoms]:
    batch = model.batch(source, chunk)
    prediction = model(batch, outputs=batch.wanted)
    structures = [source.read(i) for i in chunk]
    frames = [_atoms(s, split) for s in structures]
    for label, parts in by_structure(prediction, structures):
        for s, atoms, part in zip(structures, frames, parts):
            if label.name in s.labels:
                place: dict[str, Any] = atoms.arrays if label.per == "atom" else atoms.info
                for key, value in ((label.key, s.labels[label.name]), (PREFIX + label.name, part)):
                    place[key] = float(value) if np.ndim(value) == 0 else np.asarray(value).reshape(np.shape(part))
    return frames


def _atoms(s: Structure, split: str) -> ase.Atoms:
    atoms = ase.Atoms(numbers=s.atomic_numbers, positions=s.positions, cell=s.cell, pbc=s.pbc)
    atoms.info |= {"split": split, "config_type": s.config_type}
    return atoms
