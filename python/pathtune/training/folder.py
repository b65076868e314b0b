"""The folder that a run leaves: config.toml, log.jsonl and log.csv, checkpoint/, results. Every write is atomic."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pathlib
import tomllib
from collections.abc import Sequence
from typing import Any

import torch

from pathtune.errors import InputError
from pathtune.files import checked_path, read_bytes, read_text, write_atomically, write_text
from pathtune.forms import check_form
from pathtune.training.checkpoint import FORM
from pathtune.training.loggers import Logger, open_loggers

FINISHED = "metrics.json"  # written last
LOCK = ".lock"
DIGEST = 64  # characters of a SHA-256 at the end of a checkpoint
# Options that a resumed run may change: where its files lie (the content of data and model is bound to the checkpoint),
# where it computes, who is told of it, and its length (RunFolder.start says which way).
FREE = {
    *(("run", name) for name in ("train", "valid", "test", "replay", "out", "timeout_minutes", "report", "logger")),
    ("model", "model"),
    ("model", "device"),
    ("pull", "pull_data"),
    ("fit", "epochs"),
}


class Lock:
    """The hold of a run on its folder, until the `with` or the process ends, however it ends.

    Where the file system has no locks nothing is held.
    """

    def __init__(self, folder: pathlib.Path):
        """Raises InputError when another run holds the folder, and when it cannot be written to."""
        import fcntl  # of Unix only

        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._stream = open(folder / LOCK, "ab")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror})") from error
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._stream.close()
            raise InputError(
                f"{folder}: another process is at work in it, expected it to end, or a new folder"
            ) from error
        except OSError:
            pass

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


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
        self.loggers: list[Logger] = []  # which are told of every epoch
        self.options = ""  # a hash of those of the config file that a resumed run must share, once it is started
        self._config_toml: str | None = None

    def start(self, config_toml: str, resume: bool) -> Lock:
        """Claim the folder, until the lock that is returned is let go.

        Raises InputError, and touches nothing, when it holds something else, or an unfinished run with other options or
        for more epochs, and when another process is at work in it.
        """
        self._check_content()
        lock = Lock(self.folder)
        try:
            self._check_content()  # once more: another process may have come first
            if self.config.exists():
                if not resume:
                    raise InputError(f"{self.folder}: holds an unfinished run, expected a new folder, or --resume")
                difference = self.difference(config_toml)
                if difference:
                    raise InputError(f"{self.folder}: --resume, but {difference}")
                for leftover in self.folder.rglob(".*.tmp"):  # of a write that a kill cut short
                    leftover.unlink(missing_ok=True)
            else:
                write_text(self.config, config_toml)
        except BaseException:
            lock.__exit__()
            raise
        self._config_toml = config_toml
        counted = {key: value for key, value in _flat(config_toml, self.config).items() if key not in FREE}
        self.options = hashlib.sha256(repr(sorted(counted.items())).encode()).hexdigest()
        return lock

    def difference(self, config_toml: str) -> str | None:
        """What keeps a run with these options from going on with that of the folder, in words, if anything does."""
        mine, theirs = _flat(config_toml, self.config), _flat(read_text(self.config), self.config)
        for key in sorted(mine.keys() | theirs.keys()):
            name, new, old = key[1] or key[0], mine.get(key), theirs.get(key)
            if key == ("fit", "epochs") and isinstance(old, int) and isinstance(new, int) and new >= old:
                continue
            if (key not in FREE or key[0] == "fit") and repr(new) != repr(old):
                more = " or more" if key == ("fit", "epochs") else ""
                return f"{name} is {_shown(new)} and was {_shown(old)} in {self.config}, expected the same{more}"
        return None

    def go_on(self, lines: Sequence[dict[str, Any]]) -> None:
        """Before the first step of this process: the log is these lines, and the config file says how it goes on."""
        if self._config_toml is not None and read_text(self.config) != self._config_toml:
            write_text(self.config, self._config_toml)
        if lines or self.log.exists():
            write_text(self.log, "".join(json.dumps(line) + "\n" for line in lines))

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        buffer = io.BytesIO()  # torch.save has errors of its own where a disk is full
        torch.save(state, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest().encode()
        write_atomically(self.checkpoint, lambda stream: stream.write(buffer.getbuffer()) + stream.write(digest))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None. Tensors and plain values only: nothing in it is executed.

        Raises InputError for one that is damaged, or of another version of pathtune.
        """
        if not self.checkpoint.exists():
            return None
        content = memoryview(read_bytes(self.checkpoint))
        if hashlib.sha256(content[:-DIGEST]).hexdigest().encode() != bytes(content[-DIGEST:]):
            raise InputError(f"{self.checkpoint}: is damaged, or of another version of pathtune; expected it unaltered")
        try:
            state = torch.load(io.BytesIO(content[:-DIGEST]), map_location="cpu", weights_only=True)
        except Exception as error:  # of pickle, of zip archives, of torch: whoever wrote the checksum wrote this too
            raise InputError(f"{self.checkpoint}: is no checkpoint, expected tensors and plain values") from error
        check_form(state, FORM, str(self.checkpoint))
        return state

    def planned_epochs(self, asked: int) -> int:
        """The epochs that the run of the folder was begun with; `asked` where nothing is trained yet."""
        state = self.load_checkpoint()
        return state["planned_epochs"] if state else asked

    def open_loggers(self, names: Sequence[str]) -> None:
        """Tell loggers of this run, by name, once it is started; InputError as open_loggers."""
        state = self.load_checkpoint() if names else None
        self.loggers = open_loggers(names, self.folder, read_text(self.config), state["epoch"] if state else 0)

    def append_log(self, line: dict[str, Any]) -> None:
        """One line of log.jsonl, of which the loggers are told."""
        try:
            with open(self.log, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise InputError(f"{self.log}: cannot be written ({error.strerror})") from error
        for logger in self.loggers:
            logger.epoch(line)

    def write_table(self, lines: list[dict[str, Any]]) -> None:
        """log.csv, the lines of the log as a table; what a line holds by name is a column for each name."""
        rows = [{name: line[name] for name in COLUMNS} | line["valid_errors"] for line in lines]
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.table, text.getvalue())

    def _check_content(self) -> None:
        """Raise InputError unless the folder is new, empty, or of an unfinished run."""
        if checked_path(self.folder).exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder}: is a file, expected a folder for the run")
        if self.metrics.exists():
            raise InputError(f"{self.folder}: holds a finished run, expected a new folder")
        if self.config.exists() or not self.folder.is_dir():
            return
        if any(p for p in self.folder.iterdir() if not p.name.startswith(".")):
            raise InputError(f"{self.folder}: is not empty, expected a new folder for the run")


def _flat(text: str, where: pathlib.Path) -> dict[tuple[str, str], Any]:
    """The values of a TOML text by section and key; InputError for what is not TOML."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: is not TOML ({error})") from error
    result = {}
    for section, table in tables.items():
        items = table.items() if isinstance(table, dict) else [("", table)]
        result |= {(section, key): value for key, value in items}
    return result


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
