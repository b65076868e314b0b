"""SIGTERM, as schedulers send it before a job's time is over: the run saves a checkpoint at its next step and ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

STATUS = 128 + signal.SIGTERM


class StoppedError(Exception):
    """The run was asked to stop, and its checkpoint is written."""


class Asked:
    """Whether SIGTERM came."""

    is_asked = False


@contextlib.contextmanager
def on_sigterm() -> Iterator[Asked]:
    """While in here, SIGTERM is only noted. In a thread that takes no signals nothing changes."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(*_: object) -> None:
        asked.is_asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
