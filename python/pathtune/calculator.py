"""ASE calculator of a potential, with or without an adapter."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from pathtune.data import LabelKeys, Structure, check_elements, from_atoms, label_of
from pathtune.errors import InputError
from pathtune.model import Potential
from pathtune.moments import relaxed_moments


class PathtuneCalculator(Calculator):
    """What a Potential predicts, in its labels' units; a stress is for crystals only.

    Assign another adapted Potential to `model` to swap adapters. A model with a spin layer reads the atoms' initial
    magnetic moments, in mu_B, and adds `magforces` [n_atoms, 3], eV/mu_B, and `magmoms`, those that were read, or
    relaxed, to the results.
    """

    implemented_properties: ClassVar = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, model: Potential, relax_moments: bool = False, moment_tolerance: float = 1e-4, **kwargs):
        super().__init__(**kwargs)
        if not moment_tolerance > 0:
            raise InputError(f"moment_tolerance is {moment_tolerance}, expected a number above 0, in eV/mu_B")
        self.relax_moments, self.moment_tolerance = relax_moments, moment_tolerance
        self.model = model

    @property
    def model(self) -> Potential:
        """The potential in use."""
        return self._model

    @model.setter
    def model(self, model: Potential) -> None:
        self._model, self._info = model, []
        self._reads_moments = "magmom" in model.inputs
        if self.relax_moments and not self._reads_moments:
            raise InputError("relax_moments is asked of a model that reads no moments, expected one with a spin layer")
        self.implemented_properties = [*model.outputs, "free_energy", *(["magmoms"] if self._reads_moments else [])]
        self.reset()

    def check_state(self, atoms, tol=1e-15):
        """Called by ASE, which does not look at what the model reads of atoms.info, such as a charge."""
        changes = super().check_state(atoms, tol)
        return changes if self._info_of(atoms) == self._info else [*changes, "info"]

    def _info_of(self, atoms) -> list[str]:
        graph = [label for label in map(label_of, self._model.inputs) if label.per == "graph"]
        return [repr(atoms.info.get(key)) for label in graph for key in (label.key, *label.aliases)]

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        """Called by ASE. Raises InputError for an element that the model lacks, and a charge or spin that it needs."""
        super().calculate(atoms, list(properties), list(system_changes))
        self._info = self._info_of(self.atoms)
        keys = LabelKeys(magmom_key="initial_magmoms") if self._reads_moments else None
        structure = from_atoms(self.atoms, keys, where="atoms", with_outputs=False)  # type: ignore
        check_elements([structure], self._model.atomic_numbers)
        names = [name for name in self._model.outputs if _is_defined(name, structure)]
        if self._reads_moments and "magmom" not in structure.labels:
            raise InputError("atoms: have no initial magnetic moments, expected them, since the spin layer reads them")
        batch = self._model.collate([structure])
        moments = structure.labels.get("magmom")
        if self.relax_moments:
            moments = relaxed_moments(self._model, batch, self.moment_tolerance)
            structure.labels["magmom"] = moments
            batch = self._model.collate([structure])
        prediction = self._model(batch, outputs=names)
        self.results = {name: _result(name, prediction.of(name).detach().double().cpu().numpy()) for name in names}
        self.results["free_energy"] = self.results["energy"]
        if self._reads_moments:
            is_axis = self.atoms.get_initial_magnetic_moments().ndim == 1  # type: ignore
            self.results["magmoms"] = moments[:, 2] if is_axis else moments  # type: ignore


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


def calculator(model: Potential, relax_moments: bool = False, moment_tolerance: float = 1e-4) -> PathtuneCalculator:
    """An ASE calculator of `model`.

    `relax_moments`: the moments of a spin layer are those of least energy, found from the atoms' initial ones until no
    component of -dE/dm is above `moment_tolerance`, eV/mu_B. Raises InputError for a model without a spin layer.
    """
    return PathtuneCalculator(model, relax_moments, moment_tolerance)
