"""The training loop: schedule-free AdamW on what the model's adaptations train, resumable to the same result."""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import schedulefree
import torch

from pathtune.adaptations import Controller
from pathtune.adaptations.gradients import weight_gradients
from pathtune.atomic_energies import E0Fit
from pathtune.data import Batch, Source, batches, made_ahead
from pathtune.data.order import spread
from pathtune.data.plan import dealt, labelled_numbers, loads_of
from pathtune.errors import DivergedError, InputError
from pathtune.evaluation import mean_loss
from pathtune.losses import ErrorSums, Term, TermSums, total
from pathtune.model import Potential, Prediction
from pathtune.processes import world
from pathtune.training.captured import captured_steps
from pathtune.training.checkpoint import bound_to, check_belongs, check_states
from pathtune.training.folder import RunFolder
from pathtune.training.late import LateNumber, StepDone, steps_late
from pathtune.training.options import FitConfig, History, learning_rate, parameter_groups
from pathtune.training.plans import Plans
from pathtune.training.progress import Progress
from pathtune.training.seam import add_dense, check_candidates, meet, whole
from pathtune.training.stopping import Asked, StoppedError, on_sigterm

EARLY_STEPS = 50  # in which a rate that is far too high shows
MOST_RISE = 40.0  # of the loss in them, far above what batches differ by


class Piece(NamedTuple):
    """What this process has of a step."""

    indices: Sequence[int]  # of its structures
    batch: Callable[[], Batch] | None  # moves them to the device; None: there are none, or they could not be read
    # labelled numbers of the whole step, by output; None: this process has the whole step
    counts: dict[str, int] | None = None
    failure: InputError | None = None  # why they could not be read
    captured: Callable[[], torch.Tensor] | None = None  # the loss and all gradients, in place of `batch`


