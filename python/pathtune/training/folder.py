"""The folder that a run leaves: config.toml, log.jsonl and log.csv, checkpoint/, results. Every write is atomic."""

from __future__ import annotations

import csv
import io
import json
import pathlib
from typing import Any

import torch

from pathtune.errors import InputError
from pathtune.files import write_atomically, write_text

FINISHED = "metrics.json"  # written last
COLUMNS = ("epoch", "train_loss", "valid_loss", "lr", "active_share", "seconds")  # of log.csv, before the errors


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, folder: str | pathlib.Path):
        self.folder = pathlib.Path(folder)
        self.config = self.folder / "config.toml"
        self.log = self.folder / "log.jsonl"
        self.split = self.folder / "split.json"
        self.table = self.folder / "log.csv"
        self.predictions = self.folder / "predictions.extxyz"
        self.checkpoint = self.folder / "checkpoint" / "last.pt"
        self.adapter = self.folder / "adapter.safetensors"
        self.merged = self.folder / "merged.model"
        self.metrics = self.folder / FINISHED

    def start(self, config_toml: str, resume: bool) -> None:
        """Claim the folder. Raises InputError, and touches nothing, when it holds something else."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: is a file, expected a folder for the run")
        if self.metrics.exists():
            raise InputError(f"{self.folder}: holds a finished run, expected a new folder")
        if self.config.exists():
            if not resume:
                raise InputError(f"{self.folder}: holds an unfinished run, expected a new folder, or --resume")
            if self.config.read_text() != config_toml:
                raise InputError(
                    f"{self.folder}: --resume, but the options differ from {self.config}, expected the same command"
                )
            for leftover in self.folder.rglob(".*.tmp"):  # of a write that a kill cut short
                leftover.unlink()
            return
        if self.folder.is_dir() and any(p for p in self.folder.iterdir() if not p.name.startswith(".")):
            raise InputError(f"{self.folder}: is not empty, expected a new folder for the run")
        write_text(self.config, config_toml)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        write_atomically(self.checkpoint, lambda stream: torch.save(state, stream))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None. Tensors and plain values only: nothing in it is executed."""
        if not self.checkpoint.exists():
            return None
        return torch.load(self.checkpoint, map_location="cpu", weights_only=True)

    def append_log(self, line: dict[str, Any]) -> None:
        """One line of log.jsonl."""
        with open(self.log, "a") as stream:
            stream.write(json.dumps(line) + "\n")

    def write_table(self, lines: list[dict[str, Any]]) -> None:
        """log.csv, the lines of the log as a table; what a line holds by name is a column for each name."""
        rows = [{name: line[name] for name in COLUMNS if name in line} | line["valid_errors"] for line in lines]
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.table, text.getvalue())

    def truncate_log(self, n_lines: int) -> list[dict[str, Any]]:
        """Keep the first lines of log.jsonl, those that the checkpoint knows of, and return them."""
        lines = self.log.read_text().splitlines()[:n_lines] if self.log.exists() else []
        if self.log.exists():
            write_text(self.log, "".join(line + "\n" for line in lines))
        return [json.loads(line) for line in lines]
