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

from pathtune.delta import FixedDelta
from pathtune.errors import InputError
from pathtune.layers import Layer
from pathtune.model import Potential
from pathtune.run_folder import write_atomically

FORMAT = "1"
N_ELEMENTS = 119  # canonical species axis: the atomic number itself
FINGERPRINT_TOLERANCE = 1e-4  # relative to the block's rms: float32 against float64, reductions by mace


def save_adapter(model: Potential, file: str | pathlib.Path, training: Mapping[str, Any] | None = None) -> None:
    """Write the active entries of the model's deltas, their thresholds, E0 shifts and the base's fingerprint.

    `training`: a JSON-able summary to keep. Raises InputError for a model without deltas.
    """
    if not model.adapted():
        raise InputError(f"{file}: the model has no adapter to save, expected one from sparsify or load_adapter")
    tensors: dict[str, torch.Tensor] = {}
    for d in model.adapted():
        values = d.delta().detach().cpu()
        active = values.nonzero().flatten()
        canonical = to_canonical(d.layer, d.indices.cpu()[active], model.atomic_numbers)
        order = canonical.argsort()
        tensors[f"{d.layer.parameter}.indices"] = _compact(canonical[order])
        tensors[f"{d.layer.parameter}.values"] = values[active][order].contiguous()
        tensors[f"{d.layer.parameter}.threshold"] = d.threshold.detach().cpu().clone()
    shift = (model.e0 - model.backbone.atomic_energies()[model.head]).cpu()
    changed = shift.nonzero().flatten()
    tensors["e0.atomic_numbers"] = torch.tensor([model.atomic_numbers[i] for i in changed], dtype=torch.int32)
    tensors["e0.shift_ev"] = shift[changed].clone()
    elements = model.elements or model.atomic_numbers
    for name, block in model.backbone.fingerprint(elements).items():
        tensors[f"fingerprint.{name}"] = block.float()
    metadata = {
        "format": FORMAT,
        "backbone": model.backbone.name,
        "r_max": repr(model.backbone.r_max),
        "n_species": str(len(model.atomic_numbers)),
        "atomic_numbers": json.dumps(model.atomic_numbers),
        "elements": json.dumps(elements),
        "shapes": json.dumps(model.backbone.shapes()),
        "head": model.backbone.heads[model.head],
        "counts": json.dumps(model.counts()),
        "training": json.dumps(dict(training or {})),
        "checksum": _checksum(tensors),
    }
    payload = safetensors.torch.save(tensors, metadata)
    write_atomically(pathlib.Path(file), lambda stream: stream.write(payload))


def load_adapter(base: Potential, file: str | pathlib.Path) -> Potential:
    """A new Potential: `base`, which is not changed, with the adapter of `file`.

    Raises InputError when the file is missing, truncated or altered, of another format, or was made for
    another model than `base` (fingerprints are compared with a tolerance, after undoing mace's rescaling
    of reduced element tables).
    """
    tensors, metadata = read_adapter(file)
    if base.deltas:
        raise InputError(f"{file}: the model already carries an adapter, expected a plain one")
    if metadata["backbone"] != base.backbone.name:
        raise InputError(f"{file}: was made for a {metadata['backbone']}, but the model is a {base.backbone.name}")
    if abs(float(metadata["r_max"]) - base.backbone.r_max) > 1e-5:  # A; some packages keep it in float32
        raise InputError(f"{file}: was made for a cutoff of {float(metadata['r_max']):g} A, "
                         f"but the model has {base.backbone.r_max:g} A")  # fmt: skip
    elements = tuple(json.loads(metadata["elements"]))
    missing = [z for z in elements if z not in base.atomic_numbers]
    if missing:
        raise InputError(f"{file}: was trained on elements {missing}, which the model does not know")
    _check_same_base(base, file, tensors, metadata, elements)
    model = Potential(base.backbone, base.head)
    model.e0 = base.backbone.atomic_energies()[base.head].clone()
    model.arm, model.elements = "fixed", elements
    for z, shift in zip(tensors["e0.atomic_numbers"].tolist(), tensors["e0.shift_ev"]):
        model.e0[base.atomic_numbers.index(z)] += shift
    scale = (len(base.atomic_numbers) / int(metadata["n_species"])) ** 0.5
    parameters = base.backbone.parameters
    for layer in base.backbone.layers:
        if f"{layer.parameter}.indices" not in tensors:
            continue
        canonical = tensors[f"{layer.parameter}.indices"].long()
        indices, order = from_canonical(layer, canonical, base.atomic_numbers, str(file)).sort()
        values = tensors[f"{layer.parameter}.values"][order].to(parameters[layer.parameter].dtype)
        if scale != 1.0 and layer.kind == "species linear":
            values = values * scale  # e3nn's path weight holds 1/sqrt(n_species)
        threshold = tensors[f"{layer.parameter}.threshold"]
        model.deltas[layer.name.replace(".", "/")] = FixedDelta(layer, indices, values, threshold)
    model.deltas.to(base.device)
    return model


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
    if metadata.get("format") != FORMAT:
        raise InputError(f"{file}: has adapter format {metadata.get('format')!r}, expected {FORMAT!r}")
    if metadata.get("checksum") != _checksum(tensors):
        raise InputError(f"{file}: the content does not match its checksum, expected an unaltered adapter")
    return tensors, metadata


