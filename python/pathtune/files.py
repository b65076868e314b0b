"""Writing files so that nothing is ever half written."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable
from typing import Any, BinaryIO

from pathtune.errors import InputError


def is_file(path: str | pathlib.Path) -> bool:
    """Whether there is such a file; False for a name that no file can have (too long, with NUL)."""
    try:
        return pathlib.Path(path).is_file()
    except (OSError, ValueError):
        return False


def write_atomically(file: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises InputError when the folder cannot be written to.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):  # nothing was made where nothing can be: the error above says why
            temporary.unlink()


def write_text(file: pathlib.Path, text: str) -> None:
    """write_atomically for text."""
    write_atomically(file, lambda stream: stream.write(text.encode()))