class Loop:
    """State of one training run: everything that a checkpoint holds."""

    def __init__(
        self,
        model: Potential,
        train: Source,
        valid: Source,
        config: FitConfig,
        folder: RunFolder | None = None,
        progress: Progress | None = None,
        e0_fit: E0Fit | None = None,
        own: Source | None = None,
    ):
        """`own`: what adaptations see before step 0, by default all of `train`: that without replay."""
        self.model = model
        self.config = config
        self.folder = folder
        self.progress = progress or Progress(config.epochs, quiet=True)
        self.train, self.own = train, train if own is None else own
        self.valid = valid
        self.e0_fit = e0_fit
        self.parameters = model.trainable()
        self.world = world()
        self.plans = Plans(config, train)
        self.asked = Asked()
        self.bound: dict[str, Any] = {}
        self.planned_epochs = config.epochs  # those that the run was begun with: rates, averages, narrowing follow them
        self.saved = self._checked_checkpoint()
        n_steps = self.plans.before(self.planned_epochs)
        self.scale = config.scale_of(model, train)
        self.loss_of = functools.partial(config.loss_of, scale=self.scale)
        self.captured = captured_steps(model, train, config, self.scale)
        self.lr = learning_rate(model, config, n_steps)
        groups = parameter_groups(model, config, n_steps)
        self.optimizer = schedulefree.AdamWScheduleFree([g for mine in groups for g in mine], lr=self.lr)
        self.optimizer.train()
        self.epoch = 0
        self.step = 0
        self.loss_sum = 0.0
        self.early: list[float] = []  # losses of the first steps
        self.unread: deque[StepDone] = deque()
        self.n_late = steps_late(model.device)
        self.seconds = 0.0
        self.start_loss = math.nan
        self.best_loss = math.inf
        self.best_epoch = 0
        self.best = model.adaptation.state()
        self.lines: list[dict[str, Any]] = []
        self.controllers = self._controllers([len(mine) for mine in groups])
        self.is_stopped = self.is_due = False
        self.saved_at = time.monotonic()

    def run(self) -> History:
        """Train from the checkpoint, if any, to the end."""
        if not self._load():
            self._begin()
        with self.progress, on_sigterm() as self.asked:
            while self.epoch < self.config.epochs and not self._is_stale():
                self._train_epoch()
                self._finish_epoch()
        self.model.adaptation.restore(self.best)
        kept = [t for state in self.optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
        n_bytes = sum(t.numel() * t.element_size() for t in kept)
        return History(self.lines, self.e0_fit, self.best_epoch, self.start_loss, optimizer_bytes=n_bytes)

    def _controllers(self, n_groups: Sequence[int]) -> list[Controller]:
        """One for each adaptation, with its own groups among the optimizer's."""
        n_steps = self.plans.before(self.planned_epochs)
        found = []
        first = 0
        for component, n in zip(self.model.adaptation.parts(), n_groups):
            found.append(component.controller(self.optimizer, slice(first, first + n), n_steps))
            first += n
        return found

    def _begin(self) -> None:
        order = spread(len(self.own))
        for component in self.model.adaptation.parts():
            frames = batches(self.model, self.own, 1, order)  # an iterator: each adaptation reads from the first on
            if component.begin(self.model, frames, self.loss_of):
                self.best = self.model.adaptation.state()
        self.start_loss = self._validate(TermSums(), ErrorSums(), "before the first step")

    def _train_epoch(self) -> None:
        plan = self.plans.of(self.epoch)
        pieces = (self._piece(plan.step(k)) for k in range(self.step, len(plan)))
        with made_ahead(pieces, self.train, self.model.device) as ahead:
            for piece in ahead:
                began = time.monotonic()
                self._train_step(piece)
                self.step += 1
                for controller in self.controllers:
                    if controller.after_step(self._steps_done, functools.partial(self._dense_gradients, piece)):
                        check_candidates(self.world, self.model.adaptation.state(), self._steps_done)
                        if self.captured:
                            self.captured.forget()
                self.seconds += time.monotonic() - began
                if self.is_stopped or self.is_due:
                    self._save()
                if self.is_stopped:
                    raise StoppedError(f"stopped by SIGTERM in epoch {self.epoch + 1} after step {self.step}")

    def _piece(self, indices: np.ndarray) -> Piece:
        """This process's part of a step."""
        if self.captured:
            again = functools.partial(self.model.batch, self.train, indices.tolist())
            return Piece(indices.tolist(), again, captured=self.captured.staged(indices.tolist()))
        if self.world.size == 1:
            return Piece(indices.tolist(), self.model.staged(self.train, indices.tolist()))
        counts = dict(labelled_numbers(self.train, indices))
        mine = indices[dealt(loads_of(self.train, indices), self.world.size)[self.world.rank]].tolist()
        try:
            return Piece(mine, self.model.staged(self.train, mine) if len(mine) else None, counts)
        except InputError as error:
            return Piece(mine, None, counts, error)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of this epoch."""
        return self.plans.steps(self.epoch)

    @property
    def _steps_done(self) -> int:
        return self.plans.before(self.epoch) + self.step

    def _dense_gradients(self, piece: Piece) -> dict[str, torch.Tensor]:
        if piece.batch is None:
            mine = {name: torch.zeros_like(w) for name, w in self.model.effective_weights().items()}
        else:
            again = self.model.batch(self.train, piece.indices)
            mine = weight_gradients(self.model, again, functools.partial(self._loss, counts=piece.counts))
        return dict(add_dense(self.world, mine))

    def _loss(self, prediction: Prediction, batch: Batch, counts: dict[str, int] | None) -> torch.Tensor:
        return total(whole(self._terms_of(prediction, batch), counts), self.scale.weights)

    def _train_step(self, piece: Piece) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        found = piece.captured() if piece.captured else self._value_of(piece)
        if found.requires_grad:
            found.backward(inputs=self.parameters)  # inputs: the engine skips what leads to frozen weights only
        is_due = self.world.is_first and time.monotonic() - self.saved_at > 60 * self.config.checkpoint_minutes
        requests = (self.asked.is_asked, is_due)
        value, (self.is_stopped, self.is_due) = meet(self.world, found, self.parameters, requests, piece.failure)
        plan, k = self.plans.of(self.epoch), self.step
        done = StepDone(self.epoch, k + 1, len(plan), self._steps_done + 1, len(plan.step(k)), LateNumber(value))
        self.unread.append(done)
        self._read_losses(self.n_late)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimizer.step()

    def _read_losses(self, n_left: int = 0) -> None:
        """Take note of the losses of the steps so far but the last `n_left`, in their order.

        DivergedError for one that is not finite, or far above that of the start.
        """
        while len(self.unread) > n_left:
            done = self.unread.popleft()
            value = done.loss.read()
            if not math.isfinite(value):
                raise DivergedError(
                    f"fit: the loss is {value} in epoch {done.epoch + 1}, step {done.step}, "
                    f"expected a finite number: try a learning rate below {self.lr:g}"
                )
            self.loss_sum += value * done.n_structures
            self._check_rise(value, done.n_before)
            self.progress.step(done.epoch, done.step, done.n_steps, value)

    def _value_of(self, piece: Piece) -> torch.Tensor:
        """This process's part of the loss of a step; penalties are the first process's."""
        value = self.parameters[0].new_zeros(())
        if piece.batch is not None:
            batch = piece.batch()
            prediction = self.model(batch, outputs=batch.wanted, training=True)
            value = self._loss(prediction, batch, piece.counts)
        for penalty in self.model.adaptation.penalties(self.model) if self.world.is_first else ():
            value = value + penalty
        return value

    def _check_rise(self, value: float, n_steps: int) -> None:
        """Raise DivergedError where the last three losses of the first steps are far above that of the start."""
        if n_steps > EARLY_STEPS:
            return
        self.early.append(value)
        start, now = max(self.early[0], self.start_loss), statistics.median(self.early[-3:])
        if len(self.early) >= 3 and now > MOST_RISE * start:
            raise DivergedError(
                f"fit: the loss rose from {start:.3g} to {now:.3g} in {len(self.early)} steps at the learning rate "
                f"{self.lr:.3g}, expected it to fall: try --lr {self.lr / 3:.2g}"
            )

    def _finish_epoch(self) -> None:
        began = time.monotonic()
        self._read_losses()
        for controller in self.controllers:
            controller.after_epoch()
        # Only an epoch with what was asked may be the best.
        is_eligible = all(controller.is_reached(self._steps_done) for controller in self.controllers)
        with self._at_average():
            parts, errors = TermSums(), ErrorSums()
            valid_loss = self._validate(parts, errors, f"after epoch {self.epoch + 1}")
            counts = self.model.counts()
            if is_eligible and valid_loss < self.best_loss:
                self.best_loss = valid_loss
                self.best_epoch = self.epoch + 1
                self.best = self.model.adaptation.state()
        self.seconds += time.monotonic() - began
        line = {
            "epoch": self.epoch + 1,
            "train_loss": self.loss_sum / len(self.train),
            "valid_loss": valid_loss,
            "valid_parts": parts.means(),
            "valid_errors": errors.means(),
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "is_eligible": is_eligible,
            "active": counts["active"],
            "active_share": self.model.active_share(counts),
            "seconds": self.seconds,
        }
        self.lines.append(line)
        self.epoch += 1
        self.step = 0
        self.loss_sum = 0.0
        if self.folder:
            self.world.first(functools.partial(self.folder.append_log, line))
            self.world.first(functools.partial(self.folder.write_table, self.lines))
            self._save()
        self.progress.epoch(line, self.best_epoch)

    def _terms_of(self, prediction: Prediction, batch: Batch) -> dict[str, Term]:
        return self.config.terms_of(prediction, batch, self.scale.spreads)

    def _validate(self, parts: TermSums, errors: ErrorSums, when: str) -> float:
        """The validation loss, its terms and errors added to `parts` and `errors`. DivergedError if not finite."""
        mine, own = TermSums(), ErrorSums()
        loss_of = functools.partial(self._valid_loss, mine, own)
        loss = mean_loss(self.model, self.valid, self.config.batch_size, loss_of)
        for their_parts, their_errors in self.world.gather(lambda: (mine, own)):
            parts.merge(their_parts)
            errors.merge(their_errors)
        if not math.isfinite(loss):
            raise DivergedError(
                f"fit: the validation loss is {loss} {when}, expected a finite number: try a learning rate below "
                f"{self.lr:g}"
            )
        return loss

    def _valid_loss(self, parts: TermSums, errors: ErrorSums, prediction: Prediction, batch: Batch) -> torch.Tensor:
        terms = self._terms_of(prediction, batch)
        parts.add(terms)
        errors.add(prediction, batch)
        return total(terms, self.scale.weights)

    def _is_stale(self) -> bool:
        has_best = self.best_epoch > 0
        return bool(self.config.patience) and has_best and self.epoch - self.best_epoch >= self.config.patience

    @contextlib.contextmanager
    def _at_average(self) -> Iterator[None]:
        """Parameters at x, where models are judged and saved, and bitwise back at y afterwards.

        optimizer.eval() and .train() alone round differently on the way back (docs/theory.md).
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
        self._read_losses()  # what is not finite is never saved
        self.saved_at = time.monotonic()
        folder = self.folder
        self.world.first(lambda: folder.save_checkpoint(self._state()))

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            **{name: getattr(self, name) for name in KEPT},
            "last": self.model.adaptation.state(),  # y, the raw sequence
            "optimizer": self.optimizer.state_dict(),
            "bound": self.bound,
            "e0": self.model.e0,  # which an adaptation may have changed before step 0
            "plan": self.plans.of(self.epoch).digest,
            "world_size": self.world.size,
        }

    def _checked_checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint to go on from, if there is one; InputError as load_checkpoint and check_belongs."""
        if self.folder is None:
            return None
        self.bound = bound_to(self.model, self.train, self.valid, self.config, self.folder.options)
        state = self.world.first(self.folder.load_checkpoint)
        if state is not None:
            where = str(self.folder.checkpoint)
            check_belongs(state, self.bound, self.config.epochs, self.plans, where)
            self.planned_epochs = state["planned_epochs"]
        return state

    def _load(self) -> bool:
        """Continue from the checkpoint, if there is one."""
        state, self.saved = self.saved, None
        if self.folder is None:
            return False
        if state is None:
            self.world.first(functools.partial(self.folder.go_on, []))
            return False
        check_states(state, self.model, self.optimizer, str(self.folder.checkpoint))
        self.model.adaptation.restore(state["last"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.model.set_e0(state["e0"].to(self.model.e0))
        for name in KEPT:
            setattr(self, name, state[name])
        self.world.first(functools.partial(self.folder.go_on, self.lines))
        if state["world_size"] != self.world.size:
            self.progress.say(
                f"processes were {state['world_size']} and are now {self.world.size}: same plan of batches"
            )
        if self.config.epochs > self.planned_epochs:
            self.progress.say(
                f"epochs were {self.planned_epochs} and are now {self.config.epochs}: learning rate, averaging and "
                f"narrowing stay those of a run of {self.planned_epochs}"
            )
        return True


KEPT = (
    "best",
    "best_loss",
    "best_epoch",
    "start_loss",
    "epoch",
    "step",
    "loss_sum",
    "seconds",
    "lines",
    "planned_epochs",
)  # of the loop, in a checkpoint
