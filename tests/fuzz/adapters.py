"""Adapter files of every kind, changed in tensors, metadata and bytes; the checksum is made right again."""

import json
import pathlib
import random

import torch

from fuzz import odd
from fuzz.law import REFUSED, BrokenLawError, is_finite, refused_or
from models import molecule, tiny_mace
from pathtune import SparseDelta, adapt, evaluate, load, load_adapter, save_adapter, sparsify
from pathtune.adaptations.low_rank import LowRankOptions
from pathtune.adapter_file import checksum, read_adapter
from pathtune.adapter_tools import describe, extract
from pathtune.data import from_atoms
from spins import spin_model, with_moments

ELEMENTS = (1, 8)
SMALL = {"hidden_irreps": "2x0e+2x1o", "MLP_irreps": "2x0e", "num_interactions": 1, "radial_MLP": [4]}  # quick to read


def write(file: pathlib.Path, tensors, metadata) -> None:
    """A file with this content and the checksum that belongs to it."""
    try:
        sums = checksum(tensors, {} if metadata.get("format") == "1" else metadata)
    except (TypeError, ValueError):  # of a tensor that numpy does not know, of a text that is not Unicode
        sums = "none"
    file.write_bytes(packed(tensors, {**metadata, "checksum": sums}))


def packed(tensors, metadata) -> bytes:
    """A safetensors file: eight bytes that say how long the JSON header is, the header, the numbers."""
    header, parts, start = {"__metadata__": metadata}, [], 0
    for name, tensor in tensors.items():
        flat = tensor.flatten().clone(memory_format=torch.contiguous_format)
        part = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        end = start + len(part)
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        parts.append(part)
        start = end
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def put(tensor, i, number):
    """The tensor with one entry replaced; what its type cannot hold becomes infinite, or the largest integer."""
    changed = tensor.flatten().clone()
    if changed.numel():
        is_real = tensor.is_floating_point()
        whole = int(max(min(number, 2.0**31 - 1), -(2.0**31))) if number == number else -1
        changed[i % changed.numel()] = torch.tensor(number if is_real else whole, dtype=torch.float64).to(tensor.dtype)
    return changed.view(tensor.shape)


def everywhere(tensor, i, number):
    """Every entry replaced."""
    return (
        put(tensor, i, number).flatten()[i % tensor.numel()].expand(tensor.shape).clone() if tensor.numel() else tensor
    )


CHANGES = {
    "gone": lambda t, i, x: None,
    "empty": lambda t, i, x: t.flatten()[:0],
    "shorter": lambda t, i, x: t[:-1],
    "longer": lambda t, i, x: torch.cat([t, t[-1:]]) if t.dim() else t,
    "reversed": lambda t, i, x: t.flip(0) if t.dim() else t,
    "a column": lambda t, i, x: t.unsqueeze(-1),
    "a scalar": lambda t, i, x: t.flatten()[0] if t.numel() else t,
    "flat": lambda t, i, x: t.flatten(),
    "repeated": lambda t, i, x: t.index_copy(0, torch.tensor([0]), t[-1:]) if t.dim() and len(t) else t,
    "one entry": put,
    "every entry": everywhere,
    "shifted": lambda t, i, x: t + i,
    "scaled": lambda t, i, x: t * 10.0 ** (i % 300) if t.is_floating_point() else t * (i % 7),
    **{
        str(d): lambda t, i, x, d=d: t.to(d)
        for d in (
            torch.float16,
            torch.bfloat16,
            torch.float32,
            torch.float64,
            torch.float8_e5m2,
            torch.bool,
            torch.uint8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.complex64,
        )
    },
}
TYPES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bool: "BOOL",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.complex64: "C64",
}
NUMBERS = (float("nan"), float("inf"), -float("inf"), -0.0, 1e300, 1e38, 1e-320, -1.0, 2.0**31, 2.0**62)


def sound(model) -> None:
    """Raise BrokenLawError unless what the adapter changes is finite, with ascending indices of equal lengths."""
    for part in model.adaptation.parts():
        is_finite(part.tensors(model.atomic_numbers))
        if part.kind != "sparse":
            continue
        for delta in deltas_of_part(part):
            n = delta.indices.numel()
            if n != delta.values.numel() or not bool((delta.indices.diff() > 0).all()):
                raise BrokenLawError(f"{delta.layer.name}: indices do not ascend, or are not as many as values")
            if n and not 0 <= int(delta.indices[0]) <= int(delta.indices[-1]) < delta.layer.numel:
                raise BrokenLawError(f"{delta.layer.name}: an index is out of range")
            is_finite([delta.values, delta.threshold])
    is_finite(model.e0)


