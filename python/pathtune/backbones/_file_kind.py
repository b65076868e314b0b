"""What kind of model a file holds, by its content and without loading it: names and endings say nothing."""

from __future__ import annotations

import mmap
import pathlib
import zipfile

from pathtune.errors import InputError

NEQUIP_KEYS = (b"nequip.", b"allegro.")  # modules that a checkpoint of nequip names
SEVENN_KEY = b"model_state_dict"  # in the pickle of sevenn's checkpoints
# how torch.save without zip begins, after the pickle's protocol: a pickled magic number
LEGACY = bytes.fromhex("8a0a6cfc9c46f9206aa850192e")
ZIP = b"PK\x03\x04"
COMPILED = "is a compiled ({}) model, whose weights cannot be tuned, expected the file that it was made from"
SOURCES = "MACE: the .model file; SevenNet: the checkpoint; NequIP: the .ckpt or .nequip.zip"


def holds_nequix(path: pathlib.Path) -> bool:
    """Whether a file claims to be one of nequix: no other kind of model begins with JSON."""
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        return stream.read(1) == b"{"


def begins_as_zip(path: pathlib.Path) -> bool:
    """Whether a file is there and begins as a zip does."""
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        return stream.read(4) == ZIP


def holds_nequip(path: pathlib.Path) -> bool:
    """Whether a file is a checkpoint or a package of nequip or of one of its extensions, such as Allegro."""
    if not begins_as_zip(path) or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/model/package_metadata.txt"):
                return True
            if name.rpartition("/")[2] == "data.pkl":
                content = archive.read(name)
                return b"pytorch-lightning_version" in content and any(k in content for k in NEQUIP_KEYS)
    return False


def holds_sevennet(path: pathlib.Path) -> bool:
    """Whether a file, a zip of torch.save or one of its older format, holds a SevenNet checkpoint.

    Raises InputError for a file that no backbone can load: a compiled model, a zip that torch.save did not write.
    """
    if not path.is_file():
        return False
    with open(path, "rb") as stream:
        begin = stream.read(2 + len(LEGACY))
    if not begin.startswith(ZIP):  # a file of the older format may hold zips further on
        return begin[2:] == LEGACY and _contains(path, SEVENN_KEY)
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: is a damaged zip ({error}), expected the whole file") from error
    with archive:
        names = archive.namelist()
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if pickles and any(name.rpartition("/")[2] == "constants.pkl" for name in names):
            raise InputError(f"{path}: {COMPILED.format('TorchScript')} ({SOURCES})")
        if any("/aotinductor/" in name for name in names):
            raise InputError(f"{path}: {COMPILED.format('AOTInductor')} ({SOURCES})")
        if not pickles:
            raise InputError(
                f"{path}: is a zip without data.pkl, expected a .model file of mace-torch, a checkpoint of sevenn, or "
                "a .ckpt or .nequip.zip of nequip"
            )
        return any(SEVENN_KEY in archive.read(name) for name in pickles)


def _contains(path: pathlib.Path, key: bytes) -> bool:
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(key) >= 0
