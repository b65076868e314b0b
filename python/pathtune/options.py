"""Options live in frozen keyword-only dataclasses; a field's help is also the command line's."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pathtune.errors import InputError

T = typing.TypeVar("T")
LARGEST_INT = 2**32 - 1  # what seeds and counts may reach
LARGEST = 1e15  # the product of two is a float32


@dataclasses.dataclass(frozen=True)
class Option:
    """One option as the command line and a TOML file know it."""

    name: str
    kind: type  # of its value
    default: Any
    help: str
    choices: tuple[str, ...] | None = None  # the allowed words
    words: tuple[str, ...] = ()  # those allowed beside a number
    item: type = str  # of each value, where there are several
    is_table: bool = False  # several NAME=VALUE, which may be given as a table


def option(
    default: Any,
    help: str,
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] | None = None,
    words: tuple[str, ...] = (),
    is_table: bool = False,
) -> Any:
    """A dataclass field with its help text; `choices`: the allowed words, or a function that gives them when they are
    needed; `words`: those allowed beside a number; `is_table`: several NAME=VALUE, which may be given as a table."""
    about = {"help": help, "choices": choices, "words": words, "is_table": is_table}
    return dataclasses.field(default=default, metadata=about)


def option_group(suffix: str, members: Callable[[], Mapping[str, Option]]) -> Any:
    """A dataclass field that maps names to values, each of which is an option NAME + suffix of its own.

    `members` is asked whenever the options are: a name that is registered later has its option too. The class
    must be decorated with `with_groups`.
    """
    return dataclasses.field(default_factory=dict, hash=False, metadata={"suffix": suffix, "members": members})


def with_groups(cls: type[T]) -> type[T]:
    """Let a dataclass take the options of its groups as keywords of the constructor and answer them as attributes."""
    construct = cls.__init__
    groups = [f for f in dataclasses.fields(cls) if "members" in f.metadata]  # type: ignore

    def initialise(self, **values):
        for group in groups:
            members = group.metadata["members"]()
            suffix = group.metadata["suffix"]
            mapping = {name: member.default for name, member in members.items()} | dict(values.get(group.name, {}))
            for name in members:
                if name + suffix in values:
                    mapping[name] = values.pop(name + suffix)
            unknown = [name for name in mapping if name not in members]
            if unknown:
                raise InputError(f"{group.name}: unknown name {unknown[0]!r}, expected one of {', '.join(members)}")
            values[group.name] = mapping
        construct(self, **values)

    def answer(self, name):
        for group in groups:
            member_name = name.removesuffix(group.metadata["suffix"])
            member = group.metadata["members"]().get(member_name)
            if member is not None and name == member.name:
                return self.__dict__[group.name].get(member_name, member.default)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    cls.__init__ = initialise  # type: ignore
    cls.__getattr__ = answer  # type: ignore
    return cls


def fields_of(cls: type) -> list[Option]:
    """The options of a dataclass, in order, those of its groups one by one."""
    hints = typing.get_type_hints(cls)
    result = []
    for field in dataclasses.fields(cls):
        about = field.metadata
        if "members" in about:
            result += about["members"]().values()
        else:
            kind = value_type(hints[field.name])
            choices: Any = about.get("choices")
            allowed: Any = choices() if callable(choices) else choices
            words, item = about.get("words", ()), item_type(hints[field.name])
            is_table = about.get("is_table", False)
            result.append(
                Option(field.name, kind, field.default, about.get("help", ""), allowed, words, item, is_table)
            )
    return result


def take_tables(config: Any) -> None:
    """Replace tables by their NAME=VALUE where a field may be given as one, before it is checked."""
    for field in fields_of(type(config)):
        given = getattr(config, field.name)
        if field.is_table and isinstance(given, Mapping):
            object.__setattr__(config, field.name, tuple(f"{name}={value}" for name, value in given.items()))


def check_fields(config: Any) -> None:
    """Raise InputError for a field whose value is of another type than its own, not finite, absurdly large, or, like
    each of several values, not among its choices. None is a value only where it is the default."""
    for field in fields_of(type(config)):
        given = getattr(config, field.name)
        is_unset = given is None and field.default is None
        if is_unset or (isinstance(given, str) and given in field.words):
            continue
        if not _is_a(given, field.kind, field.item):
            raise InputError(f"{field.name} is {given!r}, expected {_named(field)}")
        if field.kind is float and not math.isfinite(float(given)):  # type: ignore
            raise InputError(f"{field.name} is {given}, expected a finite number")
        if field.kind is float and abs(float(given)) > LARGEST:  # type: ignore
            raise InputError(f"{field.name} is {given}, expected at most {LARGEST:g}")
        if field.kind is int and abs(int(given)) > LARGEST_INT:  # type: ignore
            raise InputError(f"{field.name} is {given}, expected at most {LARGEST_INT}")
        for value in given if isinstance(given, tuple) else (given,):
            if field.choices and value not in field.choices:
                raise InputError(f"{field.name} is {value!r}, expected one of {', '.join(field.choices)}")


def _named(field: Option) -> str:
    return f"several of type {field.item.__name__}" if field.item is not str else field.kind.__name__


def _is_a(value: Any, kind: type, item: type = str) -> bool:
    """Whether a value is of the kind of an option; a bool is no number, and a tuple holds words, or `item`s."""
    if kind is tuple:
        return isinstance(value, (tuple, list)) and all(_is_a(v, item) for v in value)
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind)


def check_positive(config: Any, *names: str) -> None:
    """Raise InputError unless the named fields are numbers above zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{name} is {getattr(config, name)}, expected a number above 0")


