"""`load` and `save`: from names and files to potentials, and back to plain models."""

from __future__ import annotations

import io
import pathlib

import torch

from pathtune.backbones._file_kind import holds_nequip, holds_nequix, holds_sevennet
from pathtune.errors import InputError
from pathtune.files import checked_path, write_atomically
from pathtune.model import Potential
from pathtune.ops import cuda_status

DTYPES = {"float32": torch.float32, "float64": torch.float64}
ONE_HEAD = {"nequix": "a nequix model", "nequip": "a NequIP"}


def load(
    source: str | pathlib.Path | torch.nn.Module,
    dtype: str | None = None,
    head: str | None = None,
    backend: str = "auto",
    device: str = "cpu",
    radial_tables: bool = True,
) -> Potential:
    """A pretrained potential from a file, a module, or a name.

    "demo": the small MACE that comes with pathtune (H C N O, GFN2-xTB; demo/pretrain.py made it).
    MACE: a `.model` file of mace-torch, a folder of `export`, or a name mace can download. SevenNet: a checkpoint of
    sevenn, or `sevennet:7net-0`, `sevennet:7net-l3i5`, `sevennet:7net-mf-0:PBE`, which lie inside its wheel. nequix: a
    `.nqx` file, also as `nequix:FILE`. NequIP: a `.ckpt` or `.nequip.zip` of nequip, also as `nequip:FILE`. `dtype`:
    float32 or float64, the file's own by default. `head`: for a multi-head MACE, its first by default; a SevenNet's
    modality. `device`: where it computes: cpu, cuda, or cuda:1.
    `backend`: auto (our kernels where they cover the model), cpu (these or an error), reference (the package's own
    forward), cueq (a MACE with cuEquivariance's products, on cuda, after a comparison with mace's).
    `radial_tables`: whether our kernels on a CPU may read the radial functions of a float32 model, where they are not
    trained, from tables. A module is copied. Files of MACE and SevenNet are pickles, which can run code when they are
    loaded: name only files you trust; a `.nqx`, a file of nequip and a folder run nothing. Raises InputError for what
    it cannot load and for a device that is not there, ImportError that says what to install when the backbone's package
    is missing.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected float32 or float64")
    if not isinstance(source, torch.nn.Module):
        checked_path(source)
    place = _checked_device(device, backend)
    precision = DTYPES[dtype] if dtype else None
    package = _package(source)
    if backend == "cueq" and package != "mace":
        raise InputError("backend is 'cueq', which is for MACE only, expected auto, cpu or reference")
    if package in ONE_HEAD and head not in (None, "Default"):
        raise InputError(f"head is {head!r}, expected none: {ONE_HEAD[package]} has one only")
    if package == "nequix":
        from pathtune.backbones.nequix import load_nequix

        return _on_device(Potential(load_nequix(source, precision, backend, radial_tables)), place)
    if package == "nequip":
        from pathtune.backbones.nequip import load_nequip

        return _on_device(Potential(load_nequip(source, precision, backend, radial_tables)), place)
    if package == "sevenn":
        from pathtune.backbones.sevennet import load_sevennet

        return _on_device(Potential(load_sevennet(source, precision, head, backend, radial_tables)), place)
    from pathtune.backbones.mace import load_mace

    backbone = load_mace(source, precision, backend, radial_tables, place)
    if head is not None and head not in backbone.heads:
        raise InputError(f"head is {head!r}, expected one of {', '.join(backbone.heads)}")
    return _on_device(Potential(backbone, backbone.heads.index(head) if head else 0), place)


def _checked_device(device: str, backend: str) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}, expected cpu, cuda or cuda:N")
    if backend == "cueq" and place.type != "cuda":
        raise InputError(f"backend is 'cueq', but device is {device!r}, expected cuda: its kernels need one")
    if place.type == "cuda":
        if backend == "cpu":
            raise InputError(f"device is {device!r}, but backend is 'cpu', expected auto or reference with it")
        reason = cuda_status() if backend == "auto" or not torch.cuda.is_available() else ""
        if reason:
            raise InputError(f"device is {device!r}, but {reason}")
    return place


def _on_device(model: Potential, device: torch.device) -> Potential:
    model.backbone.stock.to(device)  # its Parameters stay the same objects
    return model.to(device)


def save(module: torch.nn.Module, file: str | pathlib.Path) -> None:
    """Write a merged model as the file that its own package loads: MACE a `.model`, SevenNet a checkpoint,
    nequix a `.nqx`, NequIP a `.ckpt`."""
    if isinstance(module, Potential):
        raise InputError(f"{file}: is to hold a plain model, but got a Potential: merge it first")
    package = _package(module)
    buffer = io.BytesIO()  # torch.save has errors of its own where a disk is full
    if package == "nequix":
        from pathtune.backbones.nequix import nqx_of

        buffer.write(nqx_of(module))
    elif package == "nequip":
        from pathtune.backbones import nequip

        torch.save(nequip.checkpoint_of(module), buffer)
    elif package == "sevenn":
        from pathtune.backbones import sevennet

        torch.save(sevennet.checkpoint_of(module), buffer)
    else:
        torch.save(module, buffer)
    write_atomically(pathlib.Path(file), lambda stream: stream.write(buffer.getbuffer()))


def export(module: torch.nn.Module, folder: str | pathlib.Path) -> None:
    """Write a merged MACE as a folder of constructor arguments and safetensors, which `load` reads: no pickle.

    Raises InputError for a folder that exists, for a model of another package, and for options that constructor
    arguments do not tell.
    """
    if isinstance(module, Potential):
        raise InputError(f"{folder}: is to hold a plain model, but got a Potential: merge it first")
    if (package := _package(module)) != "mace":
        name = {"sevenn": "SevenNet", "nequix": "nequix model", "nequip": "NequIP"}[package]
        raise InputError(f"{folder}: is to hold a {name}, expected a MACE (save writes the file of a {name})")
    from pathtune.backbones._mace_folder import write_folder

    write_folder(module, checked_path(folder))


def _package(source: str | pathlib.Path | torch.nn.Module) -> str:
    """mace, sevenn, nequix or nequip: whose a name, file or module is; a file is not loaded for it, only searched."""
    if isinstance(source, torch.nn.Module):
        module = type(source).__module__
        if module == "pathtune.backbones.nequix_plain":
            return "nequix"
        owner = module.split(".")[0]
        return owner if owner in ("sevenn", "nequip") else "mace"
    if str(source).startswith("nequix:") or holds_nequix(pathlib.Path(source)):
        return "nequix"
    if str(source).startswith(("nequip:", "nequip.net:")) or holds_nequip(pathlib.Path(source)):
        return "nequip"
    return "sevenn" if str(source).startswith("sevennet:") or holds_sevennet(pathlib.Path(source)) else "mace"
