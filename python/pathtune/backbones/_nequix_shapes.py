"""The sizes of a nequix model: what its config says, checked, and the arrays that its file must hold."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pathtune.errors import InputError
from pathtune.files import shown

MOST_L = 9  # beyond it nequix's own order of weights is that of text: "w[10,10]" before "w[2,2]"


class Degree(NamedTuple):
    """An irrep of nequix: those of its models all have the parity of a spherical harmonic, (-1)^l."""

    l: int
    p: int

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.p > 0 else 'o'}"


Irreps = tuple[tuple[int, Degree], ...]  # (mul, irrep), ascending, each irrep once where nothing else is said


def degree(l: int) -> Degree:
    """The irrep of the spherical harmonics of l."""
    return Degree(l, (-1) ** l)


def text(irreps: Irreps) -> str:
    """As e3nn reads it."""
    return "+".join(f"{mul}x{ir}" for mul, ir in irreps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NequixConfig:
    """What of a file's config makes the model; the rest, of its training, is kept as it is and not read."""

    atomic_numbers: tuple[int, ...]  # ascending, as nequix counts species
    cutoff: float  # A
    hidden: Irreps
    lmax: int  # of the spherical harmonics
    n_layers: int
    radial_basis_size: int
    radial_mlp_size: int
    radial_mlp_layers: int
    radial_polynomial_p: float
    mlp_init_scale: float
    layer_norm: bool
    shift: float  # eV for every atom
    scale: float  # eV
    avg_n_neighbors: float


def config_of(content: Mapping[str, Any], where: str) -> NequixConfig:
    """The checked config. Raises InputError that names the key, the value found and the value expected."""

    def number(key: str, is_right: Callable[[float], bool], expected: str, types=(int, float)) -> Any:
        value: Any = content.get(key)
        if type(value) not in types or not math.isfinite(value) or not is_right(value):
            raise InputError(f"{where}: {key} is {shown(value)}, expected {expected}")
        return value

    def size(key: str, least: int = 1, most: int = 10**6) -> int:
        return number(key, lambda n: least <= n <= most, f"a whole number from {least} to {most}", (int,))

    def positive(key: str) -> float:
        return number(key, lambda x: x > 0, "a positive number")

    def switch(key: str) -> bool:
        if not isinstance(content.get(key), bool):
            raise InputError(f"{where}: {key} is {shown(content.get(key))}, expected true or false")
        return content[key]

    if switch("index_weights"):
        raise InputError(f"{where}: index_weights is true, which is not covered, expected a model with it false")
    numbers: Any = content.get("atomic_numbers")
    is_list = isinstance(numbers, list) and all(type(z) is int and 0 < z < 119 for z in numbers)
    if not is_list or not 0 < len(set(numbers)) == len(numbers):
        raise InputError(f"{where}: atomic_numbers is {shown(numbers)}, expected a list of different ones")
    lmax = size("lmax", 0, MOST_L)
    return NequixConfig(
        atomic_numbers=tuple(sorted(numbers)),
        cutoff=positive("cutoff"),
        hidden=_hidden(content.get("hidden_irreps"), lmax, where),
        lmax=lmax,
        n_layers=size("n_layers", most=100),
        radial_basis_size=size("radial_basis_size"),
        radial_mlp_size=size("radial_mlp_size"),
        radial_mlp_layers=size("radial_mlp_layers", 0, 100),
        radial_polynomial_p=number("radial_polynomial_p", lambda p: p >= 2, "a number, at least 2"),
        mlp_init_scale=positive("mlp_init_scale"),
        layer_norm=switch("layer_norm"),
        shift=number("shift", lambda x: True, "a number"),
        scale=number("scale", lambda x: True, "a number"),
        avg_n_neighbors=positive("avg_n_neighbors"),
    )


