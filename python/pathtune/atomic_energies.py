"""Refitting E0: the per-element shift between two levels of theory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from ase.data import chemical_symbols

from pathtune.data import ISOLATED_ATOM, Structure, composition, elements_of
from pathtune.errors import InputError
from pathtune.model import Potential

ABSURD_EV_PER_ATOM = 25.0  # a bond is worth a few eV; more than this after the fit is a wrong label


@dataclasses.dataclass(frozen=True)
class E0Fit:
    """What the refit did."""

    shift_ev: dict[str, float]  # by element, new E0 minus old
    rank: int  # of the composition matrix; below n_elements the shift is the one of minimum norm
    n_elements: int
    from_isolated_atoms: tuple[str, ...]
    rms_before_mev_atom: float
    rms_after_mev_atom: float

    def __str__(self) -> str:
        shifts = ", ".join(f"{element} {shift:+.4f}" for element, shift in self.shift_ev.items())
        note = "" if self.rank == self.n_elements else f", rank {self.rank} of {self.n_elements}: minimum norm"
        return (
            f"E0 refit (eV): {shifts}{note}; energy RMS {self.rms_before_mev_atom:.1f} -> "
            f"{self.rms_after_mev_atom:.1f} meV/atom"
        )


def refit_e0(model: Potential, structures: Sequence[Structure], batch_size: int = 16) -> tuple[Potential, E0Fit]:
    """A model whose E0 minimise sum (E_ref - E_model)^2 over the labelled structures, and what was done.

    Frames of config_type IsolatedAtom fix their element's E0. Least squares of minimum norm in the shift
    otherwise (docs/theory.md). Raises InputError for a label more than 25 eV/atom off the fit.
    """
    labelled = [s for s in structures if s.energy_ev is not None]
    if not labelled:
        return model, E0Fit({}, 0, 0, (), 0.0, 0.0)
    elements = elements_of(labelled)
    predicted = predicted_energies(model, labelled, batch_size)
    residual = np.array([s.energy_ev for s in labelled], dtype=np.float64) - predicted
    counts = composition(labelled, elements)
    n_atoms = counts.sum(axis=1)
    shift = np.zeros(len(elements))
    isolated = [i for i, s in enumerate(labelled) if s.config_type == ISOLATED_ATOM and len(s) == 1]
    fixed = {elements.index(int(labelled[i].atomic_numbers[0])): residual[i] for i in isolated}
    for column, value in fixed.items():
        shift[column] = value
    free = [k for k in range(len(elements)) if k not in fixed]
    rank = len(fixed)
    if free:
        rows = counts[:, free].sum(axis=1) > 0
        rest = residual[rows] - counts[rows] @ shift
        solution, _, free_rank, _ = np.linalg.lstsq(counts[rows][:, free], rest, rcond=None)
        shift[free] = solution
        rank += int(free_rank)
    after = (residual - counts @ shift) / n_atoms
    _check_absurd(labelled, after)
    e0 = model.e0.clone()
    for z, value in zip(elements, shift):
        e0[model.atomic_numbers.index(z)] += value
    fit = E0Fit(
        shift_ev={chemical_symbols[z]: float(v) for z, v in zip(elements, shift)},
        rank=rank,
        n_elements=len(elements),
        from_isolated_atoms=tuple(chemical_symbols[elements[k]] for k in fixed),
        rms_before_mev_atom=float(1000 * np.sqrt(np.mean((residual / n_atoms) ** 2))),
        rms_after_mev_atom=float(1000 * np.sqrt(np.mean(after**2))),
    )
    return model.with_e0(e0), fit


def predicted_energies(model: Potential, structures: Sequence[Structure], batch_size: int) -> np.ndarray:
    """Total energies [n_structures], eV, float64."""
    parts = []
    for start in range(0, len(structures), batch_size):
        parts.append(model(model.collate(structures[start : start + batch_size])).energy.detach())
    return torch.cat(parts).cpu().numpy() if parts else np.zeros(0)


def _check_absurd(structures: Sequence[Structure], error_ev_atom: np.ndarray) -> None:
    worst = int(np.abs(error_ev_atom).argmax())
    if np.abs(error_ev_atom[worst]) > ABSURD_EV_PER_ATOM:
        raise InputError(
            f"{structures[worst].where}: the energy is {error_ev_atom[worst]:+.1f} eV/atom off the others' fit, "
            f"expected within {ABSURD_EV_PER_ATOM:g} (units? a broken calculation?)"
        )
