"""Fitting: schedule-free AdamW on a sparse delta or on all weights, resumable to the same result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import schedulefree
import torch

from pathtune.atomic_energies import E0Fit, refit_e0
from pathtune.data import (
    Batch,
    LabelKeys,
    Source,
    as_source,
    batches,
    check_elements,
    shuffled,
    weight_options,
)
from pathtune.delta import DeltaParameter
from pathtune.errors import InputError
from pathtune.evaluation import mean_loss
from pathtune.losses import Term, TermSums, check_outputs, loss_terms, total
from pathtune.model import Potential, Prediction
from pathtune.narrowing import Narrowing
from pathtune.options import check_choices, check_positive, option, option_group, with_groups
from pathtune.progress import Progress
from pathtune.run_folder import RunFolder
from pathtune.scoring import MOST_FRAMES, choose_candidates, gradients

# Within the ranges that docs/results.md tried; a zero delta on few weights takes, and wants, the largest.
LEARNING_RATES = {"identity": 0.1, "paper": 0.01, "full": 0.003}


@with_groups
@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How to train."""

    epochs: int = option(100, "passes over the training data")
    batch_size: int = option(8, "structures in a step")
    lr: float | None = option(None, "learning rate (by default that of the arm: {identity} from an identity start, "
                                    "{paper} from a paper start, {full} for full and readout)"
                                    .format(**LEARNING_RATES))  # fmt: skip
    loss: str = option("huber", "shape of the loss", choices=("huber", "weighted"))
    weights: Mapping[str, float] = option_group("_weight", weight_options)  # energy_weight, and so on
    huber_delta: float = option(0.01, "where the huber loss turns linear, in eV/atom, eV/A and eV/A^3")
    clip: float = option(10.0, "largest norm of the gradient")
    patience: int = option(0, "stop after so many epochs without a better validation loss; 0: never")
    refit_e0: bool = option(True, "refit the energy of each element to the training data first")
    refit_e0_last: bool = option(True, "and once more at the end, which takes out what the energies drifted by")
    checkpoint_minutes: float = option(5.0, "longest time between checkpoints, which also end every epoch")
    seed: int = option(0, "of the order of structures and the initial delta")

    def __post_init__(self):
        check_choices(self)
        check_positive(self, "epochs", "batch_size", "huber_delta", "clip", "checkpoint_minutes")
        if self.lr is not None:
            check_positive(self, "lr")

    def terms_of(self, prediction: Prediction, batch: Batch) -> dict[str, Term]:
        """The loss by label, before weights."""
        return loss_terms(prediction, batch, self.loss, self.huber_delta)

    def loss_of(self, prediction: Prediction, batch: Batch) -> torch.Tensor:
        """The loss with these weights."""
        return total(self.terms_of(prediction, batch), self.weights)


@dataclasses.dataclass
class History:
    """What happened: one entry per epoch, and what the E0 refit did."""

    epochs: list[dict[str, Any]]
    e0_fit: E0Fit | None
    best_epoch: int
    last_e0_fit: E0Fit | None = None


def fit(
    model: Potential,
    train: Any,
    valid: Any,
    config: FitConfig | None = None,
    keys: LabelKeys | None = None,
    folder: RunFolder | None = None,
    progress: Progress | None = None,
) -> History:
    """Train `model` in place on its arm's parameters; it ends with the weights of the best validation loss.

    `train` and `valid`: a file, several files, ASE Atoms, Structures, or a Source. With a `folder` that holds a
    checkpoint the run continues there, to the bitwise same result. Raises InputError for bad data (see
    read_structures), an element or a labelled output that the model lacks, or a loss that is not finite.
    """
    config = config or FitConfig()
    train, valid = as_source(train, keys), as_source(valid, keys)
    for source in (train, valid):
        check_elements(source, model.atomic_numbers)
        check_outputs(model, source, config.weights)
    if not model.trainable():
        raise InputError("fit: the model has nothing to train, expected one from sparsify or unfreeze")
    e0_fit = None
    if config.refit_e0:
        refitted, e0_fit = refit_e0(model, train)
        model.e0.copy_(refitted.e0)
    run = _Run(model, train, valid, config, folder, progress or Progress(config.epochs, quiet=True), e0_fit)
    history = run.run()
    if config.refit_e0_last:
        refitted, history.last_e0_fit = refit_e0(model, train)
        model.e0.copy_(refitted.e0)
    return history


