"""The small model, structures and folders that commands and config files name."""

import contextlib
import functools
import pathlib
import shutil

import ase.io
import torch

from fuzz.law import BrokenLawError, command, is_finite
from models import labelled, molecule, tiny_mace
from pathtune.cli import _common
from pathtune.forms import read_json

MODEL, ADAPTER = "tiny.model", "some.safetensors"
FIT = ["--model", MODEL, "--train", "train.xyz", "--valid", "valid.xyz", "--epochs", "1", "--keep-worse",
       "--no-check-units"]  # fmt: skip


class World:
    """Files in the current folder, which is `folder`, and commands there."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        torch.save(tiny_mace(torch.float32), folder / MODEL)
        for name, seed in (("train", 0), ("valid", 100), ("test", 200)):
            frames = labelled([molecule(seed + i, n=3) for i in range(2)], seed)
            ase.io.write(folder / f"{name}.xyz", frames, format="extxyz")
        self.load = functools.cache(_common.load)  # a loaded model is never changed
        status, _, said = self.run([*self.fit, "--out", "first"])
        if status != 0:
            raise BrokenLawError(said)
        (folder / ADAPTER).write_bytes((folder / "first" / "adapter.safetensors").read_bytes())

    @property
    def fit(self) -> list[str]:
        """The words of a good fit, without its folder."""
        return ["fit", *FIT]

    def run(self, words: list[str], *statuses: int) -> tuple[int, str, str]:
        """A command in the folder; models are loaded once. `statuses`: others that may be."""
        before = _common.load
        _common.load = self.load
        try:
            with contextlib.chdir(self.folder):
                return command(words, *statuses)
        finally:
            _common.load = before

    def clean(self) -> None:
        """Remove what a command left beside the files that were there."""
        kept = {MODEL, ADAPTER, "train.xyz", "valid.xyz", "test.xyz", "first"}
        for place in self.folder.iterdir():
            if place.name not in kept:
                shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()

    def check_folders(self) -> None:
        """Raise BrokenLawError for a finished run whose errors are not finite."""
        for file in self.folder.glob("*/metrics.json"):
            metrics = read_json(file, {"valid": {...: object}, "counts": {...: int}})
            is_finite({name: metrics[name] for name in ("valid", "valid_before", "valid_loss", "learning_rate")})
