"""`load` and `save`: from names and files to potentials, and back to plain models."""

from __future__ import annotations

import pathlib

import torch

from pathtune.errors import InputError
from pathtune.model import Potential
from pathtune.run_folder import write_atomically

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def load(
    source: str | pathlib.Path | torch.nn.Module,
    dtype: str | None = None,
    head: str | None = None,
    backend: str = "auto",
) -> Potential:
    """A pretrained potential from a `.model` file of mace-torch, a module, or a name: "demo" or one mace can download.

    "demo" is the small MACE that comes with pathtune (H C N O, GFN2-xTB; demo/pretrain.py made it).
    `dtype`: float32 or float64, the file's own by default. `head`: for a multi-head model, its first by
    default. A module is copied. A `.model` file is a pickle, which can run code when it is loaded:
    name only files you trust. Raises InputError for what it cannot load, ImportError that says what to
    install when the backbone's package is missing.
    """
    from pathtune.backbones.mace import load_mace

    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected float32 or float64")
    backbone = load_mace(source, DTYPES[dtype] if dtype else None, backend)
    if head is not None and head not in backbone.heads:
        raise InputError(f"head is {head!r}, expected one of {', '.join(backbone.heads)}")
    return Potential(backbone, backbone.heads.index(head) if head else 0)


def save(module: torch.nn.Module, file: str | pathlib.Path) -> None:
    """Write a merged model as the file that its own package loads (for MACE a `.model`)."""
    if isinstance(module, Potential):
        raise InputError(f"{file}: is to hold a plain model, but got a Potential: merge it first")
    write_atomically(pathlib.Path(file), lambda stream: torch.save(module, stream))
