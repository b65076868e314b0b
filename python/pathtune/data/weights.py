"""What frames and labels count in the loss, under mace's keys in info: config_weight and config_NAME_weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ase
import numpy as np

from pathtune.data.labels import outputs
from pathtune.errors import InputError
from pathtune.files import shown

KEY = "config_weight"
LARGEST = 1e9


def weight_keys() -> dict[str, str]:
    """In info: by label, that of its weight."""
    return {label.name: f"config_{label.name}_weight" for label in outputs()}


def weights_in(atoms: ase.Atoms, where: str) -> tuple[float, dict[str, float]]:
    """The weight of a frame, and by label what it is multiplied by; 1 where info says nothing.

    Raises InputError for one that is no number from 0 to LARGEST; it names `where` and the key.
    """
    keys = weight_keys().items()
    own = {name: checked_weight(atoms.info[key], key, where) for name, key in keys if key in atoms.info}
    return checked_weight(atoms.info.get(KEY, 1.0), KEY, where), own


def checked_weight(value: Any, key: str, where: str) -> float:
    """The weight as a number; InputError as weights_in."""
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= LARGEST:
        raise InputError(f"{where}: {key} is {shown(value)}, expected a number from 0 to {LARGEST:g}")
    return float(value)


def by_name(pairs: tuple[str, ...] | None, option: str) -> Mapping[str, float]:
    """Weights written as NAME=WEIGHT; InputError, which names the option, for anything else."""
    found = {}
    for pair in pairs or ():
        name, _, text = pair.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            name = weight = ""
        if not name or name in found:
            raise InputError(f"{option} has {shown(pair)}, expected NAME=WEIGHT such as bulk=0.5, each NAME once")
        found[name] = checked_weight(weight, name, option)
    return found
