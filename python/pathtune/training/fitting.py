"""`fit`: read, check, refit E0, train."""

from __future__ import annotations

import warnings
from typing import Any

from pathtune.atomic_energies import energy_error, refit_e0
from pathtune.conventions import check_conventions
from pathtune.data import Joined, LabelKeys, Source, as_source, check_cutoff, check_elements, elements_of
from pathtune.energy_offsets import settle_energies
from pathtune.errors import InputError
from pathtune.losses import check_outputs
from pathtune.model import Potential
from pathtune.processes import world
from pathtune.training.agreement import check_same
from pathtune.training.folder import RunFolder
from pathtune.training.loop import Loop
from pathtune.training.options import FitConfig, History
from pathtune.training.progress import Progress, shown_progress
from pathtune.training.replay import other_level, replayed


def fit(
    model: Potential,
    train: Any,
    valid: Any,
    config: FitConfig | None = None,
    keys: LabelKeys | None = None,
    folder: RunFolder | None = None,
    progress: Progress | bool = True,
    replay: Any = None,
) -> History:
    """Train `model` in place on what its adaptations train; it ends with the weights of the best validation loss.

    `train` and `valid`: a file, several files, ASE Atoms, Structures, or a Source. `replay`: the same, of what the base
    knows, mixed into the training data as `config` says (training/replay.py); the E0 refits do not see them. With a
    `folder` that holds a checkpoint the run continues there, to the bitwise same result. `progress`: True shows it on a
    terminal and in a notebook, False never. Raises InputError for bad data
    (see read_structures), labels that look like another unit or sign (check_conventions), unless `config.check_units`
    is off, processes that do not agree, an element or a labelled output that the model lacks, or a loss that is not
    finite. Warns where replayed labels look like another level of theory.
    """
    config = config or FitConfig()
    train = as_source(train, keys)
    valid = as_source(valid, keys)
    if replay is not None:
        replay = as_source(replay, keys, needs_labels=config.replay_labels == "own")
    check_same(world(), model, {"training": train, "validation": valid}, config)
    for source in (train, valid, *([] if replay is None else [replay])):
        check_elements(source, model.atomic_numbers)
        check_cutoff(source, model.backbone.r_max)
        check_outputs(model, source, config.weights)
    config.check_config_types(train)
    if not model.trainable():
        raise InputError("fit: the model has nothing to train, expected one from sparsify or unfreeze")
    if config.check_units:
        check_conventions(Potential(model.base, model.head).to(model.device), train)
    refitted, e0_fit, sets, offsets = settle_energies(
        model, {"train": train, "valid": valid}, config.energy_offsets, config.e0, config.refit_e0
    )
    train, valid = sets["train"], sets["valid"]
    model.set_e0(refitted.e0)
    mixed: Source = train
    if replay is not None:
        is_own = config.replay_labels == "own"
        said = other_level(Potential(model.base, model.head).to(model.device), replay) if is_own else None
        if said:
            warnings.warn(f"pathtune: {said}", stacklevel=2)
        mixed = Joined([train, replayed(model, replay, config.replay_weight, config.replay_labels == "base")])
    if isinstance(progress, bool):
        progress = shown_progress(config.epochs) if progress else Progress(config.epochs, quiet=True)
    see(model, mixed)
    history = Loop(model, mixed, valid, config, folder, progress, e0_fit, own=train).run()
    if config.refit_e0_last and config.e0 is None:
        _refit_last(model, train, valid, config, history)
    history.energy_offsets = offsets
    return history


def see(model: Potential, source: Source) -> None:
    """Tell the adaptations which elements they will be trained on: `source` has none that the model lacks."""
    for component in model.adaptation.parts():
        component.sees(model.species_of(elements_of(source)))


def _refit_last(model: Potential, train: Source, valid: Source, config: FitConfig, history: History) -> None:
    """Refit E0 once more, to the loss that was trained, unless that makes the energies of the validation set worse."""
    huber_delta = config.huber_delta if config.loss == "huber" else None
    refitted, last_fit = refit_e0(model, train, huber_delta=huber_delta)
    if energy_error(refitted, valid) <= energy_error(model, valid):
        model.set_e0(refitted.e0)
        history.last_e0_fit = last_fit
