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
from pathtune.adapter_checks import FINGERPRINT, FORMAT, About, check_adapter, check_types, under
from pathtune.backbone import compare_fingerprints
from pathtune.errors import InputError
from pathtune.files import checked_path, write_atomically
from pathtune.model import Potential


def save_adapter(model: Potential, file: str | pathlib.Path, training: Mapping[str, Any] | None = None) -> None:
    """Write what the model's adaptations hold, E0 shifts and the base's fingerprint.

    `training`: a JSON-able summary to keep. Raises InputError for a model without adaptations, for one with an
    adaptation that no adapter file can hold, and for numbers that are not finite.
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
    check_adapter(tensors, metadata, str(file))
    payload = safetensors.torch.save(tensors, metadata)
    write_atomically(pathlib.Path(file), lambda stream: stream.write(payload))


def load_adapter(base: Potential, file: str | pathlib.Path) -> Potential:
    """A new Potential: `base`, which is not changed, with the adapter of `file`, frozen.

    Raises InputError when the file is missing, truncated or altered, of another format or with a kind of adaptation
    that is not registered, or was made for another model than `base` (fingerprints are compared with a tolerance,
    after undoing mace's rescaling of reduced element tables).
    """
    tensors, _, about = _read(file)
    if base.is_adapted:
        raise InputError(f"{file}: the model already carries an adapter, expected a plain one")
    if about.backbone != base.base.name:
        raise InputError(f"{file}: was made for a {about.backbone}, but the model is a {base.base.name}")
    if abs(about.r_max - base.base.r_max) > 1e-5:  # A; some packages keep it in float32
        raise InputError(f"{file}: was made for a cutoff of {about.r_max:g} A, but the model has {base.base.r_max:g} A")
    missing = [z for z in about.elements if z not in base.atomic_numbers]
    if missing:
        raise InputError(f"{file}: was trained on elements {missing}, which the model does not know")
    if base.base.shapes() != about.shapes:
        raise InputError(f"{file}: was made for a model with other weight shapes than this {base.base.name}")
    compare_fingerprints(under(FINGERPRINT, tensors), base.base.fingerprint(about.elements), str(file))
    e0 = base.base.atomic_energies()[base.head].to(base.device).clone()
    for z, shift in zip(tensors["e0.atomic_numbers"].tolist(), tensors["e0.shift_ev"]):
        if z not in base.atomic_numbers:
            raise InputError(f"{file}: shifts the energy of element {z}, which the model does not know")
        e0[base.atomic_numbers.index(z)] += shift
    model = Potential(base.base, base.head).to(base.device)
    model.base_e0 = base.base_e0.clone()
    return model.use(Composition(_components(base, tensors, about, str(file)), base.base, about.elements, e0))


def read_adapter(file: str | pathlib.Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of an adapter file, checked as docs/adapter-format.md says; InputError as load_adapter."""
    tensors, metadata, _ = _read(file)
    return tensors, metadata


def _read(file: str | pathlib.Path) -> tuple[dict[str, torch.Tensor], dict[str, str], About]:
    if not checked_path(file).is_file():
        raise InputError(f"{file}: no such file, expected an adapter")
    try:
        with safe_open(str(file), "pt") as stream:
            metadata = stream.metadata() or {}
            # Copies: the tensors of safe_open are the file's own pages, which change when it is written over.
            tensors = {name: stream.get_tensor(name).clone() for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable adapter, truncated or another kind of file ({error})") from error
    check_types(tensors, metadata, str(file))
    covered = {} if metadata["format"] == "1" else metadata
    if metadata.get("checksum") != checksum(tensors, covered):
        raise InputError(f"{file}: the content does not match its checksum, expected an unaltered adapter")
    return tensors, metadata, check_adapter(tensors, metadata, str(file))


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


def _components(base: Potential, tensors: Mapping[str, torch.Tensor], about: About, where: str) -> list[Frozen]:
    """The adaptations of a file."""
    components = []
    for prefix, kind in about.components:
        cls = adaptation_class(kind, f"{where}: the kind of adaptation")
        stored = Stored(under(prefix, tensors), where, about.n_species)
        components.append(Frozen(cls.from_tensors(base, stored)))
    return components


def _e0_shift(model: Potential) -> dict[str, torch.Tensor]:
    shift = (model.e0 - model.base.atomic_energies()[model.head].to(model.device)).cpu()
    changed = shift.nonzero().flatten()
    return {
        "e0.atomic_numbers": torch.tensor([model.atomic_numbers[i] for i in changed], dtype=torch.int32),
        "e0.shift_ev": shift[changed].clone(),
    }
