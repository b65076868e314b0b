"""Config_types whose energies are on a scale of their own: a constant for each atom, found by least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pathtune.atomic_energies import E0Fit, residuals_of, settle_e0
from pathtune.data import Source
from pathtune.data.source import Shifted
from pathtune.errors import InputError
from pathtune.files import shown_names
from pathtune.model import Potential

JUDGED = ("train", "valid", "test")  # sets whose energies are shifted


def find_offsets(model: Potential, train: Source, names: Sequence[str]) -> dict[str, float]:
    """What the energies of frames of these config_types have too much, eV/atom, beside those of all other frames.

    The o_t and shifts of E0 that minimise sum_i (E_i - E_model,i - sum_z N_iz shift_z - N_i o_type(i))^2 over the
    labelled frames, of a sample of a large set, isolated atoms left out. Raises InputError where a config_type has no
    frame with an energy, no frame is of another, or the compositions do not tell an offset from E0.
    """
    indices, residual, is_isolated = residuals_of(model, train)
    indices, residual = indices[~is_isolated], residual[~is_isolated]
    types = np.array([train.read(int(i)).config_type for i in indices], dtype=object)
    present = sorted(set(types.tolist()))
    for name in names:
        if name not in present:
            raise InputError(
                f"energy_offsets names {name!r}, which no training structure with an energy has, expected some of "
                f"{shown_names(present)}"
            )
    if set(present) <= set(names):
        raise InputError(
            f"energy_offsets names every config_type of the training data ({shown_names(present)}), expected to leave "
            "one, on whose scale the energies are"
        )
    counts = train.composition[indices].astype(np.float64)
    own = np.stack([(types == name) * counts.sum(axis=1) for name in names], axis=1)
    both = np.concatenate([counts, own], axis=1)
    if np.linalg.matrix_rank(both) < np.linalg.matrix_rank(counts) + len(names):
        raise InputError(
            f"energy_offsets names {shown_names(names)}, whose compositions do not tell an offset from E0, expected "
            "config_types that share elements with the others"
        )
    found = np.linalg.lstsq(both, residual, rcond=None)[0][counts.shape[1] :]
    return {name: float(value) for name, value in zip(names, found)}


def with_offsets(
    model: Potential, sets: Mapping[str, Source], names: Sequence[str]
) -> tuple[dict[str, Source], dict[str, float]]:
    """The sets, those of JUDGED without the offsets that `train` shows, and the offsets, eV/atom; as find_offsets."""
    if not names:
        return dict(sets), {}
    offsets = find_offsets(model, sets["train"], names)
    shifted = {name: Shifted(source, offsets) if name in JUDGED else source for name, source in sets.items()}
    return shifted, offsets


def settle_energies(
    model: Potential, sets: Mapping[str, Source], names: Sequence[str], e0: tuple[str, ...] | None, refit: bool
) -> tuple[Potential, E0Fit | None, dict[str, Source], dict[str, float]]:
    """`with_offsets` of the config_types `names`, then `settle_e0`: model, what was done to E0, sets, offsets."""
    settled, offsets = with_offsets(model, sets, names)
    model, fit, settled["train"] = settle_e0(model, settled["train"], e0, refit)
    return model, fit, settled, offsets


def said(offsets: Mapping[str, float]) -> str:
    """A line for a user; empty where there are none."""
    values = ", ".join(f"{name} {1000 * value:+.1f}" for name, value in offsets.items())
    return f"energy offsets taken from the labels (meV/atom): {values}" if values else ""
