"""Adapters: what a fine-tuning changed, in kilobytes. The format is docs/adapter-format.md."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from pathtune.adaptations import Composition, Frozen, Stored, adaptation_class
from pathtune.backbone import compare_fingerprints
from pathtune.errors import InputError
from pathtune.files import write_atomically
from pathtune.model import Potential

FORMAT = "2"
FORMATS = ("1", FORMAT)  # those that are read


def save_adapter(model: Potential, file: str | pathlib.Path, training: Mapping[str, Any] | None = None) -> None:
    """Write what the model's adaptations hold, E0 shifts and the base's fingerprint.

    `training`: a JSON-able summary to keep. Raises InputError for a model without adaptations, and for one with an
    adaptation that no adapter file can hold.
    """
    if not model.is_adapted:
        raise InputError(f"{file}: the model has no adapter to save, expected one from sparsify or load_adapter")
    if not model.adaptation.is_stored:
        raise InputError(
            f"{file}: a model of kind {model.adaptation.kind!r} has no adapter to save, "
            "expected one from sparsify or load_adapter"
        )
    tensors: dict[str, torch.Tensor] = {}
    for name, component in zip(model.adaptation.names(), model.adaptation.parts()):
        mine = component.tensors(model.atomic_numbers)
        tensors |= {f"{name}.{key}": tensor for key, tensor in mine.items()}
    tensors |= _e0_shift(model)
    elements = model.elements or model.atomic_numbers
    for name, block in model.base.fingerprint(elements).items():
        tensors[f"fingerprint.{name}"] = block.float()
    components = [
        {"name": name, "kind": component.kind}
        for name, component in zip(model.adaptation.names(), model.adaptation.parts())
    ]
    metadata = {
        "format": FORMAT,
        "components": json.dumps(components),
        "backbone": model.base.name,
        "r_max": repr(model.base.r_max),
        "n_species": str(len(model.atomic_numbers)),
        "atomic_numbers": json.dumps(model.atomic_numbers),
        "elements": json.dumps(elements),
        "shapes": json.dumps(model.base.shapes()),
        "head": model.base.heads[model.head],
        "counts": json.dumps(model.counts()),
        "training": json.dumps(dict(training or {})),
    }
    metadata["checksum"] = checksum(tensors, metadata)
    payload = safetensors.torch.save(tensors, metadata)
    write_atomically(pathlib.Path(file), lambda stream: stream.write(payload))


def load_adapter(base: Potential, file: str | pathlib.Path) -> Potential:
    """A new Potential: `base`, which is not changed, with the adapter of `file`, frozen.

    Raises InputError when the file is missing, truncated or altered, of another format or with a kind of adaptation
    that is not registered, or was made for another model than `base` (fingerprints are compared with a tolerance,
    after undoing mace's rescaling of reduced element tables).
    """
    tensors, metadata = read_adapter(file)
    if base.is_adapted:
        raise InputError(f"{file}: the model already carries an adapter, expected a plain one")
    if metadata["backbone"] != base.base.name:
        raise InputError(f"{file}: was made for a {metadata['backbone']}, but the model is a {base.base.name}")
    if abs(float(metadata["r_max"]) - base.base.r_max) > 1e-5:  # A; some packages keep it in float32
        raise InputError(
            f"{file}: was made for a cutoff of {float(metadata['r_max']):g} A, but the model has {base.base.r_max:g} A"
        )
    elements = tuple(json.loads(metadata["elements"]))
    missing = [z for z in elements if z not in base.atomic_numbers]
    if missing:
        raise InputError(f"{file}: was trained on elements {missing}, which the model does not know")
    if base.base.shapes() != json.loads(metadata["shapes"]):
        raise InputError(f"{file}: was made for a model with other weight shapes than this {base.base.name}")
    compare_fingerprints(_under("fingerprint.", tensors), base.base.fingerprint(elements), str(file))
    e0 = base.base.atomic_energies()[base.head].to(base.device).clone()
    for z, shift in zip(tensors["e0.atomic_numbers"].tolist(), tensors["e0.shift_ev"]):
        e0[base.atomic_numbers.index(z)] += shift
    components = _components(base, tensors, metadata, str(file))
    model = Potential(base.base, base.head).to(base.device)
    model.base_e0 = base.base_e0.clone()
    return model.use(Composition(components, base.base, elements, e0))


def read_adapter(file: str | pathlib.Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of an adapter file, checked against its checksum; InputError as load_adapter."""
    if not pathlib.Path(file).is_file():
        raise InputError(f"{file}: no such file, expected an adapter")
    try:
        with safe_open(str(file), "pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable adapter, truncated or another kind of file ({error})") from error
    if metadata.get("format") not in FORMATS:
        known = " or ".join(repr(f) for f in FORMATS)
        raise InputError(f"{file}: has adapter format {metadata.get('format')!r}, expected {known}")
    covered = {} if metadata["format"] == "1" else metadata
    if metadata.get("checksum") != checksum(tensors, covered):
        raise InputError(f"{file}: the content does not match its checksum, expected an unaltered adapter")
    return tensors, metadata


def checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and bytes of all tensors and, from format 2 on, of all other metadata."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    for key in sorted(metadata):
        if key != "checksum":
            digest.update(json.dumps([key, metadata[key]]).encode())
    return digest.hexdigest()


def _components(
    base: Potential, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], where: str
) -> list[Frozen]:
    """The adaptations of a file; format 1 holds one sparse delta, whose tensors have no prefix."""
    n_species = int(metadata["n_species"])
    if metadata["format"] == "1":
        return [Frozen(adaptation_class("sparse").from_tensors(base, Stored(tensors, where, n_species)))]
    components = []
    for part in json.loads(metadata["components"]):
        mine = _under(part["name"] + ".", tensors)
        cls = adaptation_class(part["kind"], f"{where}: the kind of adaptation")
        components.append(Frozen(cls.from_tensors(base, Stored(mine, where, n_species))))
    return components


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _e0_shift(model: Potential) -> dict[str, torch.Tensor]:
    shift = (model.e0 - model.base.atomic_energies()[model.head].to(model.device)).cpu()
    changed = shift.nonzero().flatten()
    return {
        "e0.atomic_numbers": torch.tensor([model.atomic_numbers[i] for i in changed], dtype=torch.int32),
        "e0.shift_ev": shift[changed].clone(),
    }
