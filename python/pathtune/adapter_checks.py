"""What an adapter file must hold before anything of it is used (docs/adapter-format.md)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from pathtune.errors import InputError
from pathtune.files import shown
from pathtune.forms import from_json

FORMAT = "2"
FORMATS = ("1", FORMAT)  # those that are read
LAST_ELEMENT = 118
MOST_CHARACTERS = 1_000_000  # of one item of the metadata
LONGEST_NAME = 100  # of a component, kind or backbone
TYPES = (torch.float16, torch.float32, torch.float64, torch.bool, torch.uint8) + (
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)
E0 = ("e0.atomic_numbers", "e0.shift_ev")
FINGERPRINT = "fingerprint."
COMMON = ("e0.", FINGERPRINT)  # how the names of the tensors begin that belong to no component

# Items of the metadata that are JSON, with their forms, and those that are texts.
TABLES = {
    "atomic_numbers": [int],
    "elements": [int],
    "shapes": {...: [int]},
    "counts": {...: float},
    "training": {...: object},
}
COMPONENTS = [{"name": str, "kind": str}]
TEXTS = ("backbone", "head", "n_species", "r_max")


@dataclasses.dataclass(frozen=True)
class About:
    """What the metadata of an adapter file say."""

    backbone: str
    r_max: float  # A
    n_species: int
    elements: tuple[int, ...]
    shapes: Mapping[str, Sequence[int]]
    components: tuple[tuple[str, str], ...]  # how the names of its tensors begin, and its kind


def check_types(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], where: str) -> None:
    """Raise InputError for a format that is not read and a tensor of a type that has no checksum."""
    if metadata.get("format") not in FORMATS:
        known = " or ".join(repr(f) for f in FORMATS)
        raise InputError(f"{where}: has adapter format {shown(metadata.get('format'))}, expected {known}")
    for name, tensor in tensors.items():
        if tensor.dtype not in TYPES:
            raise InputError(
                f"{where}: {shown(name)} is of type {tensor.dtype}, expected integers, or float16 to float64"
            )


def check_adapter(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], where: str) -> About:
    """What the metadata say. Raises InputError, which names the file `where`, unless all of it is as the format says.

    Only what every adapter has is checked here; each kind checks its own tensors in from_tensors.
    """
    about = _about(metadata, where)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{where}: {shown(name)} holds a number that is not finite, expected finite ones")
        if not name.startswith(COMMON) and not any(name.startswith(prefix) for prefix, _ in about.components):
            raise InputError(f"{where}: holds a tensor {shown(name)}, expected only those of its components")
    _check_e0(tensors, about, where)
    named = {name.removeprefix(FINGERPRINT) for name in tensors if name.startswith(FINGERPRINT)}
    for name in sorted(named ^ set(about.shapes)):
        raise InputError(f"{where}: {shown(name)} is in only one of fingerprint and shapes, expected it in both")
    for name in named:
        tensor = tensors[FINGERPRINT + name]
        if not tensor.is_floating_point() or tensor.dim() != 2 or tensor.shape[1] != 2:
            raise InputError(
                f"{where}: the fingerprint of {shown(name)} is {list(tensor.shape)}, expected numbers [n, 2]"
            )
    return about


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a component, whose names begin with `prefix`, without it; format 1 has none."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and (prefix or not name.startswith(COMMON))
    }


def _about(metadata: Mapping[str, str], where: str) -> About:
    tables = TABLES if metadata["format"] == "1" else {**TABLES, "components": COMPONENTS}
    for name in (*TEXTS, *tables):
        if name not in metadata:
            raise InputError(f"{where}: the metadata lack {name!r}")
        if len(metadata[name]) > MOST_CHARACTERS:
            raise InputError(
                f"{where}: {name} has {len(metadata[name])} characters, expected at most {MOST_CHARACTERS}"
            )
    found = {name: from_json(metadata[name], form, where, name) for name, form in tables.items()}
    for name in ("atomic_numbers", "elements"):
        _check_elements(found[name], name, where)
    unknown = set(found["elements"]) - set(found["atomic_numbers"])
    if unknown:
        raise InputError(f"{where}: elements has {min(unknown)}, expected some of its atomic_numbers")
    if not metadata["backbone"].isprintable() or len(metadata["backbone"]) > LONGEST_NAME:
        raise InputError(f"{where}: backbone is {shown(metadata['backbone'])}, expected the name of a class")
    n_species = len(found["atomic_numbers"])
    if metadata["n_species"] != str(n_species):
        raise InputError(
            f"{where}: n_species is {shown(metadata['n_species'])}, expected {n_species} as atomic_numbers"
        )
    return About(
        backbone=metadata["backbone"],
        r_max=_cutoff(metadata["r_max"], where),
        n_species=n_species,
        elements=tuple(found["elements"]),
        shapes=found["shapes"],
        components=_components(found["components"], where) if "components" in found else (("", "sparse"),),
    )


def _check_elements(numbers: Sequence[int], name: str, where: str) -> None:
    if not 0 < len(numbers) <= LAST_ELEMENT:
        raise InputError(f"{where}: {name} has {len(numbers)} elements, expected 1 to {LAST_ELEMENT}")
    if len(set(numbers)) < len(numbers) or min(numbers) < 1 or max(numbers) > LAST_ELEMENT:
        raise InputError(f"{where}: {name} is {list(numbers)}, expected each of 1 to {LAST_ELEMENT} at most once")


def _cutoff(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{where}: r_max is {shown(text)}, expected a cutoff in A")
    return value


def _components(found: Sequence[Mapping[str, str]], where: str) -> tuple[tuple[str, str], ...]:
    if not 0 < len(found) <= LAST_ELEMENT:
        raise InputError(f"{where}: has {len(found)} components, expected 1 to {LAST_ELEMENT}")
    for text in (text for component in found for text in component.values()):
        if isinstance(text, str) and len(text) > LONGEST_NAME:
            raise InputError(f"{where}: components has {shown(text)}, expected at most {LONGEST_NAME} characters")
    prefixes = [component["name"] + "." for component in found]
    for i, prefix in enumerate(prefixes):
        others = (*COMMON, *prefixes[:i], *prefixes[i + 1 :])
        if any(prefix.startswith(other) or other.startswith(prefix) for other in others):
            raise InputError(f"{where}: a component is named {shown(prefix[:-1])}, expected a name of its own")
    return tuple((prefix, component["kind"]) for prefix, component in zip(prefixes, found))


def _check_e0(tensors: Mapping[str, torch.Tensor], about: About, where: str) -> None:
    for name in E0:
        if name not in tensors:
            raise InputError(f"{where}: lacks the tensor {name!r}")
    for name in tensors:
        if name.startswith("e0.") and name not in E0:
            raise InputError(f"{where}: holds a tensor {shown(name)}, expected only {' and '.join(E0)}")
    numbers, shift = (tensors[name] for name in E0)
    if numbers.dtype not in (torch.int32, torch.int64) or numbers.dim() != 1:
        raise InputError(f"{where}: {E0[0]} is {numbers.dtype} {list(numbers.shape)}, expected integers [n]")
    if shift.dtype != torch.float64 or shift.shape != numbers.shape:
        raise InputError(
            f"{where}: {E0[1]} is {shift.dtype} {list(shift.shape)}, expected float64 {list(numbers.shape)}"
        )
    if numbers.numel():
        _check_elements(numbers[: LAST_ELEMENT + 1].tolist(), E0[0], where)
