"""Progress of a fit: a bar on a terminal, one changing line in a notebook, plain lines elsewhere.

A notebook's shell is no terminal, though it says FORCE_COLOR: a bar there would be hundreds of lines.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from pathtune.processes import world


class Progress:
    """Shows steps and epochs; a context manager, so that the bar is closed on an error too."""

    def __init__(self, n_epochs: int, quiet: bool = False):
        self.n_epochs = n_epochs
        self.quiet = quiet
        console = Console(file=sys.stderr)
        self.bar: Bar | None = None
        if not quiet and console.is_terminal and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
            bar = Bar(*columns, console=console)
            self.bar, self.task = bar, bar.add_task("epoch 0", total=n_epochs)

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, text: str) -> None:
        """A line on standard error."""
        if self.bar:
            self.bar.console.print(text, highlight=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        """After a step."""
        if self.bar:
            self.bar.update(
                self.task,
                completed=epoch + step / n_steps,
                description=f"epoch {epoch + 1}/{self.n_epochs} loss {loss:.3g}",
            )

    def epoch(self, line: dict[str, Any], best_epoch: int) -> None:
        """After an epoch, with its line of the log."""
        if self.quiet:
            return
        text = line_of(line, self.n_epochs, best_epoch)
        if self.bar:
            self.bar.console.print(text, highlight=False)
            return
        per_epoch = line["seconds"] / line["epoch"]
        left = per_epoch * (self.n_epochs - line["epoch"])
        print(f"{text}  {left:.0f} s left", file=sys.stderr, flush=True)


class NotebookProgress(Progress):
    """One line below the cell of a notebook, which changes."""

    def __init__(self, n_epochs: int):
        super().__init__(n_epochs, quiet=True)
        self._display = importlib.import_module("IPython.display").display
        self._handle: Any = None
        self._said: list[str] = []
        self._line, self._shown_at = "", 0.0

    def say(self, text: str) -> None:
        """A line above the one that changes."""
        self._said.append(text)
        self._show()

    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        """After a step; shown once a second."""
        if time.monotonic() - self._shown_at >= 1.0:
            self._show(f"epoch {epoch + 1}/{self.n_epochs}  step {step}/{n_steps}  loss {loss:.3g}  {self._line}")

    def epoch(self, line: dict[str, Any], best_epoch: int) -> None:
        """After an epoch, with its line of the log."""
        self._line = f"({line_of(line, self.n_epochs, best_epoch)})"
        self._show(self._line[1:-1])

    def _show(self, text: str = "") -> None:
        self._shown_at = time.monotonic()
        content = {"text/plain": "\n".join([*self._said, text])}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def shown_progress(n_epochs: int) -> Progress:
    """For `fit` in Python: shown by the first process where somebody looks, on a terminal or in a notebook."""
    if world().rank:
        return Progress(n_epochs, quiet=True)
    ipython = sys.modules.get("IPython")
    if getattr(ipython.get_ipython() if ipython else None, "kernel", None) is not None:
        return NotebookProgress(n_epochs)
    return Progress(n_epochs, quiet=not sys.stderr.isatty())


def line_of(line: dict[str, Any], n_epochs: int, best_epoch: int) -> str:
    """A line of the log in words."""
    text = (
        f"epoch {line['epoch']:4d}/{n_epochs}  train {line['train_loss']:.4g}  valid {line['valid_loss']:.4g}"
        f"  active {100 * line['active_share']:.2f} %  {line['seconds']:.0f} s"
    )
    return text + ("  best" if best_epoch == line["epoch"] else "")


class SeriesProgress(Progress):
    """One bar over several fits of as many epochs each; on no terminal a line after each fit."""

    def __init__(self, n_epochs: int, quiet: bool = False):
        super().__init__(n_epochs, quiet)
        self.n_fits = 1
        self.title, self.n_done, self.n_running = "", 0, 0

    def __enter__(self) -> SeriesProgress:
        self.n_running += 1
        return super().__enter__() if self.n_running == 1 else self  # type: ignore

    def __exit__(self, *error: object) -> None:
        self.n_running -= 1
        if not self.n_running:
            super().__exit__(*error)

    def begin(self, title: str) -> None:
        """Before a fit."""
        self.title = title
        self._show(0.0)

    def end(self, text: str) -> None:
        """After a fit, with a line that says what it gave."""
        self.n_done += 1
        self._show(0.0)
        if self.bar:
            self.bar.console.print(text, highlight=False)
        elif not self.quiet:
            print(f"{text}  run {self.n_done} of {self.n_fits}", file=sys.stderr, flush=True)

    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        """After a step."""
        self._show((epoch + step / n_steps) / self.n_epochs)

    def epoch(self, line: dict[str, Any], best_epoch: int) -> None:
        """Nothing: an epoch is too short for a line."""

    def _show(self, done: float) -> None:
        if self.bar:
            title = f"{self.title} ({min(self.n_done + 1, self.n_fits)} of {self.n_fits})"
            self.bar.update(self.task, completed=self.n_done + done, total=self.n_fits, description=title)
