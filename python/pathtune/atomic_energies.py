"""Refitting E0: the per-element shift between two levels of theory."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from pathtune.data import ISOLATED_ATOM, LabelKeys, Source, as_source, batches_of, check_elements, in_order
from pathtune.data.sample import SEED, sampled
from pathtune.errors import InputError
from pathtune.model import Potential
from pathtune.processes import world

ABSURD_EV_PER_ATOM = 25.0  # a bond is worth a few eV; more than this after the fit is a wrong label
N_REWEIGHTINGS, TOLERANCE_EV = 100, 1e-8


@dataclasses.dataclass(frozen=True)
class E0Fit:
    """What the refit did."""

    shift_ev: dict[str, float]  # by element, new E0 minus old
    rank: int  # of the composition matrix; below n_elements the shift is the one of minimum norm
    n_elements: int
    from_isolated_atoms: tuple[str, ...]
    rms_before_mev_atom: float
    rms_after_mev_atom: float
    n_used: int = 0  # structures
    n_labelled: int = 0

    def __str__(self) -> str:
        shifts = ", ".join(f"{element} {shift:+.4f}" for element, shift in self.shift_ev.items())
        note = ""
        if self.rank < self.n_elements:
            note = (
                f", rank {self.rank} of {self.n_elements}: these compositions do not tell the elements apart, so that "
                "the shift is divided among them (minimum norm), and energies of other compositions are off by an "
                "unknown constant"
            )
        if self.n_used < self.n_labelled:
            note += (
                f"; from a sample (seed {SEED}) of {self.n_used:,d} of the {self.n_labelled:,d} structures, "
                "with every element"
            )
        return (
            f"E0 refit (eV): {shifts}{note}; energy RMS {self.rms_before_mev_atom:.1f} -> "
            f"{self.rms_after_mev_atom:.1f} meV/atom"
        )


def refit_e0(
    model: Potential,
    data: Any,
    batch_size: int = 16,
    keys: LabelKeys | None = None,
    huber_delta: float | None = None,
) -> tuple[Potential, E0Fit]:
    """A model whose E0 minimise sum (E_ref - E_model)^2 over the labelled structures, and what was done.

    `data`: a file, several files, ASE Atoms, Structures, or a Source. Frames of config_type IsolatedAtom fix their
    element's E0. Least squares of minimum norm in the shift otherwise (docs/theory.md). With `huber_delta` (eV/atom)
    the sum is that of Huber's function of the error per atom, which a minority of frames on another energy scale
    does not pull away from the rest. Raises InputError for an element that the model lacks and for a label more than
    25 eV/atom off the fit. Only frames of the head that the model was loaded for count. Of a set of more than 20,000 a
    seeded sample is taken, in which every element occurs; its energies are computed by all processes together.
    """
    source = as_source(data, keys)
    labelled = _own_energies(model, source)
    if not len(labelled):
        return model, E0Fit({}, 0, 0, (), 0.0, 0.0)
    check_elements(source, model.atomic_numbers)
    counts = source.composition[labelled].astype(np.float64)
    occurring = np.flatnonzero(counts.any(axis=0))
    elements = [source.elements[k] for k in occurring]
    counts = np.ascontiguousarray(counts[:, occurring])
    residual, is_isolated = _residuals(model, source, labelled.tolist(), batch_size)
    for i in np.flatnonzero(~np.isfinite(residual)):
        where = source.read(int(labelled[i])).where
        raise InputError(f"{where}: the model predicts an energy that is not finite, expected a finite one")
    n_atoms = counts.sum(axis=1)
    shift = np.zeros(len(elements))
    fixed = {int(counts[i].argmax()): residual[i] for i in np.flatnonzero(is_isolated & (n_atoms == 1))}
    for column, value in fixed.items():
        shift[column] = value
    free = [k for k in range(len(elements)) if k not in fixed]
    rank = len(fixed)
    if free:
        rows = counts[:, free].sum(axis=1) > 0
        rest = residual[rows] - counts[rows] @ shift
        shift[free], free_rank = _solve(counts[rows][:, free], rest, n_atoms[rows], huber_delta)
        rank += free_rank
    after = (residual - counts @ shift) / n_atoms
    _check_absurd(source, labelled, after)
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
        n_used=len(labelled),
        n_labelled=int(np.count_nonzero(source.present["energy"])),
    )
    return model.with_e0(e0), fit


def energy_error(model: Potential, source: Source, batch_size: int = 16) -> float:
    """Mean absolute error of the energies, eV/atom, of a sample of a large set; 0 where no frame has one."""
    labelled = _own_energies(model, source)
    if not len(labelled):
        return 0.0
    residual, _ = _residuals(model, source, labelled.tolist(), batch_size)
    return float(np.mean(np.abs(residual) / source.composition[labelled].sum(axis=1)))


def _own_energies(model: Potential, source: Source) -> np.ndarray:
    """Which frames, of a sample of a large set, have an energy of the head that the model was loaded for."""
    labelled = sampled(source, "energy")
    if len(model.backbone.heads) == 1:
        return labelled
    frames = [source.read(int(i)) for i in labelled]
    return labelled[[model.head_index(s.head, s.where) == model.head for s in frames]]


def _solve(
    counts: np.ndarray, residual: np.ndarray, n_atoms: np.ndarray, huber_delta: float | None
) -> tuple[np.ndarray, int]:
    """Shifts [n_elements], eV, of minimum norm, and the rank: least squares, or Huber's by reweighting (convex)."""
    shift, _, rank, _ = np.linalg.lstsq(counts, residual, rcond=None)
    if huber_delta is None:
        return shift, int(rank)
    rows, target = counts / n_atoms[:, None], residual / n_atoms
    for _ in range(N_REWEIGHTINGS):
        weight = np.sqrt(huber_delta / np.maximum(np.abs(target - rows @ shift), huber_delta))
        previous, shift = shift, np.linalg.lstsq(rows * weight[:, None], target * weight, rcond=None)[0]
        if np.abs(shift - previous).max() < TOLERANCE_EV:
            break
    return shift, int(rank)


def _residuals(model: Potential, source: Source, indices: list[int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Label minus total energy [n], eV, float64, and which frames are isolated atoms [n] bool; all processes share."""
    here = world()
    chunks = in_order(len(indices), size)

    def mine() -> list[tuple[np.ndarray, list[bool]]]:
        found = []
        own = [[indices[k] for k in chunk] for chunk in chunks[here.rank :: here.size]]
        for batch in batches_of(model, source, own):
            label = batch.labels["energy"].value
            rest = (label - model(batch, outputs=("energy",)).energy.detach()).cpu().numpy()
            found.append((rest, [t == ISOLATED_ATOM for t in batch.config_type]))
        return found

    by_rank = here.gather(mine)
    parts = [by_rank[k % here.size][k // here.size] for k in range(len(chunks))]
    return np.concatenate([rest for rest, _ in parts]), np.array([t for _, types in parts for t in types])


def _check_absurd(source: Source, labelled: np.ndarray, error_ev_atom: np.ndarray) -> None:
    worst = int(np.abs(error_ev_atom).argmax())
    if np.abs(error_ev_atom[worst]) > ABSURD_EV_PER_ATOM:
        raise InputError(
            f"{source.read(int(labelled[worst])).where}: the energy is {error_ev_atom[worst]:+.1f} eV/atom off the "
            f"others' fit, expected within {ABSURD_EV_PER_ATOM:g} (units? a broken calculation?)"
        )
