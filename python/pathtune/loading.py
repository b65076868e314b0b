"""`load` and `save`: from names and files to potentials, and back to plain models."""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

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
    """A pretrained potential from a file, a module, or a name.

    "demo": the small MACE that comes with pathtune (H C N O, GFN2-xTB; demo/pretrain.py made it).
    MACE: a `.model` file of mace-torch, or a name mace can download. SevenNet: a checkpoint of sevenn, or
    `sevennet:7net-0`, `sevennet:7net-l3i5`, `sevennet:7net-mf-0:PBE`, which lie inside its wheel. `dtype`: float32
    or float64, the file's own by default. `head`: for a multi-head MACE, its first by default; a SevenNet's
    modality. A module is copied. Both kinds of file are pickles, which can run code when they are loaded: name
    only files you trust. Raises InputError for what it cannot load, ImportError that says what to install when
    the backbone's package is missing.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected float32 or float64")
    precision = DTYPES[dtype] if dtype else None
    if _is_sevennet(source):
        from pathtune.backbones.sevennet import load_sevennet

        return Potential(load_sevennet(source, precision, head, backend))
    from pathtune.backbones.mace import load_mace

    backbone = load_mace(source, precision, backend)
    if head is not None and head not in backbone.heads:
        raise InputError(f"head is {head!r}, expected one of {', '.join(backbone.heads)}")
    return Potential(backbone, backbone.heads.index(head) if head else 0)


def save(module: torch.nn.Module, file: str | pathlib.Path) -> None:
    """Write a merged model as the file that its own package loads: MACE a `.model`, SevenNet a checkpoint."""
    if isinstance(module, Potential):
        raise InputError(f"{file}: is to hold a plain model, but got a Potential: merge it first")
    content: Any = module
    if _is_sevennet(module):
        from pathtune.backbones.sevennet import checkpoint_of

        content = checkpoint_of(module)
    write_atomically(pathlib.Path(file), lambda stream: torch.save(content, stream))


def _is_sevennet(source: str | pathlib.Path | torch.nn.Module) -> bool:
    """Whether a name, file or module is sevenn's; a file is not loaded for it, only searched."""
    if isinstance(source, torch.nn.Module):
        return type(source).__module__.split(".")[0] == "sevenn"
    if str(source).startswith("sevennet:"):
        return True
    if not pathlib.Path(source).is_file() or not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:  # as torch.save writes: the pickle, and one file for each tensor
        return any(b"model_state_dict" in archive.read(name) for name in archive.namelist() if name.endswith(".pkl"))
