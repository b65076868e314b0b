"""Models of mace-torch from files and names, in the layout of e3nn: converted and merged where they are not."""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from pathtune.backbones._mace_folder import read_folder
from pathtune.backbones._mace_stock import stock_mace
from pathtune.backbones._packages import quiet_torchscript, safe_torch_load
from pathtune.data import SHIPPED
from pathtune.errors import InputError

ACCELERATORS = {"cueq_config": "cuEquivariance", "oeq_config": "OpenEquivariance"}


def read_mace(source: str) -> torch.nn.Module:
    """The model of a file, a folder, or a name; InputError as load_mace."""
    path = pathlib.Path(source)
    if source == SHIPPED.name:
        return _load_shipped(SHIPPED)
    return read_folder(path) if path.is_dir() else _load_file(_find(source))


def converted(stock: torch.nn.Module, where: str) -> torch.nn.Module:
    """The same model with e3nn's modules only: low-rank adapters of mace merged, other layouts turned back.

    By mace's own functions. Raises InputError where they cannot.
    """
    if isinstance(stock, torch.jit.ScriptModule):
        raise InputError(f"{where}: is a compiled (TorchScript) model, whose weights cannot be tuned, expected a MACE")
    from mace.modules.lora import LoRADenseLinear, LoRAFCLayer, LoRAO3Linear, merge_lora_weights

    if any(isinstance(module, (LoRADenseLinear, LoRAFCLayer, LoRAO3Linear)) for module in stock.modules()):
        stock = merge_lora_weights(stock)
    for config, name in ACCELERATORS.items():
        if any(getattr(getattr(module, config, None), "enabled", False) for module in stock.modules()):
            stock = _converted_from(stock, config, name, where)
    return stock


def _converted_from(stock: torch.nn.Module, config: str, name: str, where: str) -> torch.nn.Module:
    from mace.cli import convert_cueq_e3nn, convert_oeq_e3nn

    run = {"cueq_config": convert_cueq_e3nn.run, "oeq_config": convert_oeq_e3nn.run}[config]
    try:
        with quiet_torchscript(), _same_dtype_and_quiet(), torch.no_grad():
            result: Any = run(stock, device="cpu", return_model=True)
    except Exception as error:
        raise InputError(
            f"{where}: is a {type(stock).__name__} in the layout of {name}, which mace's own converter refuses "
            f"({type(error).__name__}: {error}), expected the model in e3nn's layout"
        ) from error
    return result


@contextlib.contextmanager
def _same_dtype_and_quiet() -> Iterator[None]:
    """mace's converters set torch's default precision, and log."""
    before, level = torch.get_default_dtype(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        logging.disable(level)


def _load_shipped(folder: pathlib.Path) -> torch.nn.Module:
    """The model of demo/pretrain.py: constructor arguments as JSON, weights as safetensors; nothing is executed."""
    try:
        arguments = json.loads((folder / "model.json").read_text())["constructor"]
        weights = safetensors.torch.load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: the shipped model cannot be read ({error}), reinstall pathtune") from error
    stock = stock_mace(**arguments)
    stock.load_state_dict(weights, strict=True)
    return stock


def _find(source: str) -> pathlib.Path:
    if pathlib.Path(source).is_file():
        return pathlib.Path(source)
    with safe_torch_load(), quiet_torchscript():
        from mace.calculators import foundations_models

    names = [n for n in foundations_models.mace_mp_names if n]
    if source in names:
        try:
            return pathlib.Path(foundations_models.download_mace_mp_checkpoint(source))
        except Exception as error:
            raise InputError(f"{source}: mace's download failed ({error}); name a .model file instead") from error
    known = ", ".join([SHIPPED.name, *names])
    raise InputError(f"{source}: no such file, and no model that comes with pathtune or mace downloads ({known})")


def _load_file(path: pathlib.Path) -> torch.nn.Module:
    try:
        with quiet_torchscript():
            stock = torch.load(path, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        hint = f"pip install {name.replace('_', '-')}, expected it" if name else "expected that package"
        raise InputError(f"{path}: was saved with the package {name}, which is not installed: {hint}") from error
    except Exception as error:
        raise InputError(f"{path}: not a MACE model file ({type(error).__name__}: {error})") from error
    if not isinstance(stock, torch.nn.Module):
        raise InputError(f"{path}: holds a {type(stock).__name__}, expected a MACE model")
    return stock
