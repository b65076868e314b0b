"""`fit`: read, check, refit E0, train."""

from __future__ import annotations

from typing import Any

from pathtune.atomic_energies import refit_e0
from pathtune.conventions import check_conventions
from pathtune.data import LabelKeys, as_source, check_elements
from pathtune.errors import InputError
from pathtune.losses import check_outputs
from pathtune.model import Potential
from pathtune.training.folder import RunFolder
from pathtune.training.loop import Loop
from pathtune.training.options import FitConfig, History
from pathtune.training.progress import Progress


def fit(
    model: Potential,
    train: Any,
    valid: Any,
    config: FitConfig | None = None,
    keys: LabelKeys | None = None,
    folder: RunFolder | None = None,
    progress: Progress | None = None,
) -> History:
    """Train `model` in place on what its adaptations train; it ends with the weights of the best validation loss.

    `train` and `valid`: a file, several files, ASE Atoms, Structures, or a Source. With a `folder` that holds a
    checkpoint the run continues there, to the bitwise same result. Raises InputError for bad data (see
    read_structures), labels that look like another unit or sign (check_conventions), unless `config.check_units` is
    off, an element or a labelled output that the model lacks, or a loss that is not finite.
    """
    config = config or FitConfig()
    train = as_source(train, keys)
    valid = as_source(valid, keys)
    for source in (train, valid):
        check_elements(source, model.atomic_numbers)
        check_outputs(model, source, config.weights)
    if not model.trainable():
        raise InputError("fit: the model has nothing to train, expected one from sparsify or unfreeze")
    if config.check_units:
        check_conventions(Potential(model.base, model.head).to(model.device), train)
    e0_fit = None
    if config.refit_e0:
        refitted, e0_fit = refit_e0(model, train)
        model.set_e0(refitted.e0)
    history = Loop(model, train, valid, config, folder, progress, e0_fit).run()
    if config.refit_e0_last:
        refitted, history.last_e0_fit = refit_e0(model, train)
        model.set_e0(refitted.e0)
    return history