def to_canonical(layer: Layer, indices: torch.Tensor, atomic_numbers: tuple[int, ...]) -> torch.Tensor:
    """Flat indices of this model as indices of a model with one species for every atomic number."""
    numbers = torch.tensor(atomic_numbers)
    return _remap(layer, indices, len(atomic_numbers), N_ELEMENTS, lambda s: numbers[s])


def from_canonical(
    layer: Layer, canonical: torch.Tensor, atomic_numbers: tuple[int, ...], where: str = "adapter"
) -> torch.Tensor:
    """The reverse of to_canonical; InputError for an element that the model lacks or an index beyond the layer."""
    species = torch.full((N_ELEMENTS,), -1)
    species[list(atomic_numbers)] = torch.arange(len(atomic_numbers))
    indices = _remap(layer, canonical, N_ELEMENTS, len(atomic_numbers), lambda z: species[z])
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= layer.numel):
        raise InputError(f"{where}: an index of {layer.name} lies outside the model's {layer.numel} weights")
    return indices


def _remap(layer: Layer, indices: torch.Tensor, n_from: int, n_to: int, species_map) -> torch.Tensor:
    result = torch.full_like(indices, -1)
    start_from = start_to = 0
    for path in layer.paths:
        shape_from, shape_to = list(path.shape), list(path.shape)
        if path.species_axis is not None:
            shape_from[path.species_axis], shape_to[path.species_axis] = n_from, n_to
        size_from, size_to = torch.Size(shape_from).numel(), torch.Size(shape_to).numel()
        mine = (indices >= start_from) & (indices < start_from + size_from)
        coordinates = list(torch.unravel_index(indices[mine] - start_from, shape_from))
        is_known = torch.ones_like(coordinates[0], dtype=torch.bool)
        if path.species_axis is not None:
            mapped = species_map(coordinates[path.species_axis])
            is_known, coordinates[path.species_axis] = mapped >= 0, mapped
        flat = torch.zeros_like(coordinates[0])
        for coordinate, length in zip(coordinates, shape_to):
            flat = flat * length + coordinate
        result[mine] = torch.where(is_known, flat + start_to, -1)
        start_from, start_to = start_from + size_from, start_to + size_to
    return result


def _compact(indices: torch.Tensor) -> torch.Tensor:
    fits = not indices.numel() or int(indices.max()) < 2**31
    return indices.to(torch.int32 if fits else torch.int64).contiguous()


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _check_same_base(base: Potential, file, tensors, metadata, elements) -> None:
    if base.backbone.shapes() != json.loads(metadata["shapes"]):
        raise InputError(f"{file}: was made for a model with other weight shapes than this {base.backbone.name}")
    for name, found in base.backbone.fingerprint(elements).items():
        expected = tensors.get(f"fingerprint.{name}")
        if expected is None or expected.shape != found.shape:
            raise InputError(f"{file}: was made for another model: {name} is not in its fingerprint")
        rms = expected[:, 1:].double().abs().clamp(min=1e-12)
        if bool(((found - expected.double()).abs() > FINGERPRINT_TOLERANCE * rms).any()):
            worst = int(((found - expected.double()).abs() / rms).max(dim=1).values.argmax())
            raise InputError(
                f"{file}: was made for another model: {name} has rms {found[worst, 1]:.5g} here, "
                f"expected {expected[worst, 1]:.5g}"
            )
