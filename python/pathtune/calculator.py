"""ASE calculator of a potential, with or without an adapter."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from pathtune.data import Structure, check_elements, from_atoms, label_of
from pathtune.model import Potential


class PathtuneCalculator(Calculator):
    """What a Potential predicts, in its labels' units; a stress is for crystals only.

    Assign another adapted Potential to `model` to swap adapters.
    """

    implemented_properties: ClassVar = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, model: Potential, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    @property
    def model(self) -> Potential:
        """The potential in use."""
        return self._model

    @model.setter
    def model(self, model: Potential) -> None:
        self._model = model
        self.implemented_properties = [*model.backbone.outputs, "free_energy"]
        self.reset()

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        """Called by ASE. Raises InputError for an element that the model lacks."""
        super().calculate(atoms, list(properties), list(system_changes))
        structure = from_atoms(self.atoms, where="atoms", with_outputs=False)  # type: ignore
        check_elements([structure], self._model.atomic_numbers)
        names = [name for name in self._model.backbone.outputs if _is_defined(name, structure)]
        prediction = self._model(self._model.collate([structure]), outputs=names)
        self.results = {name: _result(name, prediction.of(name).detach().double().cpu().numpy()) for name in names}
        self.results["free_energy"] = self.results["energy"]


def _is_defined(name: str, structure: Structure) -> bool:
    return structure.has_volume or not label_of(name).needs_volume


def _result(name: str, value: np.ndarray) -> float | np.ndarray:
    """An output of one structure as ASE has it: a number per graph without shape, a symmetric tensor in Voigt order."""
    label = label_of(name)
    if label.per == "atom":
        return value
    if label.is_voigt:
        return full_3x3_to_voigt_6_stress(value[0])
    return value[0] if label.shape else float(value[0])


def calculator(model: Potential) -> PathtuneCalculator:
    """An ASE calculator of `model`."""
    return PathtuneCalculator(model)
