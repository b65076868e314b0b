"""Training a copy of the weights themselves: all, those of chosen names, the readouts, or all from a fresh start."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pathtune.adaptations.averaging import rate_for
from pathtune.adaptations.base import Adaptation
from pathtune.adaptations.stored import Stored, from_canonical, to_canonical
from pathtune.errors import InputError
from pathtune.layers import Layer, Path, Weights
from pathtune.ops import SpeciesRows, places_of
from pathtune.options import check_fields, option

if TYPE_CHECKING:
    from pathtune.model import Potential

RATE = 8e-4  # per root of a step (docs/decisions/0010-optimiser.md)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullOptions:
    """Which of the weights full fine-tuning trains."""

    full_targets: tuple[str, ...] = option(("*",), "full: glob patterns of the parameters to train")
    freeze: tuple[str, ...] = option((), "full: glob patterns of the parameters to leave alone: interactions.0.*")

    def __post_init__(self):
        check_fields(self)

    def trains(self, name: str) -> bool:
        """Whether the parameter `name` of the backbone is trained."""
        return _matches(name, self.full_targets) and not _matches(name, self.freeze)


class Full(Adaptation):
    """Full fine-tuning: the weights of a copy of the backbone, every one by default.

    Of species-indexed weights those of the training data's elements are trained, apart from the copy; the others have
    no gradient.
    """

    kind: ClassVar[str] = "full"
    options: ClassVar[type | None] = FullOptions
    section: ClassVar[str] = "full"
    is_stored: ClassVar[bool] = False
    replaces: ClassVar[bool] = True
    rate_per_root: ClassVar[float] = RATE  # of a step

    def __init__(self, backbone: Any, config: FullOptions | None = None, species: Sequence[int] | None = None):
        """`backbone`: the copy, whose weights are trained in place, but for those of single species.

        `species`: ascending indices of those that the training data have; None: all, and all in place.
        Raises InputError for a pattern that matches no parameter, and where none is left to train.
        """
        super().__init__()
        self.backbone = backbone
        self.config = config or FullOptions()
        if config is not None:
            _check_patterns(config, list(backbone.parameters))
        for name, parameter in backbone.parameters.items():
            parameter.requires_grad_(parameter.is_floating_point() and self.trains(name))
        self._rows: dict[str, SpeciesRows] = {}
        self._values = torch.nn.ParameterList()
        self._species: frozenset[int] = frozenset()
        if species is None:
            self._species = frozenset(range(len(backbone.atomic_numbers)))
        else:
            self.sees(species)

    def sees(self, species: Sequence[int]) -> None:
        """Train the weights of these species, beside those of the species seen before."""
        if self._species.issuperset(species):
            return
        self._species = self._species.union(species)
        with torch.no_grad():
            for rows in self._rows.values():
                rows.whole.copy_(rows.plain())
                rows.whole.requires_grad_(True)
        self._rows = self._taken_out(tuple(sorted(self._species)))
        self._values = torch.nn.ParameterList([rows.values for rows in self._rows.values()])

    def _taken_out(self, species: tuple[int, ...]) -> dict[str, SpeciesRows]:
        """By parameter name, the weights of these species where not all are trained; the whole is trained no more."""
        n_species, found = len(self.backbone.atomic_numbers), {}
        of_some = getattr(self.backbone, "by_species", frozenset()) if len(species) < n_species else frozenset()
        for layer in self.backbone.layers:
            whole = self.backbone.parameters.get(layer.parameter)
            if layer.parameter in of_some and layer.is_by_species and whole is not None and whole.requires_grad:
                indices = layer.reachable(species).to(whole.device)
                values = torch.nn.Parameter(whole.detach().flatten()[indices])
                places = places_of(species, n_species).to(whole.device)
                whole.requires_grad_(False)
                found[layer.parameter] = SpeciesRows(values, whole, indices, species, places)
        return found

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: Any, seed: int) -> Adaptation:
        """A copy of the weights that `base` has; InputError as the constructor."""
        return cls(base.backbone.copy(), options, base.species_of(elements))

    def learning_rate(self, n_steps: int) -> float:
        """It grows with the root of the run's length: 0.012 for 240 steps, 0.038 for 2,280."""
        return rate_for(n_steps, self.rate_per_root)

    @classmethod
    def from_tensors(cls, base: Potential, stored: Stored) -> Adaptation:
        """The weights of a file in a copy of the backbone; InputError, naming the file, for what does not fit."""
        backbone = base.backbone.copy()
        ratio = (len(base.atomic_numbers) / stored.n_species) ** 0.5
        layers = _all_layers(backbone)
        known = {f"{layer.parameter}.{part}" for layer in layers for part in ("indices", "values")}
        stored.check_names(known & set(stored.tensors))
        for layer in layers:
            name, indices = layer.parameter, torch.arange(layer.numel)
            if f"{name}.values" not in stored.tensors:
                continue
            if f"{name}.indices" in stored.tensors:
                canonical = stored.indices(f"{name}.indices", layer.numel)
                indices = from_canonical(layer, canonical, base.atomic_numbers, stored.where)
            values = stored.values(f"{name}.values", indices.numel())
            if ratio != 1.0 and layer.kind == "species linear":
                values = values * ratio  # e3nn's path weight holds 1/sqrt(n_species)
            parameter = backbone.parameters[layer.parameter]
            flat = parameter.data.view(-1)
            flat[indices.to(flat.device)] = values.to(flat)
        return Tuned(backbone, base.base)

    def trains(self, name: str) -> bool:
        """Whether the parameter `name` of the backbone is trained."""
        return self.config.trains(name)

    def writes(self) -> frozenset[str]:
        """Names of the species-indexed parameters that are trained for some species; the others are the copy's own."""
        return frozenset(self._rows)

    def weights(self, parameters: Mapping[str, Any], plain: frozenset[str] = frozenset()) -> Weights:
        """Those of `writes`, as SpeciesRows."""
        return {name: rows.plain() if name in plain else rows for name, rows in self._rows.items()}

    def trainable(self) -> list[torch.nn.Parameter]:
        """The weights, in the order of the stock model."""
        rows: dict[str, Any] = {name: rows.values for name, rows in self._rows.items()}
        named = self.backbone.stock.named_parameters()
        return [rows.get(name, p) for name, p in named if p.requires_grad or name in rows]

    def n_changed(self) -> int:
        """Number of weights that are trained: of those of one element each, the ones of elements that occur."""
        return sum(p.numel() for p in self.trainable())


