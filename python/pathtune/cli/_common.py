"""Flags that several verbs share, made from the options' dataclasses."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Collection
from typing import Any, TypeVar

from pathtune.adapter_file import load_adapter
from pathtune.data import labels
from pathtune.errors import InputError
from pathtune.files import checked_path
from pathtune.forms import read_toml
from pathtune.loading import load
from pathtune.model import Potential
from pathtune.options import fields_of, from_mapping
from pathtune.training.run import ModelOptions
from pathtune.training.stopping import STATUS, StoppedError

T = TypeVar("T")


def add_options(parser: argparse.ArgumentParser, *classes: type, without: Collection[str] = ()) -> None:
    """One flag per field but those `without`; unset flags stay None, so that a config file can set them."""
    for cls in classes:
        group = parser.add_argument_group(cls.__name__)
        for field in [f for f in fields_of(cls) if f.name not in without]:
            default = "" if field.default is None else f" (default {_shown(field.default)})"
            text = (field.help + default).replace("%", "%%")  # argparse formats help texts
            kwargs: dict[str, Any] = {"help": text, "default": None}
            if field.kind is bool:
                kwargs["action"] = argparse.BooleanOptionalAction
            else:
                kwargs["type"] = _parser(field.item if field.kind is tuple else field.kind, field.words)
                kwargs["metavar"] = field.name.upper() if not field.choices else None
                kwargs["choices"] = field.choices
                kwargs["nargs"] = "+" if field.kind is tuple else None
            group.add_argument(f"--{field.name.replace('_', '-')}", **kwargs)


def _parser(kind: type, words: tuple[str, ...]) -> Any:
    """The kind itself, or a function that also lets the words through."""
    if not words:
        return kind

    def parse(text: str):
        return text if text in words else kind(text)

    parse.__name__ = f"{kind.__name__} or {' or '.join(words)}"  # what argparse's message shows
    return parse


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def options_from(args: argparse.Namespace, **sections: type) -> dict[str, Any]:
    """Instances of the dataclasses by section name: the flags over the config file over the defaults.

    A flag is that of the first section with a field of its name.
    """
    file = getattr(args, "config", None)
    tables = read_toml(file) if file else {}
    unknown = set(tables) - set(sections)
    if unknown:
        raise InputError(f"{file}: unknown section {sorted(unknown)[0]!r}, expected one of {', '.join(sections)}")
    result = {}
    taken: set[str] = set()
    for name, cls in sections.items():
        values = dict(tables.get(name, {}))
        for field in [f for f in fields_of(cls) if f.name not in taken]:
            taken.add(field.name)
            flag = getattr(args, field.name, None)
            if flag is not None:
                values[field.name] = tuple(flag) if isinstance(flag, list) else flag
        result[name] = from_mapping(cls, values, f"{file}, [{name}]" if file else "options")
    return result


def load_model(options: ModelOptions, adapter: str | None = None) -> Potential:
    """The model that the flags name, with its adapter if any."""
    if options.model is None:
        raise InputError("--model is missing, expected a .model or checkpoint file or a known name")
    model = load(options.model, options.dtype, options.head, options.backend, options.device)
    return load_adapter(model, adapter) if adapter else model


def required(value: T | None, flag: str, what: str) -> T:
    """The value of a flag that must be given."""
    if value is None:
        raise InputError(f"{flag} is missing, expected {what}")
    return value


def new_file(value: str | None) -> pathlib.Path:
    """The file of --out. Raises InputError where it is missing or exists already: nothing is overwritten."""
    out = checked_path(required(value, "--out", "a file to write"))
    if out.exists():
        raise InputError(f"{out}: exists already, expected a new file")
    return out


def interrupted(verb: str, stop: BaseException, command: str) -> int:
    """Say that `command` goes on where Ctrl-C or SIGTERM ended a verb; the exit status of that."""
    print(f"pathtune {verb}: {str(stop) or 'interrupted'}; {command} goes on from here", file=sys.stderr)
    return STATUS if isinstance(stop, StoppedError) else 130


def print_json(value: Any) -> None:
    """For machines: one JSON document on standard output."""
    json.dump(value, sys.stdout, indent=1)
    print()


def score_lines(scores: dict[str, Any]) -> list[str]:
    """Errors for a person to read."""
    return [
        f"{label.word + ' MAE':12s} {scores[label.mae_key]:10.3f}, "
        f"RMSE {scores[label.rmse_key]:10.3f} {label.report_unit}"
        for label in labels()
        if label.mae_key in scores
    ]
