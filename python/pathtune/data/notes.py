"""What is found in frames without being asked for: labels of a calculator, and what is not used."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import ase
import numpy as np

from pathtune.data.labels import Label, LabelKeys, labels, outputs
from pathtune.data.structure import Structure
from pathtune.data.weights import KEY, weight_keys

CHARGES = {"total_charge": (0,), "charge": (0,), "total_spin": (0, 1), "spin": (0, 1)}  # in info: what means none


def keys_in(frames: Sequence[ase.Atoms], keys: LabelKeys) -> LabelKeys:
    """The keys to read: those given, or the names of results where all are the default ones and no frame has any."""
    is_asked = any(keys.of(label) != label.key for label in labels())
    if is_asked or any(
        label.key in _place(label, a) or label.key in results_of(a) for a in frames for label in outputs()
    ):
        return keys
    found = {label.name: label.name for label in outputs() if _is_result(label, frames)}
    return dataclasses.replace(keys, keys=found) if {"energy", "forces"} & set(found) else keys


def notes_on(
    frames: Sequence[ase.Atoms], structures: Sequence[Structure], asked: LabelKeys, used: LabelKeys
) -> list[str]:
    """Sentences on what was taken from calculators and on what is in the frames but not used."""
    notes = [f"read as {', '.join(asked.units)} and converted to eV and A"] if asked.units else []
    taken = [label.name for label in labels() if used.of(label) != asked.of(label)]
    if taken:
        default = " or ".join(asked.of(label) for label in outputs() if not label.is_optional)
        notes.append(f"using {', '.join(taken)} from the calculator's results, since no frame has {default}")
    if not any("stress" in s.labels for s in structures):
        notes += [_unused(key) for key in sorted({k for a in frames for k in _stress_keys(a)})]
    notes += _weights(frames)
    for key, none in CHARGES.items():
        n = sum(_is_number(a.info.get(key)) and float(a.info[key]) not in none for a in frames)
        if n:
            notes.append(
                f"{n} of {len(frames)} frames have a {key}, which only models with an embedding of it read: "
                "others take them as neutral"
            )
    return notes


def _weights(frames: Sequence[ase.Atoms]) -> list[str]:
    """What the frames say that they count."""
    notes = []
    known = {KEY, *weight_keys().values()}
    for key in dict.fromkeys(key for a in frames for key in a.info if key in known):
        values = [float(a.info[key]) for a in frames if _is_number(a.info.get(key))]
        if values and (min(values) != 1 or max(values) != 1):
            notes.append(
                f"{key} of {len(values)} of {len(frames)} frames, from {min(values):g} to {max(values):g}, "
                "is their weight in the loss"
            )
    return notes


def results_of(atoms: ase.Atoms) -> dict[str, Any]:
    """Results of the calculator of one frame; empty without one."""
    return getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}


def _place(label: Label, atoms: ase.Atoms) -> dict[str, Any]:
    return atoms.info if label.per == "graph" else atoms.arrays


def _is_result(label: Label, frames: Sequence[ase.Atoms]) -> bool:
    having = [a for a in frames if results_of(a).get(label.name) is not None]
    return bool(having) and (not label.needs_volume or all(a.pbc.all() and abs(a.cell.volume) > 1e-6 for a in having))


def _stress_keys(atoms: ase.Atoms) -> list[str]:
    named = {**atoms.info, **results_of(atoms)}
    return [k for k, v in named.items() if _names_stress(str(k)) and v is not None and np.size(v) in (6, 9)]


def _names_stress(key: str) -> bool:
    return any(word in key.lower() for word in ("stress", "virial"))


def _unused(key: str) -> str:
    if "virial" in key.lower():
        return f"{key!r} is not used; --virials-key {key} trains on it (eV, minus stress times volume)"
    return f"{key!r} is not used; --stress-key {key} trains on it (eV/A^3, positive is tensile)"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and bool(np.isfinite(value))
