"""Importing the backbones' packages safely."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def quiet_torchscript() -> Iterator[None]:
    """Without the warnings of torch.jit, which e3nn 0.4.4 uses whenever a module is made, loaded or copied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def import_mace():
    """Import mace-torch (and the e3nn 0.4.4 it pins) without weakening torch.load for this process.

    Two obstacles: e3nn 0.4.4 loads its constants with `torch.load`, which torch >= 2.6 refuses unless the
    type `slice` is allowed; and `import mace` sets TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD, which makes every
    later unflagged `torch.load` of the process unsafe. The first is allowed for this import only, the
    second undone. Raises ImportError that says what to install.
    """
    flag = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(flag)
    allow = getattr(torch.serialization, "safe_globals", None)  # absent before torch 2.5, where it is not needed
    try:
        # mace prints a line about cuequivariance, e3nn and mace use torch.jit, which warns: not the user's affair.
        allowed = allow([slice]) if allow else contextlib.nullcontext()
        with contextlib.redirect_stdout(io.StringIO()), quiet_torchscript(), allowed:
            import e3nn  # noqa: F401
            import mace.modules
    except ImportError as error:
        raise ImportError(f'MACE models need mace-torch: pip install "pathtune[mace]" ({error})') from error
    finally:
        if before is None:
            os.environ.pop(flag, None)
        else:
            os.environ[flag] = before
    return mace
