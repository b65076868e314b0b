"""How to train, and what a training leaves to be read."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from pathtune.adaptations import Adaptation
from pathtune.adaptations.averaging import averaging
from pathtune.atomic_energies import E0Fit, e0_asked
from pathtune.data import Batch, Source, conjugates, label_of, weight_options
from pathtune.data.structure import config_types_of
from pathtune.data.weights import by_name
from pathtune.errors import InputError
from pathtune.files import shown, shown_names
from pathtune.losses import Term, loss_terms, spreads, total
from pathtune.model import Potential, Prediction
from pathtune.options import check_fields, check_positive, option, option_group, take_tables, with_groups
from pathtune.printed import Printed, Table, table_of

ROWS = 20  # of a printed History


class LossScale(NamedTuple):
    """What makes the errors of labels of different units one number."""

    spreads: Mapping[str, float]  # by label: what its errors are divided by; absent: 1
    weights: Mapping[str, float]  # by label


@with_groups
@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How to train."""

    epochs: int = option(100, "passes over the training data")
    batch_size: int = option(8, "structures in a step")
    batch_atoms: int | None = option(
        None,
        "fill steps to so many atoms in place of batch_size; auto: to 1024 atoms, but to 8 to 64 structures",
        words=("auto",),
    )
    lr: float | None = option(
        None,
        "learning rate (by default it follows the run: 8e-4 sqrt(steps) for full and readout, "
        "1.2e-3 sqrt(steps) for kron, 4e-3 sqrt(steps) for lora and modulation, "
        "1.2e-3 sqrt(steps / active_share) for a sparse delta; 0.01 from a paper start; of a nequix model half)",
    )
    beta1: float | None = option(
        None, "schedule-free training: weight of the average where gradients are taken (by default it follows the run)"
    )
    loss: str = option("huber", "shape of the loss", choices=("huber", "weighted"))
    weights: Mapping[str, float] = option_group("_weight", weight_options)  # energy_weight, and so on
    config_type_weights: tuple[str, ...] | None = option(
        None,
        "weights in the loss of the frames of a config_type, such as bulk=0.5 surface=2; of all others 1",
        is_table=True,
    )
    huber_delta: float = option(
        0.01, "where the huber loss turns linear, in eV/atom, eV/A and eV/A^3, or in spreads with loss_scale spread"
    )
    loss_scale: str = option(
        "auto",
        "spread: divide each label's errors by its spread in the training data, and count weights from their defaults; "
        "auto: where magforces are trained on",
        choices=("auto", "none", "spread"),
    )
    replay_weight: float = option(1.0, "replay: weight of its structures in the loss")
    replay_labels: str = option(
        "base", "replay: label its structures with what the base predicts, or keep their own", choices=("base", "own")
    )
    clip: float = option(10.0, "largest norm of the gradient")
    patience: int = option(0, "stop after so many epochs without a better validation loss; 0: never")
    e0: tuple[str, ...] | None = option(
        None,
        "energy of each element in eV, such as H=-13.6 O=-432.1, or isolated: that of the frames of config_type "
        "IsolatedAtom, which are then not trained on; by default the two refits below",
        is_table=True,
    )
    energy_offsets: tuple[str, ...] = option(
        (),
        "config_types whose energies are on a scale of their own: a constant for each atom is found beside E0 and "
        "taken from their labels",
    )
    refit_e0: bool = option(True, "refit the energy of each element to the training data first")
    refit_e0_last: bool = option(True, "and once more at the end, which takes out what the energies drifted by")
    capture: bool = option(
        False,
        "on a CUDA device: record the steps as CUDA graphs, with batches padded to few shapes, and replay them "
        "(never run on a GPU by us; nothing on a CPU)",
    )
    checkpoint_minutes: float = option(5.0, "longest time between checkpoints, which also end every epoch")
    seed: int = option(0, "of the order of structures and the initial delta")
    check_units: bool = option(
        True, "compare labels with the model's predictions first, and stop where they look like another unit or sign"
    )
    keep_worse: bool = option(False, "keep the best epoch, and status 0, even where it is worse than the base")

    def __post_init__(self):
        take_tables(self)
        check_fields(self)
        check_positive(self, "epochs", "batch_size", "huber_delta", "clip", "checkpoint_minutes")
        for name in ("seed", "patience", "replay_weight", *(f"{label}_weight" for label in self.weights)):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 0")
        if self.batch_atoms is not None and not isinstance(self.batch_atoms, str):
            check_positive(self, "batch_atoms")
        _ = self.type_weights, e0_asked(self.e0)  # InputError for what is none
        if self.lr is not None:
            check_positive(self, "lr")
        if self.beta1 is not None and not 0 <= self.beta1 < 1:
            raise InputError(f"beta1 is {self.beta1}, expected a number in [0, 1)")

    def after_e0(self) -> FitConfig:
        """The same training of a model whose E0 have been set, on labels that have been checked."""
        is_last = self.refit_e0_last and self.e0 is None
        return dataclasses.replace(
            self, e0=None, refit_e0=False, refit_e0_last=is_last, check_units=False, energy_offsets=()
        )

    def scale_of(self, model: Potential, train: Source) -> LossScale:
        """By what the errors of each label are divided, and what each then counts."""
        is_conjugate = any(bool(np.any(train.present.get(label.name, False))) for label in conjugates(model.inputs))
        if self.loss_scale == "none" or (self.loss_scale == "auto" and not is_conjugate):
            return LossScale({}, self.weights)
        relative = {name: w / (label_of(name).weight or 1.0) for name, w in self.weights.items()}
        return LossScale(spreads(train), relative)

    @functools.cached_property
    def type_weights(self) -> Mapping[str, float]:
        """Of config_type_weights, by config_type; InputError as by_name."""
        return by_name(self.config_type_weights, "config_type_weights")

    def check_config_types(self, train: Source) -> None:
        """Raise InputError where a config_type is given a weight that no training structure has."""
        present = config_types_of(train) if self.type_weights else ()
        for name in self.type_weights:
            if present and name not in present:
                raise InputError(
                    f"config_type_weights names {shown(name)}, which no training structure has, expected some of "
                    f"{shown_names(present)}"
                )

    def terms_of(
        self, prediction: Prediction, batch: Batch, spreads: Mapping[str, float] | None = None
    ) -> dict[str, Term]:
        """Sums and counts of the loss, by label, of errors divided by `spreads`."""
        return loss_terms(prediction, batch, self.loss, self.huber_delta, spreads, self.type_weights)

    def loss_of(self, prediction: Prediction, batch: Batch, scale: LossScale | None = None) -> torch.Tensor:
        """The loss of one batch with these weights, or those of `scale`."""
        scale = scale or LossScale({}, self.weights)
        return total(self.terms_of(prediction, batch, scale.spreads), scale.weights)