def learning_rate(model: Potential, config: FitConfig) -> float:
    """That of `config`, or the default of the model's arm."""
    if config.lr is not None:
        return config.lr
    if model.config is None:
        return LEARNING_RATES["full"]
    return LEARNING_RATES["paper" if model.config.is_paper else "identity"]


def parameter_groups(model: Potential, config: FitConfig) -> list[dict[str, Any]]:
    """Deltas and thresholds with their own weight decay (METHOD, section 2), or all weights without."""
    if model.arm != "sparse" or model.config is None:
        return [{"params": model.trainable(), "weight_decay": 0.0}]
    deltas: list[Any] = model.adapted()
    groups = [{"params": [d.values for d in deltas], "weight_decay": model.config.delta_decay}]
    if model.config.has_thresholds:
        groups.append({"params": [d.threshold_score for d in deltas], "weight_decay": model.config.decay})
    return groups


class _Run:
    """State of one training run: everything that a checkpoint holds."""

    def __init__(self, model, train, valid, config: FitConfig, folder, progress, e0_fit):
        self.model, self.config, self.folder, self.progress = model, config, folder, progress
        self.train: Source = train
        self.valid: Source = valid
        self.e0_fit: E0Fit | None = e0_fit
        self.parameters = model.trainable()
        self.lr = learning_rate(model, config)
        self.optimizer = schedulefree.AdamWScheduleFree(parameter_groups(model, config), lr=self.lr)
        self.optimizer.train()
        self.epoch, self.step, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0
        self.best_loss, self.best_epoch = math.inf, 0
        self.best = self._snapshot()
        self.lines: list[dict[str, Any]] = []
        self.steps_per_epoch = math.ceil(len(train) / config.batch_size)
        self.narrowing: Narrowing | None = None
        if model.arm == "sparse":
            self.narrowing = Narrowing(model, self.optimizer, config.epochs * self.steps_per_epoch)
        self.saved_at = time.monotonic()

    def run(self) -> History:
        """Train from the checkpoint, if any, to the end."""
        if not self._load():
            self._choose_candidates()
        with self.progress:
            while self.epoch < self.config.epochs and not self._is_stale():
                self._train_epoch()
                self._finish_epoch()
        self._restore(self.best)
        return History(self.lines, self.e0_fit, self.best_epoch)

    def _choose_candidates(self) -> None:
        """The scoring pass of an identity start, where one is asked for (sparsify draws at random by itself)."""
        delta = self.model.config
        if self.narrowing is None or delta is None or delta.is_paper or delta.score == "random":
            return
        if delta.first_share < 1:
            frames = batches(self.model, self.train, 1, range(min(len(self.train), MOST_FRAMES)))
            choose_candidates(self.model, frames, self.config.loss_of)
            self.best = self._snapshot()

    def _snapshot(self) -> dict[str, list[torch.Tensor]]:
        """The parameters, and for deltas the candidates that they belong to."""
        return {
            "parameters": [p.detach().clone() for p in self.parameters],
            "indices": [d.indices for d in self.model.adapted()],
        }

    def _restore(self, snapshot: dict[str, list[torch.Tensor]]) -> None:
        for d, indices in zip(self.model.adapted(), snapshot["indices"]):
            if isinstance(d, DeltaParameter) and not torch.equal(d.indices, indices.to(d.indices.device)):
                d.set_candidates(indices, torch.zeros(indices.numel(), dtype=d.values.dtype))
        with torch.no_grad():
            for parameter, value in zip(self.parameters, snapshot["parameters"]):
                parameter.copy_(value)

    def _train_epoch(self) -> None:
        chunks = shuffled(len(self.train), self.config.batch_size, self.config.seed, self.epoch)
        for chunk in chunks[self.step :]:
            began = time.monotonic()
            value = self._train_step(self.model.batch(self.train, chunk))
            self.loss_sum += value * len(chunk)
            self.step += 1
            if self.narrowing:
                self.narrowing.after_step(self._steps_done, functools.partial(self._dense_gradients, chunk))
            self.seconds += time.monotonic() - began
            self.progress.step(self.epoch, self.step, len(chunks), value)
            if time.monotonic() - self.saved_at > 60 * self.config.checkpoint_minutes:
                self._save()

    @property
    def _steps_done(self) -> int:
        return self.epoch * self.steps_per_epoch + self.step

    def _dense_gradients(self, chunk: list[int]) -> list[torch.Tensor]:
        return gradients(self.model, self.model.batch(self.train, chunk), self.config.loss_of)

    def _train_step(self, batch: Batch) -> float:
        prediction = self.model(batch, outputs=batch.wanted, training=True)
        value = self.config.loss_of(prediction, batch)
        if not torch.isfinite(value):
            raise InputError(
                f"fit: the loss is {value.item()} in epoch {self.epoch + 1}, step {self.step + 1}, "
                f"expected a finite number: try a learning rate below {self.lr:g}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        value.backward(inputs=self.parameters)  # inputs: the engine skips what leads to frozen weights only
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimizer.step()
        return float(value.detach())

    def _finish_epoch(self) -> None:
        began = time.monotonic()
        if self.narrowing:
            self.narrowing.after_epoch()
        # Only an epoch with the asked share may be the best.
        is_eligible = self.narrowing is None or self.narrowing.is_reached(self._steps_done)
        with self._at_average():
            frames = batches(self.model, self.valid, self.config.batch_size)
            parts = TermSums()
            valid_loss = mean_loss(self.model, frames, functools.partial(self._valid_loss, parts))
            counts = self.model.counts()
            if is_eligible and valid_loss < self.best_loss:
                self.best_loss, self.best_epoch = valid_loss, self.epoch + 1
                self.best = self._snapshot()
        self.seconds += time.monotonic() - began
        line = {
            "epoch": self.epoch + 1,
            "train_loss": self.loss_sum / len(self.train),
            "valid_loss": valid_loss,
            "valid_parts": parts.means(),
            "active": counts["active"],
            "active_share": counts["active"] / counts["reachable_weights"] if self.model.arm == "sparse" else 1.0,
            "seconds": self.seconds,
        }
        self.lines.append(line)
        self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
        if self.folder:
            self.folder.append_log(line)
            self._save()
        self.progress.epoch(line, self.best_epoch)

    def _valid_loss(self, parts: TermSums, prediction: Prediction, batch: Batch) -> torch.Tensor:
        terms = self.config.terms_of(prediction, batch)
        parts.add(terms)
        return total(terms, self.config.weights)

    def _is_stale(self) -> bool:
        has_best = self.best_epoch > 0
        return bool(self.config.patience) and has_best and self.epoch - self.best_epoch >= self.config.patience

    @contextlib.contextmanager
    def _at_average(self) -> Iterator[None]:
        """Parameters at x, where models are judged and saved, and bitwise back at y afterwards.

        optimizer.eval() and .train() alone round differently on the way back (METHOD, section 2).
        """
        raw = [p.detach().clone() for p in self.parameters]
        self.optimizer.eval()
        try:
            yield
        finally:
            self.optimizer.train()
            with torch.no_grad():
                for parameter, y in zip(self.parameters, raw):
                    parameter.copy_(y)

    def _save(self) -> None:
        if self.folder is None:
            return
        self.saved_at = time.monotonic()
        self.folder.save_checkpoint({
            "last": self._snapshot(),  # y, the raw sequence
            "optimizer": self.optimizer.state_dict(),
            "best": self.best, "best_loss": self.best_loss, "best_epoch": self.best_epoch,
            "epoch": self.epoch, "step": self.step, "loss_sum": self.loss_sum, "seconds": self.seconds,
            "n_log_lines": len(self.lines),
        })  # fmt: skip

    def _load(self) -> bool:
        """Continue from the checkpoint, if there is one."""
        state = self.folder.load_checkpoint() if self.folder else None
        if self.folder is None or state is None:
            if self.folder:
                self.folder.truncate_log(0)
            return False
        self._restore(state["last"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("best", "best_loss", "best_epoch", "epoch", "step", "loss_sum", "seconds"):
            setattr(self, name, state[name])
        self.lines = self.folder.truncate_log(state["n_log_lines"])
        return True
