"""Importing the backbones' packages safely."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch

UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextlib.contextmanager
def quiet_torchscript() -> Iterator[None]:
    """Without the warnings of torch.jit, which e3nn 0.4.4 uses whenever a module is made, loaded or copied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """With this precision of new tensors: e3nn and its kin round 3j symbols to it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def safe_torch_load() -> Iterator[None]:
    """Undo what mace's modules do at import: set the variable that makes unflagged torch.load unsafe."""
    before = os.environ.get(UNSAFE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(UNSAFE, None)
        else:
            os.environ[UNSAFE] = before


def import_mace():
    """Import mace-torch (and the e3nn 0.4.4 it pins) without weakening torch.load for this process.

    Two obstacles: e3nn 0.4.4 loads its constants with `torch.load`, which torch >= 2.6 refuses unless the
    type `slice` is allowed; and `import mace` sets TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD. The first is allowed
    for this import only, the second undone. Raises ImportError that says what to install.
    """
    allow = getattr(torch.serialization, "safe_globals", None)  # absent before torch 2.5, where it is not needed
    allowed = allow([slice]) if allow else contextlib.nullcontext()
    try:
        # mace prints a line about cuequivariance, e3nn and mace use torch.jit, which warns: not the user's affair.
        with safe_torch_load(), contextlib.redirect_stdout(io.StringIO()), quiet_torchscript(), allowed:
            import e3nn  # noqa: F401
            import mace.modules
    except ImportError as error:
        raise ImportError(
            "MACE models need mace-torch: pip install mace-torch==0.3.16, in an environment without sevenn, "
            f"which needs another e3nn ({error})"
        ) from error
    return mace


SEVENN = "0.13"  # versions 0.13.x


def import_sevenn():
    """Import sevenn (and the e3nn it needs). Raises ImportError that says what to install."""
    try:
        with safe_torch_load(), contextlib.redirect_stdout(io.StringIO()), quiet_torchscript():
            import sevenn
            import sevenn.checkpoint
            import sevenn.util
    except ImportError as error:
        raise ImportError(
            "SevenNet models need sevenn: pip install sevenn==0.13.0, in an environment without mace-torch, "
            f"which needs another e3nn ({error})"
        ) from error
    if not f"{sevenn.__version__}.".startswith(f"{SEVENN}."):
        raise ImportError(f"SevenNet models need sevenn {SEVENN}, but {sevenn.__version__} is installed")
    return sevenn


def import_e3nn():
    """Import e3nn, of any version from 0.4.4 on. Raises ImportError that says what to install."""
    allow = getattr(torch.serialization, "safe_globals", None)  # as for mace
    allowed = allow([slice]) if allow else contextlib.nullcontext()
    try:
        with quiet_torchscript(), allowed:
            import e3nn.o3
    except ImportError as error:
        raise ImportError(
            f"nequix models need e3nn: pip install e3nn; that of mace-torch or sevenn does ({error})"
        ) from error
    return e3nn


NEQUIP = "0.19"  # versions 0.19.x


def import_nequip() -> Any:
    """Import nequip (and the e3nn it needs). Raises ImportError that says what to install."""
    try:
        with safe_torch_load(), contextlib.redirect_stdout(io.StringIO()), quiet_torchscript():
            nequip: Any = importlib.import_module("nequip")
            importlib.import_module("nequip.model")
    except ImportError as error:
        raise ImportError(
            "NequIP models need nequip: pip install nequip==0.19.1, in an environment without mace-torch, "
            f"which needs another e3nn ({error})"
        ) from error
    if not f"{nequip.__version__}.".startswith(f"{NEQUIP}."):
        raise ImportError(f"NequIP models need nequip {NEQUIP}, but {nequip.__version__} is installed")
    return nequip


def import_cueq() -> tuple[Any, Any]:
    """cuequivariance and cuequivariance_torch. Raises ImportError that says what to install."""
    try:
        return importlib.import_module("cuequivariance"), importlib.import_module("cuequivariance_torch")
    except ImportError as error:
        raise ImportError(
            "backend cueq needs cuequivariance-torch: pip install cuequivariance-torch==0.13.0, in an environment of "
            f"its own, with cuequivariance-ops-torch-cu12 for its kernels ({error})"
        ) from error