@dataclasses.dataclass
class History(Printed):
    """What happened: one entry per epoch, and what the E0 refit did; prints as a table."""

    epochs: list[dict[str, Any]]
    e0_fit: E0Fit | None
    best_epoch: int
    start_loss: float = math.nan  # validation loss before the first step
    last_e0_fit: E0Fit | None = None
    energy_offsets: Mapping[str, float] = dataclasses.field(default_factory=dict)  # taken from labels, eV/atom
    optimizer_bytes: int = 0  # of what the optimizer keeps beside the parameters, at the end

    def table(self) -> Table:
        """A row for each epoch, of many for some, the best among them; the caption says why it is the best."""
        names = list(self.epochs[0]["valid_errors"]) if self.epochs else []
        header = ["epoch", "train loss", "valid loss", *names, "active %", "seconds"]
        rows = [
            [
                f"{line['epoch']}{' best' if line['epoch'] == self.best_epoch else ''}",
                *(f"{line[key]:.4g}" for key in ("train_loss", "valid_loss")),
                *(f"{line['valid_errors'][name]:.4g}" for name in names),
                f"{100 * line['active_share']:.2f}",
                f"{line['seconds']:.1f}",
            ]
            for line in self.epochs
            if line["epoch"] in self._shown()
        ]
        start = f"validation loss before training {self.start_loss:.4g}; "
        return table_of(header, rows, start + self.reason)

    def _shown(self) -> set[int]:
        """Numbers of the epochs that a table has: the first, the best, the last, and some between."""
        n = len(self.epochs)
        spaced = np.linspace(1, n, min(n, ROWS)).round().astype(int).tolist()
        return {*spaced, self.best_epoch}

    @property
    def reason(self) -> str:
        """Why the best epoch is the best, in a sentence."""
        if not self.best_epoch:
            return "no epoch could be the best: what was asked of the adaptation did not hold in any"
        best = self.epochs[self.best_epoch - 1]
        eligible = sum(line["is_eligible"] for line in self.epochs)
        among = f"all {eligible}" if eligible == len(self.epochs) else f"the {eligible} in which the asked share held"
        return f"epoch {self.best_epoch} has the lowest validation loss, {best['valid_loss']:.4g}, of {among}"


def learning_rate(model: Potential, config: FitConfig, n_steps: int) -> float:
    """That of `config`, or the default of the model's first adaptation that trains in a run of `n_steps` steps."""
    if config.lr is not None:
        return config.lr
    return getattr(model.backbone, "rate", 1.0) * _first(model).learning_rate(n_steps)


def _first(model: Potential) -> Adaptation:
    parts = model.adaptation.parts()
    return next((c for c in parts if c.trainable()), parts[0])


def parameter_groups(model: Potential, config: FitConfig, n_steps: int) -> list[list[dict[str, Any]]]:
    """Groups of an optimizer, those of each adaptation together, each with its learning rate and beta1.

    A rate that was asked is the first adaptation's; the others keep the ratio of their default to its default.
    """
    components = model.adaptation.parts()
    lr = learning_rate(model, config, n_steps)
    leading = _first(model)
    first = leading.learning_rate(n_steps)
    result = []
    for component in components:
        rate = lr if component is leading else lr * component.learning_rate(n_steps) / first
        beta1 = component.beta1(n_steps) if config.beta1 is None else config.beta1
        result.append([{**group, "lr": rate, **averaging(beta1)} for group in component.groups()])
    return result