def _hidden(found: Any, lmax: int, where: str) -> Irreps:
    """Irreps from text; only those that nequix itself can make of one-hot species."""
    parts = [re.fullmatch(r"(?:(\d{1,6})x)?(\d{1,2})([eo])", part.strip()) for part in str(found).split("+")]
    irreps = tuple((int(m[1] or 1), Degree(int(m[2]), 1 if m[3] == "e" else -1)) for m in parts if m)
    ls = [ir.l for _, ir in irreps]
    is_right = None not in parts and ls[:1] == [0] and sorted(set(ls)) == ls and ls[-1] <= lmax
    if not is_right or any(mul == 0 or ir != degree(ir.l) for mul, ir in irreps):
        raise InputError(
            f"{where}: hidden_irreps is {shown(found)}, expected 0e and then some of "
            f"{', '.join(str(degree(l)) for l in range(1, lmax + 1)) or 'none'} in this order, as lmax is {lmax}"
        )
    return irreps


@dataclasses.dataclass(frozen=True)
class LayerSizes:
    """Irreps of one interaction layer."""

    features: Irreps  # what it reads
    paths: tuple[tuple[int, int, Degree], ...]  # of the convolution: input irrep, l of the harmonic, output irrep
    messages: Irreps  # one for each path, ascending
    joined: Irreps  # messages of one irrep as one
    gated: Irreps  # before the gate: scalars, gates among them, and features
    n_scalars: int  # of the first block of `gated`, those that are no gates

    @property
    def n_gates(self) -> int:
        """The last scalars of `gated`, one for each feature that is no scalar."""
        return sum(mul for mul, ir in self.gated if ir.l)


def layer_sizes(config: NequixConfig) -> list[LayerSizes]:
    """Of each layer, from the first, whose features are one-hot species, to the last, which gives scalars only."""
    result, features = [], ((len(config.atomic_numbers), degree(0)),)
    for t in range(config.n_layers):
        out = config.hidden if t < config.n_layers - 1 else config.hidden[:1]
        paths = []
        for i, (_, ir) in enumerate(features):
            for l in range(config.lmax + 1):
                for l_out in range(abs(ir.l - l), ir.l + l + 1):
                    made = Degree(l_out, ir.p * degree(l).p)
                    if any(made == wanted for _, wanted in out):
                        paths.append((i, l, made))
        paths.sort(key=lambda path: path[2].l)  # stable
        messages = tuple((features[i][0], ir) for i, _, ir in paths)
        joined = tuple((sum(mul for mul, ir in messages if ir == wanted), wanted) for _, wanted in out)
        n_scalars, n_gates = out[0][0], sum(mul for mul, _ in out[1:])
        gated = ((n_scalars + n_gates, degree(0)), *out[1:])
        result.append(LayerSizes(features, tuple(paths), messages, joined, gated, n_scalars))
        features = out
    return result


def array_shapes(config: NequixConfig) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Parameters of the model by name, in the order of the file, and the shapes of the arrays that each is there."""
    result = []
    for t, layer in enumerate(layer_sizes(config)):
        sizes = [config.radial_basis_size, *[config.radial_mlp_size] * config.radial_mlp_layers]
        sizes.append(sum(mul for mul, _ in layer.messages))
        result += [(f"layers.{t}.radial_mlp.{k}.weight", [pair]) for k, pair in enumerate(itertools.pairwise(sizes))]
        linears = {
            "linear_1": (layer.features, layer.features),
            "linear_2": (layer.joined, layer.gated),
            "skip": (layer.features, layer.gated),
        }
        for name, (before, after) in linears.items():
            blocks = [(mul_in, mul_out) for mul_in, ir_in in before for mul_out, ir_out in after if ir_in == ir_out]
            result.append((f"layers.{t}.{name}.weight", blocks))
        if config.layer_norm:
            result.append((f"layers.{t}.layer_norm.weight", [(mul,) for mul, _ in layer.gated]))
    result.append(("readout.weight", [(config.hidden[0][0], 1)]))
    return result