def check_at_most(config: Any, **limits: float) -> None:
    """Raise InputError where a named field that is set is above its limit."""
    for name, limit in limits.items():
        if getattr(config, name) is not None and getattr(config, name) > limit:
            raise InputError(f"{name} is {getattr(config, name)}, expected at most {limit:g}")


def value_type(field_type: Any) -> type:
    """The plain type of an annotation such as `float | None` or `tuple[str, ...]`."""
    if typing.get_origin(field_type) in (typing.Union, types.UnionType):
        return value_type(next(t for t in typing.get_args(field_type) if t is not type(None)))
    return typing.get_origin(field_type) or field_type


def item_type(field_type: Any) -> type:
    """The type of each value of an annotation such as `tuple[float, ...] | None`; str where it is no tuple."""
    if typing.get_origin(field_type) in (typing.Union, types.UnionType):
        return item_type(next(t for t in typing.get_args(field_type) if t is not type(None)))
    return typing.get_args(field_type)[0] if typing.get_origin(field_type) is tuple else str


def from_mapping(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of the dataclass `cls` from a table of a TOML file; InputError names an unknown key."""
    known = {field.name: field for field in fields_of(cls)}
    arguments = {}
    renamed = getattr(cls, "RENAMED", {})  # keys of older config files
    for key, value in values.items():
        key = renamed.get(key, key)
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}, expected one of {', '.join(known)}")
        expected = known[key].kind
        if expected is tuple and isinstance(value, (list, str)):
            value = (value,) if isinstance(value, str) else tuple(value)
        if expected is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_INT:
            value = float(value)
        is_word = isinstance(value, str) and value in known[key].words
        is_table = known[key].is_table and isinstance(value, Mapping)
        if not (is_word or is_table or _is_a(value, expected, known[key].item)):
            raise InputError(f"{where}: {key} is {value!r}, expected {_named(known[key])}")
        arguments[key] = value
    return cls(**arguments)


def to_mapping(config: Any) -> dict[str, Any]:
    """The fields that are set, as TOML can hold them."""
    result = {}
    for field in fields_of(type(config)):
        value = getattr(config, field.name)
        if value is not None:
            result[field.name] = list(value) if isinstance(value, tuple) else value
    return result


def to_toml(**sections: Any) -> str:
    """The dataclasses as a config file, one section each; what is read back is what was given.

    Raises InputError for a text that is not Unicode, such as a path whose bytes are not UTF-8.
    """
    lines = []
    for name, config in sections.items():
        lines.append(f"[{name}]")
        for key, value in to_mapping(config).items():
            lines.append(f"{key} = {_toml(value)}")
            if not _is_unicode(lines[-1]):
                raise InputError(f"{key} is {value!r}, expected a text in UTF-8")
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """A value as TOML has it: as JSON, but for DEL; and Python spells inf and nan as TOML does."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