class Tuned(Full):
    """Weights that were trained before, here or by another package: a full fine-tuning that an adapter file holds.

    The file holds the new value of every weight that differs, so that the weights come back bitwise.
    """

    is_stored: ClassVar[bool] = True

    def __init__(self, backbone: Any, base: Any):
        """`backbone`: with the trained weights; `base`: without."""
        super().__init__(backbone)
        self.base = base

    def trains(self, name: str) -> bool:
        """Nothing is."""
        return False

    def tensors(self, atomic_numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Of every parameter that differs `NAME.values`, the new ones, and `NAME.indices`, canonical and ascending.

        Indices are left out where every weight differs and none is species-indexed.
        """
        tensors = {}
        for layer in _all_layers(self.base):
            old, new = (b.parameters[layer.parameter].detach().flatten().cpu() for b in (self.base, self.backbone))
            indices = (old != new).nonzero().flatten()
            if not indices.numel():
                continue
            canonical, order = to_canonical(layer, indices, atomic_numbers).sort()
            tensors[f"{layer.parameter}.values"] = new[indices[order]].clone()
            if indices.numel() < layer.numel or any(path.species_axis is not None for path in layer.paths):
                fits = int(canonical[-1]) < 2**31
                tensors[f"{layer.parameter}.indices"] = canonical.to(torch.int32 if fits else torch.int64)
        return tensors

    def n_changed(self) -> int:
        """Weights that differ."""
        pairs = [(self.backbone.parameters[name], w) for name, w in self.base.parameters.items()]
        return sum(int((new != old).sum()) for new, old in pairs)


class Readout(Full):
    """The readouts only."""

    kind: ClassVar[str] = "readout"
    options: ClassVar[type | None] = None
    section: ClassVar[str] = ""

    def trains(self, name: str) -> bool:
        """Whether the parameter belongs to a readout."""
        return name.startswith(self.backbone.readouts)


class Scratch(Full):
    """Full fine-tuning from weights that are drawn anew: what the pretraining is worth."""

    kind: ClassVar[str] = "scratch"
    options: ClassVar[type | None] = None
    section: ClassVar[str] = ""
    starts_anew: ClassVar[bool] = True

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: Any, seed: int) -> Adaptation:
        """Another draw for each seed; InputError for a backbone whose weights cannot be drawn."""
        backbone = base.backbone.copy()
        backbone.draw_anew(seed)
        return cls(backbone, species=base.species_of(elements))


def _all_layers(backbone: Any) -> list[Layer]:
    """The layers of a backbone, and every other parameter as a layer of one path."""
    layers = {layer.parameter: layer for layer in backbone.layers}
    return [
        layers.get(name) or Layer(name, "parameter", (Path("", 0, tuple(p.shape)),), p.numel(), "")
        for name, p in backbone.parameters.items()
    ]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(config: FullOptions, names: Sequence[str]) -> None:
    for option_name in ("full_targets", "freeze"):
        for pattern in getattr(config, option_name):
            if not any(_matches(name, [pattern]) for name in names):
                known = ", ".join(names)
                raise InputError(f"{option_name}: {pattern!r} matches no parameter; the model has {known}")
    if not any(config.trains(name) for name in names):
        raise InputError(f"freeze is {' '.join(config.freeze)!r}, which leaves nothing to train, expected fewer")
