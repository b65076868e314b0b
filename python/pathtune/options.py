"""Options live in frozen keyword-only dataclasses; a field's help is also the command line's."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pathtune.errors import InputError


def option(
    default: Any,
    help: str,
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] | None = None,
    words: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its help text; `choices`: the allowed words, or a function that gives them when they are
    needed; `words`: those allowed beside a number."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "words": words})


def choices_of(field: dataclasses.Field) -> tuple[str, ...] | None:
    """The allowed words of a field, None where any are."""
    choices = field.metadata.get("choices")
    return choices() if callable(choices) else choices


def check_choices(config: Any) -> None:
    """Raise InputError for a field whose value, or one of whose values, is not among its choices."""
    for field in dataclasses.fields(config):
        choices = choices_of(field)
        given = getattr(config, field.name)
        for value in given if isinstance(given, tuple) else (given,):
            if choices and value is not None and value not in choices:
                raise InputError(f"{field.name} is {value!r}, expected one of {', '.join(choices)}")


def check_positive(config: Any, *names: str) -> None:
    """Raise InputError unless the named fields are numbers above zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{name} is {getattr(config, name)}, expected a number above 0")


def value_type(field_type: Any) -> type:
    """The plain type of an annotation such as `float | None` or `tuple[str, ...]`."""
    if typing.get_origin(field_type) in (typing.Union, types.UnionType):
        return value_type(next(t for t in typing.get_args(field_type) if t is not type(None)))
    return typing.get_origin(field_type) or field_type


def from_mapping(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of the dataclass `cls` from a table of a TOML file; InputError names an unknown key."""
    hints = typing.get_type_hints(cls)
    known = {field.name: field.metadata.get("words", ()) for field in dataclasses.fields(cls)}
    arguments = {}
    renamed = getattr(cls, "RENAMED", {})  # keys of older config files
    for key, value in values.items():
        key = renamed.get(key, key)
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}, expected one of {', '.join(known)}")
        expected = value_type(hints[key])
        if expected is tuple and isinstance(value, (list, str)):
            value = (value,) if isinstance(value, str) else tuple(value)
        if expected is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, expected) and value not in known[key]:
            raise InputError(f"{where}: {key} is {value!r}, expected {expected.__name__}")
        arguments[key] = value
    return cls(**arguments)


def to_mapping(config: Any) -> dict[str, Any]:
    """The fields that are set, as TOML can hold them."""
    result = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is not None:
            result[field.name] = list(value) if isinstance(value, tuple) else value
    return result


def to_toml(**sections: Any) -> str:
    """The dataclasses as a config file, one section each."""
    lines = []
    for name, config in sections.items():
        lines.append(f"[{name}]")
        # JSON's strings, numbers, booleans and lists of strings are TOML's too.
        lines += [f"{key} = {json.dumps(value)}" for key, value in to_mapping(config).items()]
        lines.append("")
    return "\n".join(lines)
