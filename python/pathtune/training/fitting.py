"""`fit`: read, check, refit E0, train."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from pathtune.atomic_energies import refit_e0
from pathtune.data import LabelKeys, Structure, check_elements, read_structures
from pathtune.errors import InputError
from pathtune.model import Potential
from pathtune.training.folder import RunFolder
from pathtune.training.loop import Loop
from pathtune.training.options import FitConfig, History
from pathtune.training.progress import Progress


def fit(
    model: Potential,
    train: str | pathlib.Path | Sequence[Structure],
    valid: str | pathlib.Path | Sequence[Structure],
    config: FitConfig | None = None,
    keys: LabelKeys | None = None,
    folder: RunFolder | None = None,
    progress: Progress | None = None,
) -> History:
    """Train `model` in place on what its adaptations train; it ends with the weights of the best validation loss.

    With a `folder` that holds a checkpoint the run continues there, to the bitwise same result. Raises
    InputError for bad data (see read_structures), an element the model lacks, or a loss that is not finite.
    """
    config = config or FitConfig()
    train = read_structures(train, keys) if isinstance(train, (str, pathlib.Path)) else list(train)
    valid = read_structures(valid, keys) if isinstance(valid, (str, pathlib.Path)) else list(valid)
    check_elements([*train, *valid], model.atomic_numbers)
    if not model.trainable():
        raise InputError("fit: the model has nothing to train, expected one from sparsify or unfreeze")
    e0_fit = None
    if config.refit_e0:
        refitted, e0_fit = refit_e0(model, train)
        model.set_e0(refitted.e0)
    history = Loop(model, train, valid, config, folder, progress, e0_fit).run()
    if config.refit_e0_last:
        refitted, history.last_e0_fit = refit_e0(model, train)
        model.set_e0(refitted.e0)
    return history
