"""Loggers of others beside the run's own log: TensorBoard and Weights & Biases, through their own packages.

They are told the options at the start, the log's line after every epoch, and the scores at the end, by the first
process alone. What they know of a run is in its folder, so that a resumed run goes on in the same curves.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pathtune.errors import InputError
from pathtune.files import read_text, write_text

SKIPPED = ("epoch", "is_eligible")  # of a line: no curves
SCORED = ("valid", "test")


class Logger(Protocol):
    """What is told of a run."""

    def epoch(self, line: Mapping[str, Any]) -> None:
        """After an epoch, with its line of the log."""
        ...

    def end(self, metrics: Mapping[str, Any]) -> None:
        """After the run, with what metrics.json holds."""
        ...


class TensorBoard:
    """Curves under `tensorboard/` in the folder of the run, the options as a text."""

    def __init__(self, folder: pathlib.Path, config_toml: str, n_done: int):
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"), purge_step=n_done + 1)  # of what a kill cut short
        self._writer.add_text("config.toml", f"```\n{config_toml}\n```")

    def epoch(self, line: Mapping[str, Any]) -> None:
        """See Logger."""
        for name, value in numbers_of(line, SKIPPED).items():
            self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()

    def end(self, metrics: Mapping[str, Any]) -> None:
        """See Logger."""
        for name, value in scores_of(metrics).items():
            self._writer.add_scalar(name, value, metrics["epochs"])
        self._writer.close()


class Wandb:
    """A run of Weights & Biases: its project, entity, name and mode are those of its WANDB_... variables."""

    def __init__(self, folder: pathlib.Path, config_toml: str, n_done: int):
        """Raises InputError where wandb cannot begin: nobody is logged in, no network."""
        wandb = importlib.import_module("wandb")
        kept = folder / ".wandb-id"
        asked: dict[str, Any] = {"id": read_text(kept).strip(), "resume": "allow"} if kept.exists() else {}
        if "WANDB_DIR" not in os.environ:
            asked["dir"] = str(folder)
        if "WANDB_NAME" not in os.environ:
            asked["name"] = folder.resolve().name
        project = os.environ.get("WANDB_PROJECT", "pathtune")
        try:
            self._run = wandb.init(project=project, config=tomllib.loads(config_toml), **asked)
        except Exception as error:  # of wandb, of its service, of the network
            text = " ".join(str(error).split())
            raise InputError(
                f"logger is wandb, which cannot begin ({text}), expected a login (wandb login) or WANDB_MODE=offline"
            ) from error
        write_text(kept, f"{self._run.id}\n")

    def epoch(self, line: Mapping[str, Any]) -> None:
        """See Logger."""
        self._run.log(numbers_of(line, SKIPPED), step=line["epoch"])

    def end(self, metrics: Mapping[str, Any]) -> None:
        """See Logger."""
        self._run.summary.update(scores_of(metrics))
        self._run.finish()


PACKAGES: dict[str, tuple[str, type]] = {"tensorboard": ("tensorboard", TensorBoard), "wandb": ("wandb", Wandb)}


def check_loggers(names: Sequence[str]) -> None:
    """Raise InputError for a logger whose package is not installed."""
    for name in names:
        package = PACKAGES[name][0]
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(
                f"logger is {name}, whose package is not installed, expected it: pip install {package}"
            ) from error


def open_loggers(names: Sequence[str], folder: pathlib.Path, config_toml: str, n_done: int) -> list[Logger]:
    """Those of a run of which `n_done` epochs are done; InputError as check_loggers, and where one cannot begin."""
    check_loggers(names)
    return [PACKAGES[name][1](folder, config_toml, n_done) for name in names]


def numbers_of(line: Mapping[str, Any], skipped: Sequence[str] = ()) -> dict[str, float]:
    """The numbers of a line of the log by name, those by label as GROUP/NAME."""
    found = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": float(v) for key, v in value.items() if isinstance(v, (int, float))}
        elif isinstance(value, (int, float)) and name not in skipped:
            found[name] = float(value)
    return found


def scores_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The errors of validation and test, as GROUP/NAME."""
    return {
        f"final_{group}/{name}": float(value)
        for group in SCORED
        for name, value in metrics.get(group, {}).items()
        if isinstance(value, (int, float))
    }
