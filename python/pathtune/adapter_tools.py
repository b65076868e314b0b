"""What can be done with adapter files beside using them: describe, compare, blend, and make one of a tuned model."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase.data import chemical_symbols

from pathtune.adaptations import Adaptation, Composition, Frozen, Tuned
from pathtune.adaptations.sparse.adaptation import SparseEntries
from pathtune.adaptations.sparse.delta import FixedDelta
from pathtune.adapter_file import load_adapter, read_adapter
from pathtune.adapting import merge
from pathtune.errors import InputError
from pathtune.model import Potential

E0_TOLERANCE_EV = 1e-11  # of an E0 kept as a shift: the digits of float64


def describe(file: str | pathlib.Path) -> dict[str, Any]:
    """What an adapter file says of itself, without its base: kinds, base, counts, E0 shifts in eV, values by layer.

    Raises InputError as load_adapter does for a file that cannot be read.
    """
    tensors, metadata = read_adapter(file)
    counts = json.loads(metadata["counts"])
    one = [{"name": "", "kind": "sparse"}]  # of format 1
    components = json.loads(metadata["components"]) if "components" in metadata else one
    shifts = zip(tensors["e0.atomic_numbers"].tolist(), tensors["e0.shift_ev"].tolist())
    values: dict[str, int] = {}
    for component in components:
        prefix = f"{component['name']}." if component["name"] else ""
        for name, tensor in tensors.items():
            layer, _, part = name.removeprefix(prefix).rpartition(".")
            is_mine = name.startswith(prefix) and not name.startswith(("e0.", "fingerprint."))
            if is_mine and layer and part not in ("indices", "threshold", "atomic_numbers"):
                layer = layer.rpartition(".path_")[0] or layer
                values[layer] = values.get(layer, 0) + tensor.numel()
    return {
        "file": str(file),
        "bytes": pathlib.Path(file).stat().st_size,
        "format": metadata["format"],
        "kinds": [component["kind"] for component in components],
        "backbone": metadata["backbone"],
        "r_max_a": float(metadata["r_max"]),
        "head": metadata.get("head"),
        "elements": [chemical_symbols[z] for z in json.loads(metadata["elements"])],
        "counts": counts,
        "e0_shift_ev": {chemical_symbols[z]: shift for z, shift in shifts},
        "values": values,
        "training": json.loads(metadata.get("training", "{}")),
    }


def compare(base: Potential, first: str | pathlib.Path, second: str | pathlib.Path) -> list[dict[str, Any]]:
    """How two adapters of one base differ: a row for each parameter that one of them changes, and one for "all".

    `changed`: weights that each changes; `both`: those that both do; `chance`: how many both would if each changed as
    many at random; `norms`: root of the sum of squares of each one's changes; `cosine`: of the angle between them,
    None where one is zero. Raises InputError as load_adapter.
    """
    own = base.backbone.parameters
    changes = [_changes(load_adapter(base, file)) for file in (first, second)]
    sums = {"all": torch.zeros(8, dtype=torch.float64)}
    for name in sorted(changes[0].keys() | changes[1].keys(), key=list(own).index):
        a, b = (c.get(name, torch.zeros_like(own[name])).flatten().double() for c in changes)
        is_a, is_b = a != 0, b != 0
        chance = float(is_a.sum()) * float(is_b.sum()) / a.numel()
        both = (is_a & is_b).sum()
        numbers = [is_a.sum(), is_b.sum(), both, chance, a @ a, b @ b, a @ b, a.numel()]
        sums[name] = torch.tensor([float(x) for x in numbers], dtype=torch.float64)
        sums["all"] += sums[name]
    return [_row(name, numbers.tolist()) for name, numbers in [*list(sums.items())[1:], ("all", sums["all"])]]


def blend(base: Potential, files: Sequence[str | pathlib.Path], weights: Sequence[float]) -> Potential:
    """A new Potential whose weights and E0 are the base's plus each adapter's changes times its weight.

    With one weight of 1 and the others 0 it is that adapter, bitwise. Raises InputError as load_adapter, for another
    number of weights than of files, and for an adapter of a kind whose changes do not add up.
    """
    if len(files) != len(weights) or not files:
        raise InputError(f"weights are {len(weights)}, expected one for each of the {len(files)} adapters")
    components: list[Adaptation] = []
    e0, own = None, base.base.atomic_energies()[base.head].to(base.device)
    elements: set[int] = set()
    for file, weight in zip(files, weights):
        model = load_adapter(base, file)
        elements |= set(model.elements)
        if weight == 0:
            continue
        try:
            components += [part.scaled(weight) for part in model.adaptation.parts() if part.kind != "pull"]
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        shift = weight * (model.e0 - own)
        e0 = model.e0 if e0 is None and weight == 1 else (own if e0 is None else e0) + shift
    blended = Potential(base.base, base.head).to(base.device)
    blended.base_e0 = base.base_e0.clone()
    return blended.use(Composition(_joined(components), base.base, sorted(elements), own if e0 is None else e0))


def extract(base: Potential, tuned: Potential) -> Potential:
    """`base` with the weights and E0 of `tuned`, a plain model that was made of it, as an adaptation that can be saved.

    Merged it is `tuned`, bitwise. Raises InputError for a model of another class, shape, cutoff or table of elements,
    and for one that differs in what is neither a trained parameter nor E0.
    """
    mine, theirs = base.base, tuned.base
    for what, here, there in (
        ("class", mine.name, theirs.name),
        ("cutoff", mine.r_max, theirs.r_max),
        ("table of elements", mine.atomic_numbers, theirs.atomic_numbers),
        ("precision", mine.dtype, theirs.dtype),
    ):
        if here != there:
            raise InputError(f"the tuned model has {what} {there}, expected that of the base, {here}")
    if mine.shapes() != theirs.shapes():
        raise InputError("the tuned model has other weight shapes than the base, expected one that was made of it")
    model = Potential(mine, base.head).to(base.device)
    backbone = mine.copy()
    with torch.no_grad():
        for name, parameter in backbone.parameters.items():
            parameter.copy_(theirs.parameters[name])
    model.use(Composition([Frozen(Tuned(backbone, mine))], mine, mine.atomic_numbers, tuned.e0.to(base.device)))
    _check_merged(merge(model).state_dict(), theirs.stock.state_dict())
    return model


def _check_merged(merged: Mapping[str, Any], tuned: Mapping[str, Any]) -> None:
    for name in sorted(merged.keys() | tuned.keys()):
        found, expected = merged.get(name), tuned.get(name)
        if not isinstance(found, torch.Tensor) or not isinstance(expected, torch.Tensor):
            is_same = found is expected
        elif name.endswith(("atomic_energies", "rescale_atomic_energy.shift")):
            a, b = found.double().cpu().flatten(), expected.double().cpu().flatten()
            is_same = a.shape == b.shape and bool(((a - b).abs() <= E0_TOLERANCE_EV).all())
        else:
            is_same = torch.equal(found.cpu(), expected.cpu())
        if not is_same:
            raise InputError(
                f"the tuned model's {name} differs from the base's, expected only other parameters and E0 of one head"
            )


def _changes(model: Potential) -> dict[str, torch.Tensor]:
    """W' - W of every parameter that is not the base's own, by name."""
    own = model.base.parameters
    now = {**model.backbone.parameters, **model.effective_weights()}
    found = {name: (w.detach() - own[name].detach()) for name, w in now.items() if w is not own[name]}
    return {name: change for name, change in found.items() if bool((change != 0).any())}


def _row(name: str, numbers: Sequence[float]) -> dict[str, Any]:
    a, b, both, chance, aa, bb, ab, n = numbers
    return {
        "parameter": name,
        "weights": int(n),
        "changed": [int(a), int(b)],
        "both": int(both),
        "chance": chance,
        "norms": [aa**0.5, bb**0.5],
        "cosine": ab / (aa * bb) ** 0.5 if aa and bb else None,
    }


def _joined(components: Sequence[Adaptation]) -> list[Adaptation]:
    """The components, the sparse ones as one: their values at an entry add up."""
    inner = [getattr(c, "inner", c) for c in components]
    sparse = [c for c in inner if isinstance(c, SparseEntries)]
    rest = [c for c, i in zip(components, inner) if not isinstance(i, SparseEntries)]
    if len(sparse) < 2:
        return list(components)
    by_layer: dict[str, list[Any]] = {}
    for d in (d for c in sparse for d in c.deltas):
        by_layer.setdefault(d.layer.name, []).append(d)
    deltas = []
    for mine in by_layer.values():
        indices, place = torch.cat([d.indices for d in mine]).unique(return_inverse=True)
        values = torch.cat([d.delta() for d in mine])
        total = values.new_zeros(indices.numel()).index_add(0, place, values)
        deltas.append(FixedDelta(mine[0].layer, indices, total, values.new_zeros(1)))
    return [Frozen(SparseEntries(deltas)), *rest]
