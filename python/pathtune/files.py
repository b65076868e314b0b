"""Files: reading text, and writing so that nothing is ever half written."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import reprlib
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from pathtune.errors import InputError

MOST_NAMES, MOST_CHARACTERS = 20, 60  # of each, in a message


def shown(value: Any) -> str:
    """Its repr for a message, on one line, a long one shortened."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = 100
    return " ".join(shortened.repr(value).split())


def shown_names(names: Iterable[Any]) -> str:
    """Names for a message, with commas; of many the first, and long ones shortened."""
    texts = [text if len(text := str(name)) <= MOST_CHARACTERS else shown(text) for name in names]
    more = f", and {len(texts) - MOST_NAMES} more" if len(texts) > MOST_NAMES else ""
    return ", ".join(texts[:MOST_NAMES]) + more


def checked_path(file: str | pathlib.Path) -> pathlib.Path:
    """The path. Raises InputError for one that no file can have: too long, or with a NUL."""
    try:
        os.lstat(file)
    except ValueError as error:
        raise InputError(
            f"{shown(str(file))}: holds a character that no path can hold, expected the path of a file"
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{shown(str(file))}: is too long for a path, expected a shorter one") from error
    return pathlib.Path(file)


def with_an_end(file: str | pathlib.Path) -> pathlib.Path:
    """The path. Raises InputError as checked_path, and for a device, which may be read for ever."""
    path = checked_path(file)
    if path.is_char_device():
        raise InputError(f"{file}: is a device, expected a file")
    return path


def read_bytes(file: str | pathlib.Path) -> bytes:
    """The content of a file. Raises InputError when it is missing, a folder, unreadable, or a device without an end."""
    try:
        return with_an_end(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error


def read_text(file: str | pathlib.Path) -> str:
    """The text of a file in UTF-8. Raises InputError as read_bytes, and when it is not UTF-8."""
    try:
        return read_bytes(file).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not text in UTF-8 ({error.reason} at byte {error.start})") from error


def write_atomically(file: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    `write` raises nothing but OSError: whatever packs a file, as torch.save does, packs in memory first. Raises
    InputError when the file cannot be written: no such folder can be made, it may not be written to, the disk is full.
    """
    checked_path(file)
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
    """write_atomically for text, in UTF-8."""
    write_atomically(file, lambda stream: stream.write(text.encode()))
