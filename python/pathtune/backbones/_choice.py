"""Which forward computes: a backbone's own, on our kernels, or the stock model's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from pathtune.data import Request
from pathtune.errors import InputError


def refuse_terms(request: Request, backend: str = "reference") -> None:
    """Raise InputError for what reads the final features, which a stock forward does not give."""
    if request.terms or request.predictors:
        reason = "an adaptation adds a term to the energy" if request.terms else "an adaptation predicts an output"
        raise InputError(f"backend is {backend!r}, but {reason}, expected 'auto' or 'cpu'")


def choose(backend: str, unsupported: Callable[[], str | None], own: Callable[[], Any]) -> tuple[str, Any]:
    """The backend in force and its forward, None for `reference`.

    `unsupported` says in words what the own forward does not cover. Raises InputError for an unknown backend,
    and for `cpu` where something is not covered; `auto` then warns and falls back.
    """
    if backend not in ("auto", "cpu", "reference"):
        raise InputError(f"backend is {backend!r}, expected auto, cpu, reference or cueq")
    if backend == "reference":
        return backend, None
    reason = unsupported()
    if reason is None:
        return "cpu", own()
    message = f"the cpu backend does not cover {reason}"
    if backend == "cpu":
        raise InputError(f"backend is 'cpu', but {message}, expected 'auto' or 'reference'")
    warnings.warn(f"pathtune: {message}: falling back to the stock forward", stacklevel=5)
    return "reference", None
