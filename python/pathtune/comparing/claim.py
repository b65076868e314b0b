"""What a comparison's folder is bound to: options, model and structures; and what a later call may ask anew of it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from pathtune.comparing.arms import Plan
from pathtune.errors import InputError
from pathtune.files import checked_path, read_text, write_text
from pathtune.forms import read_json, read_toml
from pathtune.options import to_toml

GROWING = ("arms", "active_share", "rank", "seeds", "n_rates", "more_rates", "lrs")  # what a later call may change
FREE = {"out": None, "jobs": 1}  # what no run depends on


def is_finished(folder: pathlib.Path, plan: Plan) -> bool:
    """Whether the folder holds the result that is asked for; nothing is written.

    Raises InputError where it holds something else, or runs with other options than those of GROWING.
    """
    file, text = folder / "compare.toml", _text(plan)
    if checked_path(folder).exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, expected a folder for the comparison")
    if not file.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder}: is not empty and holds no comparison, expected a new folder")
        return False
    if read_text(file) == text:
        return (folder / "compare.json").exists()
    if (folder / "runs").exists() and _bound(read_toml(file)) != _bound(tomllib.loads(text)):
        raise InputError(
            f"{folder}: holds a comparison with other options ({file}), expected the same but for "
            f"{', '.join(GROWING)}, with the same first seed, or a new folder"
        )
    return False


def claim(folder: pathlib.Path, plan: Plan, content: Mapping[str, str], reference: str) -> str:
    """Write into the folder what its runs will be of, and return the arm whose seconds the others get.

    `content`: hashes of the model and of each set of structures, by name; `reference`: the key of that arm, unless an
    earlier call has said another. Raises InputError where runs that are there are of another model or other structures.
    """
    file, text, has_runs = folder / "content.json", _text(plan), (folder / "runs").exists()
    kept = read_json(file, {...: str}) if file.exists() and has_runs else {}
    for name, digest in content.items():
        if kept.get(name, digest) != digest:
            words = "of another model" if name == "model" else f"with other {name} structures"
            raise InputError(f"{folder}: holds runs {words} than those given now, expected the same or a new folder")
    reference = kept.get("reference", reference)
    if (folder / "compare.toml").exists() and read_text(folder / "compare.toml") != text:
        (folder / "compare.json").unlink(missing_ok=True)
        if not has_runs:
            (folder / "costs.json").unlink(missing_ok=True)
    write_text(file, json.dumps({**content, "reference": reference}, indent=1) + "\n")
    write_text(folder / "compare.toml", text)
    return reference


def _text(plan: Plan) -> str:
    """The options as a file holds them, without those that no run depends on."""
    return to_toml(**dataclasses.replace(plan, compare=dataclasses.replace(plan.compare, **FREE)).sections())


def _bound(sections: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in all calls on one folder: options that are not of GROWING, and the first seed."""
    asked = sections.get("compare", {})
    same = {name: value for name, value in asked.items() if name not in GROWING}
    return sections | {"compare": same | {"first_seed": asked.get("seeds", [None])[:1]}}
