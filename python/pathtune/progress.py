"""Progress of a fit: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """Shows steps and epochs; a context manager, so that the bar is closed on an error too."""

    def __init__(self, n_epochs: int, quiet: bool = False):
        self.n_epochs = n_epochs
        self.quiet = quiet
        console = Console(file=sys.stderr)
        self.bar: Bar | None = None
        if not quiet and console.is_terminal:
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

    def step(self, epoch: int, step: int, n_steps: int, loss: float) -> None:
        """After a step."""
        if self.bar:
            self.bar.update(self.task, completed=epoch + step / n_steps,
                            description=f"epoch {epoch + 1}/{self.n_epochs} loss {loss:.3g}")  # fmt: skip

    def epoch(self, line: dict[str, Any], best_epoch: int) -> None:
        """After an epoch, with its line of the log."""
        if self.quiet:
            return
        text = (
            f"epoch {line['epoch']:4d}/{self.n_epochs}  train {line['train_loss']:.4g}  valid {line['valid_loss']:.4g}"
            f"  active {100 * line['active_share']:.2f} %  {line['seconds']:.0f} s"
        )
        text += "  best" if best_epoch == line["epoch"] else ""
        if self.bar:
            self.bar.console.print(text, highlight=False)
            return
        per_epoch = line["seconds"] / line["epoch"]
        left = per_epoch * (self.n_epochs - line["epoch"])
        print(f"{text}  {left:.0f} s left", file=sys.stderr, flush=True)
