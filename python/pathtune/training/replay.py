"""Replay: structures of what the base knows, in the loss beside the training data, against forgetting.

Their labels are those of the file, which must be of the base's level of theory, or the base's own predictions. Either
way the training data's level differs by an energy for each element, which the E0 refit takes up. The refit therefore
never sees them, and their energies are moved by what it changed,

    E <- E + sum over atoms of (E0 - E0 of the base),

so that the loss, which compares energies without E0, asks for the interaction energies of the base's level. Structures
of the training data's level are training data, and belong there.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pathtune.atomic_energies import refit_e0
from pathtune.data import Relabelled, Source, batches, in_order, outputs
from pathtune.data.batch import Batch
from pathtune.data.structure import Structure
from pathtune.evaluation import by_structure
from pathtune.model import Potential

SIZE = 16  # structures that are labelled at once
FAR_MEV_ATOM, FAR_RATIO = (
    100.0,
    5.0,
)  # energies off the base's by more, which E0 alone bring nearer by this: another level


def replayed(model: Potential, source: Source, weight: float, by_base: bool) -> Source:
    """The frames as a training of `model` takes them: labels and energies as above, `weight` times their own.

    `by_base`: label them with what the base predicts: every output, and a stress where there is a volume. E0 are
    those that the model has, so that this comes after their refit.
    """
    base = Potential(model.base, model.head).to(model.device)
    structures: list[Structure] = []
    for chunk, batch in zip(in_order(len(source), SIZE), batches(base, source, SIZE)):
        mine = [source.read(i) for i in chunk]
        found = _predictions(base, batch, mine) if by_base else [dict(s.labels) for s in mine]
        shifts = (model.e0_energy(batch) - base.e0_energy(batch)).cpu().numpy()
        for s, labels, shift in zip(mine, found, shifts):
            if "energy" in labels:
                labels["energy"] = labels["energy"] + shift
            structures.append(dataclasses.replace(s, labels=labels, weight=weight * s.weight))
    return Relabelled(source, structures)


def other_level(base: Potential, source: Source) -> str | None:
    """A sentence where the energies of replayed frames look like those of another level of theory than the base's."""
    _, fit = refit_e0(base, source, SIZE)
    before, after = fit.rms_before_mev_atom, fit.rms_after_mev_atom
    if before <= FAR_MEV_ATOM or before <= FAR_RATIO * after:
        return None
    shifts = ", ".join(f"{element} {shift:+.3g} eV" for element, shift in fit.shift_ev.items())
    return (
        f"the energies of the replayed structures are {before:.0f} meV/atom off the base's, and {after:.0f} with other "
        f"E0 ({shifts}): they look like another level of theory, expected the base's (or replay_labels base)"
    )


def _predictions(base: Potential, batch: Batch, structures: list[Structure]) -> list[dict[str, np.ndarray]]:
    """By label, for each structure: its inputs as they are, and what the base says of its outputs."""
    given = {label.name for label in outputs()}
    result = [{name: v for name, v in s.labels.items() if name not in given} for s in structures]
    prediction = base(batch, outputs=[label.name for label in outputs() if label.name in base.backbone.outputs])
    for label, parts in by_structure(prediction, structures):
        for s, labels, part in zip(structures, result, parts):
            if s.has_volume or not label.needs_volume:
                labels[label.name] = np.asarray(part)
    return result
