"""E0, the energy of each element: refitted to the data, given as values, or read from frames of isolated atoms."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.data import atomic_numbers as numbers_of_symbols
from ase.data import chemical_symbols

from pathtune.data import (
    ISOLATED_ATOM,
    LabelKeys,
    Source,
    as_source,
    batches_of,
    check_elements,
    in_order,
    isolated_frames,
    subset,
)
from pathtune.data.sample import SEED, sampled
from pathtune.errors import InputError
from pathtune.files import shown
from pathtune.model import Potential
from pathtune.processes import world

ABSURD_EV_PER_ATOM = 25.0  # a bond is worth a few eV; more than this after the fit is a wrong label
N_REWEIGHTINGS, TOLERANCE_EV = 100, 1e-8
LEAST_SQUARES, GIVEN, ISOLATED = "least squares", "given", "isolated"  # where E0 came from


@dataclasses.dataclass(frozen=True)
class E0Fit:
    """What was done to E0."""

    shift_ev: dict[str, float]  # by element, new E0 minus old
    rank: int  # of the composition matrix; below n_elements the shift is the one of minimum norm
    n_elements: int
    from_isolated_atoms: tuple[str, ...]
    rms_before_mev_atom: float
    rms_after_mev_atom: float
    n_used: int = 0  # structures
    n_labelled: int = 0
    origin: str = LEAST_SQUARES
    e0_ev: dict[str, float] = dataclasses.field(default_factory=dict)  # by element, the new E0
    n_left_out: int = 0  # frames of isolated atoms that are not trained on
    rms_refit_mev_atom: float = 0.0  # what least squares would leave, where E0 are not from them

    def __str__(self) -> str:
        rms = f"energy RMS {self.rms_before_mev_atom:.1f} -> {self.rms_after_mev_atom:.1f} meV/atom"
        if self.origin != LEAST_SQUARES:
            values = ", ".join(f"{element} {value:.4f}" for element, value in self.e0_ev.items())
            frames = f", {self.n_left_out} frames left out of the training" if self.n_left_out else ""
            return (
                f"E0 {'as given' if self.origin == GIVEN else 'of isolated atoms'} (eV): {values}{frames}; {rms}, "
                f"where least squares would leave {self.rms_refit_mev_atom:.1f}"
            )
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
        return f"E0 refit (eV): {shifts}{note}; {rms}"


def e0_asked(words: tuple[str, ...] | None) -> Mapping[str, float] | str | None:
    """What the option e0 asks: values in eV by element, "isolated", or None. InputError for anything else."""
    if words is None or tuple(words) == (ISOLATED,):
        return ISOLATED if words else None
    found = {}
    for word in words:
        element, _, text = word.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if numbers_of_symbols.get(element, 0) == 0 or element in found or not math.isfinite(value):
            raise InputError(
                f"e0 has {shown(word)}, expected {ISOLATED}, or ELEMENT=ENERGY in eV such as H=-13.6, each element once"
            )
        found[element] = value
    if not found:
        raise InputError(f"e0 is empty, expected {ISOLATED}, or ELEMENT=ENERGY in eV such as H=-13.6")
    return found


def settle_e0(
    model: Potential, train: Source, e0: tuple[str, ...] | None = None, refit: bool = True
) -> tuple[Potential, E0Fit | None, Source]:
    """The model with the E0 that a training is to begin with, what was done, and the structures to train on.

    `e0`: as the option of that name. Without one, E0 are refitted by `refit_e0`, or kept where `refit` is off. Values
    become the E0 of the model: what it adds for each atom, whatever it predicts for a lone one beyond that. With
    "isolated" they are the energies of the frames of config_type IsolatedAtom, which are left out of what is returned;
    both are the conventions of mace_run_train. Raises InputError where an element of the data has no value, a value's
    element is not in the data, frames of isolated atoms are not one atom with an energy, or differ for one element,
    and where a label is more than 25 eV/atom off the prediction with these E0.
    """
    asked, rest = e0_asked(e0), train
    if asked is None:
        return (*refit_e0(model, train), train) if refit else (model, None, train)
    check_elements(train, model.atomic_numbers)
    is_isolated = isinstance(asked, str)
    if is_isolated:
        alone = isolated_frames(train)
        asked, others = _energies_of_atoms(model, train, alone), np.setdiff1d(np.arange(len(train)), alone)
        if not len(others):
            raise InputError("e0 is isolated, but all training structures are isolated atoms, expected others too")
        rest = subset(train, others.tolist())
    _check_covered(asked, rest, is_isolated)
    new = model.e0.clone()
    for element, value in asked.items():
        new[_row(model, element)] = value
    fit = _difference(model, asked, rest)
    if is_isolated:
        fit = dataclasses.replace(
            fit, origin=ISOLATED, from_isolated_atoms=tuple(asked), n_left_out=len(train) - len(rest)
        )
    return model.with_e0(new), fit, rest


def _energies_of_atoms(model: Potential, source: Source, alone: list[int]) -> dict[str, float]:
    """By element, the energies of the frames of isolated atoms, those of the head that the model was loaded for."""
    found: dict[str, float] = {}
    for i in alone:
        s = source.read(i)
        if len(s) != 1:
            raise InputError(f"{s.where}: is of config_type {ISOLATED_ATOM} but has {len(s)} atoms, expected one")
        if s.energy_ev is None:
            raise InputError(f"{s.where}: is of config_type {ISOLATED_ATOM} but has no energy, expected one")
        if len(model.backbone.heads) > 1 and model.head_index(s.head, s.where) != model.head:
            continue
        element = chemical_symbols[int(s.atomic_numbers[0])]
        if abs(found.setdefault(element, s.energy_ev) - s.energy_ev) > TOLERANCE_EV:
            raise InputError(
                f"{s.where}: is an isolated {element} of {s.energy_ev:g} eV, another frame's has {found[element]:g}, "
                f"expected one energy for {element}"
            )
    return found


def _check_covered(e0: Mapping[str, float], trained: Source, is_isolated: bool) -> None:
    symbols = [chemical_symbols[z] for z in trained.elements]
    missing = [symbol for symbol in symbols if symbol not in e0]
    if missing:
        has = f"frames of config_type {ISOLATED_ATOM} are there for" if is_isolated else "e0 names"
        raise InputError(
            f"{has} {' '.join(e0) or 'no element'}, but not {' '.join(missing)}, "
            f"expected each element of the training data ({' '.join(symbols)})"
        )
    unknown = [symbol for symbol in e0 if symbol not in symbols]
    if unknown and not is_isolated:
        raise InputError(
            f"e0 names {' '.join(unknown)}, which no training structure has, expected only {' '.join(symbols)}"
        )


def _difference(old: Potential, e0: Mapping[str, float], source: Source) -> E0Fit:
    """What other E0 make of the errors of the energies."""
    shift = {symbol: value - float(old.e0[_row(old, symbol)]) for symbol, value in e0.items()}
    n_elements = len(source.elements)
    fit = E0Fit(shift, n_elements, n_elements, (), 0.0, 0.0, origin=GIVEN, e0_ev=dict(e0))
    labelled, before, _ = residuals_of(old, source)
    if not len(labelled):
        return fit
    counts = source.composition[labelled].astype(np.float64)
    n_atoms = counts.sum(axis=1)
    after = before - counts @ [shift[chemical_symbols[z]] for z in source.elements]
    refitted = before - counts @ np.linalg.lstsq(counts, before, rcond=None)[0]
    before, after, refitted = (error / n_atoms for error in (before, after, refitted))
    worst = int(np.abs(after).argmax())
    if not abs(after[worst]) <= ABSURD_EV_PER_ATOM:
        raise InputError(
            f"{source.read(int(labelled[worst])).where}: with the E0 that are asked the energy is {after[worst]:+.1f} "
            f"eV/atom off the model's, expected within {ABSURD_EV_PER_ATOM:g} (E0 in eV? of the labels' level?)"
        )
    rms = [float(1000 * np.sqrt(np.mean(error**2))) for error in (before, after, refitted)]
    return dataclasses.replace(
        fit,
        rms_before_mev_atom=rms[0],
        rms_after_mev_atom=rms[1],
        rms_refit_mev_atom=rms[2],
        n_used=len(labelled),
        n_labelled=int(np.count_nonzero(source.present["energy"])),
    )


def _row(model: Potential, symbol: str) -> int:
    return model.atomic_numbers.index(numbers_of_symbols[symbol])


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
        e0_ev={chemical_symbols[z]: float(e0[model.atomic_numbers.index(z)]) for z in elements},
    )
    return model.with_e0(e0), fit


def energy_error(model: Potential, source: Source, batch_size: int = 16) -> float:
    """Mean absolute error of the energies, eV/atom, of a sample of a large set; 0 where no frame has one."""
    labelled, residual, _ = residuals_of(model, source, batch_size)
    if not len(labelled):
        return 0.0
    return float(np.mean(np.abs(residual) / source.composition[labelled].sum(axis=1)))


def residuals_of(model: Potential, source: Source, batch_size: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label minus predicted energy, eV, of the frames that the E0 refit uses: their indices, it, and which are atoms.

    Each is [n]; indices ascend, and `is_isolated` says which frames are of config_type IsolatedAtom.
    """
    labelled = _own_energies(model, source)
    if not len(labelled):
        return labelled, np.zeros(0), np.zeros(0, dtype=bool)
    return (labelled, *_residuals(model, source, labelled.tolist(), batch_size))


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
