"""What a file that was read must hold: plain values of the right types under the right keys."""

from __future__ import annotations

import json
import math
import numbers
import pathlib
import tomllib
from typing import Any

from pathtune.errors import InputError
from pathtune.files import read_text, shown

NAMES = {
    numbers.Real: "a number",
    float: "a finite number",
    int: "an integer",
    str: "a text",
    list: "a list",
    dict: "a table",
    bool: "a truth value",
}


def check_form(value: Any, form: Any, where: str, at: str = "the content") -> None:
    """Raise InputError, which names the file `where` and the place `at` in it, unless `value` has the form.

    A form is a type (`float`: a finite number, integers too; `object`: anything), a tuple of forms one of which must
    fit, a list of one form for every element, or a dict of forms by key, all of them required; `...` as a key is any.
    Every other form is a value to be equal to.
    """
    if isinstance(form, list) and isinstance(value, list):
        for i, element in enumerate(value):
            check_form(element, form[0], where, f"{at}[{i}]")
    elif isinstance(form, dict) and isinstance(value, dict):
        for key in form if ... not in form else value:
            if key not in value:
                raise InputError(f"{where}: {at} lacks {key!r}, expected {', '.join(map(repr, form))}")
            check_form(value[key], form.get(key, form.get(...)), where, f"{at}[{shown(key)}]")
    elif not _is(value, form):
        raise InputError(f"{where}: {at} is {shown(value)}, expected {_name(form)}")


def from_json(text: str, form: Any, where: str, at: str = "the content") -> Any:
    """The value of a JSON text. Raises InputError for what is not JSON, and as check_form."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: {at} is {shown(text)}, expected JSON ({error})") from error
    check_form(value, form, where, at)
    return value


def read_json(file: str | pathlib.Path, form: Any) -> Any:
    """The value of a JSON file. Raises InputError as read_text and from_json."""
    return from_json(read_text(file), form, str(file))


def read_toml(file: str | pathlib.Path) -> dict[str, Any]:
    """A TOML file; InputError as read_text, and when it is not TOML."""
    try:
        return tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file}: is not TOML ({error})") from error


def _is(value: Any, form: Any) -> bool:
    if isinstance(form, tuple):
        return any(_is(value, f) for f in form)
    if form is float and isinstance(value, float):
        return math.isfinite(value)
    if form in (int, float):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(form, type):
        return isinstance(value, form)
    return type(value) is type(form) and value == form


def _name(form: Any) -> str:
    if isinstance(form, tuple):
        return " or ".join(_name(f) for f in form)
    kind = form if isinstance(form, type) else type(form) if isinstance(form, (list, dict)) else None
    return NAMES.get(kind, kind.__name__) if kind else repr(form)
