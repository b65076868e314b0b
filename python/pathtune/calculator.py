"""ASE calculator of a potential, with or without an adapter."""

from __future__ import annotations

from typing import ClassVar

from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from pathtune.data import check_elements, from_atoms
from pathtune.model import Potential


class PathtuneCalculator(Calculator):
    """Energy (eV), forces (eV/A) and, for crystals, stress (eV/A^3) of a Potential.

    Assign another adapted Potential to `model` to swap adapters.
    """

    implemented_properties: ClassVar = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, model: Potential, **kwargs):
        super().__init__(**kwargs)
        self._model = model

    @property
    def model(self) -> Potential:
        """The potential in use."""
        return self._model

    @model.setter
    def model(self, model: Potential) -> None:
        self._model = model
        self.reset()

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        """Called by ASE. Raises InputError for an element that the model lacks."""
        super().calculate(atoms, list(properties), list(system_changes))
        structure = from_atoms(self.atoms, where="atoms")  # type: ignore
        check_elements([structure], self._model.atomic_numbers)
        prediction = self._model(self._model.collate([structure]), needs_stress=structure.has_volume)
        self.results = {
            "energy": float(prediction.energy.detach()),
            "free_energy": float(prediction.energy.detach()),
            "forces": prediction.forces.detach().double().cpu().numpy(),
        }
        if prediction.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].detach().double().cpu().numpy())


def calculator(model: Potential) -> PathtuneCalculator:
    """An ASE calculator of `model`."""
    return PathtuneCalculator(model)