def deltas_of_part(part):
    """The deltas of a sparse component, trained or loaded."""
    return getattr(part, "inner", part).deltas


def made(base, kinds):
    """An adapter of these kinds with something in it."""
    model = adapt(base, kinds, ELEMENTS, {"lora": LowRankOptions(rank=2)})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.trainable():
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    model.e0[0] += 0.125
    return model


class Adapters:
    """See the module."""

    name = "adapters"

    def __init__(self, folder: pathlib.Path):
        self.file = folder / "changed.safetensors"
        self.base = load(tiny_mace(**SMALL))
        self.structure = from_atoms(with_moments(molecule(1, n=3)))
        self.structure.atomic_numbers[:] = [1, 8, 1]
        self.structure.energy_ev, self.structure.forces = -3.0, torch.zeros(3, 3).numpy()
        delta = SparseDelta(delta_start="paper", initial_std=0.1, initial_threshold=0.1)
        other = load(tiny_mace(**SMALL))
        with torch.no_grad():
            next(iter(other.backbone.parameters.values())).add_(0.1)
        models = {
            "sparse": sparsify(self.base, delta, elements=list(ELEMENTS)),
            "lora": made(self.base, ["lora"]),
            "modulation": made(self.base, ["modulation"]),
            "sparse lora": made(self.base, ["sparse", "lora"]),
            "full": extract(self.base, other),
            "spin": spin_model("many-body", ("spin",), self.base),
            "sparse spin": spin_model("pair", ("sparse", "spin"), self.base),
        }
        models["sparse"].e0[0] += 0.125
        self.worlds = {}
        for name, model in models.items():
            save_adapter(model, self.file, {"epochs": 3})
            tensors, metadata = read_adapter(self.file)
            self.worlds[name] = (tensors, metadata, self.file.read_bytes())
        tensors, metadata, _ = self.worlds["sparse"]
        old = {key.removeprefix("sparse."): tensor for key, tensor in tensors.items()}
        older = {key: value for key, value in metadata.items() if key != "components"} | {"format": "1"}
        write(self.file, old, older)
        self.worlds["sparse, format 1"] = (old, older, self.file.read_bytes())

    def trial(self, rng: random.Random) -> str:
        """One changed file, loaded and used."""
        tensors, metadata, whole = self.worlds[rng.choice(sorted(self.worlds))]
        family = rng.randrange(4)
        if family == 0:
            self.file.write_bytes(odd.changed_bytes(rng, whole))
        else:
            tensors = self.changed_tensors(rng, tensors) if family in (1, 3) else tensors
            metadata = self.changed_metadata(rng, metadata) if family in (2, 3) else metadata
            write(self.file, tensors, metadata)
        return self.verdict(is_described=rng.random() < 0.03)

    def changed_tensors(self, rng, tensors):
        """One tensor changed, or given another's name."""
        name, change = rng.choice(sorted(tensors)), rng.choice(sorted(CHANGES))
        number = rng.choice(NUMBERS) if rng.random() < 0.5 else rng.uniform(-1, 1) * 10.0 ** rng.randint(-5, 12)
        found = CHANGES[change](tensors[name], rng.randrange(500), number)
        others = {key: tensor for key, tensor in tensors.items() if key != name}
        if rng.random() < 0.1:
            name = odd.changed_text(rng, name)
        return others if found is None else {**others, name: found.contiguous()}

    def changed_metadata(self, rng, metadata):
        """One item changed, left out, or given another's name."""
        key = rng.choice(sorted(metadata))
        others = {k: v for k, v in metadata.items() if k != key}
        kind = rng.randrange(5)
        if kind == 0:
            return others
        if kind == 1:
            return {**others, odd.text(rng): metadata[key]}
        new = (
            odd.changed_text(rng, metadata[key]) if kind == 2 else odd.json_text(rng) if kind == 3 else odd.number(rng)
        )
        return {**others, key: new}

    def verdict(self, is_described: bool = False) -> str:
        """What is made of the file: loaded, described, and used for a prediction."""
        held = []
        if is_described:
            refused_or(lambda: is_finite(describe(self.file)["e0_shift_ev"]), self.file.name)
        if refused_or(lambda: held.append(load_adapter(self.base, self.file)), self.file.name) == REFUSED:
            return REFUSED
        sound(held[0])
        return refused_or(lambda: is_finite(evaluate(held[0], [self.structure])))
