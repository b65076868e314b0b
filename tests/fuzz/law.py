"""What a trial may end in: an InputError of one sentence, or a result that is finite and valid."""

import contextlib
import io
import math
import pathlib
from collections.abc import Mapping

import numpy as np
import torch

from pathtune import InputError
from pathtune.cli import main
from pathtune.training import loop

LONGEST = 2000  # characters of a message
REFUSED, ACCEPTED = "refused", "accepted"
MOST_EPOCHS = 2  # a training that is accepted goes on for so many


class BrokenLawError(AssertionError):
    """The law was broken."""


def is_sentence(text: str, *names: str) -> None:
    """Raise BrokenLawError unless the text is one line of bearable length that holds the names."""
    if not text or "\n" in text or len(text) > LONGEST or "Traceback" in text:
        raise BrokenLawError(f"not one sentence: {text[:300]!r}")
    for name in names:
        if name not in text:
            raise BrokenLawError(f"does not name {name!r}: {text[:300]!r}")


def refused_or(run, *names: str) -> str:
    """REFUSED where `run` raises an InputError that is a sentence with the names; else ACCEPTED, what it must check."""
    try:
        run()
    except InputError as error:
        is_sentence(str(error), *names)
        return REFUSED
    return ACCEPTED


def is_finite(value, at="the result") -> None:
    """Raise BrokenLawError for a number in it that is not finite."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            is_finite(part, f"{at}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            is_finite(part, f"{at}[{i}]")
    elif isinstance(value, torch.Tensor):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise BrokenLawError(f"{at} holds a number that is not finite")
    elif isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise BrokenLawError(f"{at} holds a number that is not finite")
    elif isinstance(value, float) and not math.isfinite(value):
        raise BrokenLawError(f"{at} is {value}")


def command(words: list[str], *statuses: int) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `pathtune WORDS`, in this process.

    Raises BrokenLawError for a status that no mistake has, and for a refusal that is not one sentence. Trainings end
    after MOST_EPOCHS: an option may ask for any number of them.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), short_trainings():
        try:
            status = main(words)
        except SystemExit as ended:  # of argparse: a usage and one sentence, or a help
            status = ended.code
            if status == 2 and not err.getvalue().startswith("usage: pathtune"):
                raise BrokenLawError(f"no usage: {err.getvalue()[:300]!r}") from ended
    lines = err.getvalue().strip().splitlines()
    if status not in (0, 1, 2, *statuses):
        raise BrokenLawError(f"status {status}: {err.getvalue()[:300]!r}")
    if "Traceback" in err.getvalue():
        raise BrokenLawError(f"a traceback: {err.getvalue()[-300:]!r}")
    if status == 2:
        last = lines[-1] if lines else ""
        is_sentence(last if "error: unrecognized arguments" not in last else last[:LONGEST])  # argparse repeats them
        if not last.startswith("pathtune"):
            raise BrokenLawError(f"the last line is {last[:300]!r}")
    return status, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def short_trainings():
    """Every training in here ends after MOST_EPOCHS, as if --patience ended it."""
    original = loop.Loop._is_stale
    loop.Loop._is_stale = lambda self: self.epoch >= MOST_EPOCHS or original(self)
    try:
        yield
    finally:
        loop.Loop._is_stale = original


def scratch(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A folder of that name, which is made."""
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    return place
