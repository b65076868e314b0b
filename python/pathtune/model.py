"""A potential: a pretrained backbone, the adaptations on it, and the atomic energies E0."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch

from pathtune.adaptations import Adaptation, Composition, Sparse, SparseDelta, adaptation_class
from pathtune.data import Batch, Graph, Request, Source, Structure, collate, label_of
from pathtune.data.batch import ALWAYS
from pathtune.errors import InputError
from pathtune.layers import Layer, PathRow, Weights, select_layers

FINGERPRINT_TOLERANCE = 1e-4  # relative to the block's rms: float32 against float64, reductions by mace


@dataclasses.dataclass
class Prediction:
    """What a potential says of a batch."""

    outputs: dict[str, torch.Tensor]  # by label; "energy" is the interaction energy E - sum E0 [n_graphs], eV
    e0_energy: torch.Tensor  # [n_graphs] eV, float64

    @property
    def interaction_energy(self) -> torch.Tensor:
        """Energies without E0 [n_graphs], eV, in the model's precision."""
        return self.outputs["energy"]

    @property
    def energy(self) -> torch.Tensor:
        """Total energies [n_graphs], eV, float64."""
        return self.interaction_energy.double() + self.e0_energy

    @property
    def forces(self) -> torch.Tensor:
        """Forces [n_nodes, 3], eV/A."""
        return self.outputs["forces"]

    @property
    def stress(self) -> torch.Tensor:
        """Stress [n_graphs, 3, 3], eV/A^3, positive is tensile; zero where there is no volume."""
        return self.outputs["stress"]

    def of(self, name: str) -> torch.Tensor:
        """The output as its label is: an energy with E0."""
        return self.energy if name == "energy" else self.outputs[name]


class Backbone(Protocol):
    """What a file in backbones/ provides; see docs/conventions.md."""

    name: str  # class of the pretrained model, for the fingerprint
    stock: torch.nn.Module  # the pretrained model itself; never changed
    parameters: dict[str, torch.nn.Parameter]  # those of `stock` that its own package trains, by name
    layers: tuple[Layer, ...]
    sparse_layers: frozenset[str]  # names of the layers whose weights `predict` also takes as SparseWeights
    readouts: tuple[str, ...]  # how the names of the readouts' parameters begin
    atomic_numbers: tuple[int, ...]
    heads: tuple[str, ...]
    outputs: tuple[str, ...]  # names of the labels that `predict` can give; "energy" is one
    inputs: tuple[str, ...]  # names of the labels that it reads from the batch
    r_max: float  # A
    dtype: torch.dtype

    def atomic_energies(self) -> torch.Tensor:
        """E0 [n_heads, n_species], eV, float64."""
        ...

    def predict(self, weights: Weights, batch: Batch, request: Request) -> dict[str, torch.Tensor]:
        """The outputs of `request` by name, with some parameters replaced by `weights`; energies without E0.

        Energies [n_graphs], forces [n_nodes, 3], stress [n_graphs, 3, 3]; others in their label's shape. Without
        `request.training` the energies need no graph.
        """
        ...

    def with_weights(
        self, weights: Mapping[str, torch.Tensor], e0: torch.Tensor, head: int
    ) -> torch.nn.Module:
        """A stock model with these parameters and atomic energies."""
        ...

    def shapes(self) -> dict[str, list[int]]:
        """Shape of every parameter, the number of species as 0."""
        ...

    def fingerprint(self, elements: Sequence[int]) -> dict[str, torch.Tensor]:
        """A few numbers [n_blocks, 2] of every parameter, by which an adapter knows its base."""
        ...

    def copy(self) -> Backbone:
        """An independent copy, parameters included."""
        ...


class Potential(torch.nn.Module):
    """A pretrained backbone and, if any, the adaptations in use on it; the backbone is shared and never changed."""

    e0: torch.Tensor  # [n_species] float64 eV, of the chosen head
    base_e0: torch.Tensor  # [n_species] float64 eV, without adaptations

    def __init__(self, backbone: Backbone, head: int = 0):
        super().__init__()
        self.base = backbone
        self.head = head
        self.adaptation = Composition([], backbone)
        self.register_buffer("e0", backbone.atomic_energies()[head].clone())
        self.register_buffer("base_e0", self.e0.clone())

    @property
    def backbone(self) -> Backbone:
        """What computes: the base, or the copy of it that an adaptation trains."""
        return self.adaptation.backbone

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Elements that the model knows, in the order of its species index."""
        return self.base.atomic_numbers

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers of the data that it was adapted to; empty where it was not."""
        return self.adaptation.elements

    @property
    def is_adapted(self) -> bool:
        """Whether adaptations are in use."""
        return len(self.adaptation) > 0

    @property
    def device(self) -> torch.device:
        """Where the model computes; chosen by `load`."""
        return self.e0.device

    def use(self, adaptation: Composition | Adaptation | Iterable[Adaptation] | None) -> Potential:
        """Swap what is in use, in this Potential only, and return it; None: the base again, bitwise.

        `adaptation`: of another Potential of the same base, or one or several adaptations, in their order. Raises
        InputError for one that was made for another base, and for two that cannot write the same weight.
        """
        if adaptation is None:
            adaptation = Composition([], self.base)
        elif isinstance(adaptation, Adaptation):
            adaptation = Composition([adaptation], self.base)
        elif not isinstance(adaptation, Composition):
            adaptation = Composition(list(adaptation), self.base)
        for base in {id(c.base): c.base for c in adaptation.parts() if c.base is not self.base}.values():
            check_same_base(self, base, adaptation.elements)
        self.adaptation = adaptation
        self.e0 = (self.base_e0 if adaptation.e0 is None else adaptation.e0).clone()
        return self

    def with_e0(self, e0: torch.Tensor) -> Potential:
        """The same model, adaptations and all, with other atomic energies [n_species], eV."""
        new = copy.copy(self)
        new._buffers = dict(self._buffers)
        new._modules = dict(self._modules)
        new.e0 = e0.clone()
        if self.is_adapted:
            adaptation = copy.copy(self.adaptation)
            adaptation._buffers = {"e0": e0.clone()}
            new.adaptation = adaptation
        else:
            new.base_e0 = e0.clone()
        return new

    @torch.no_grad()
    def set_e0(self, e0: torch.Tensor) -> None:
        """Other atomic energies [n_species], eV, for this model and the adaptations that it uses."""
        self.e0.copy_(e0)
        if self.is_adapted:
            self.adaptation.e0 = self.e0.clone()
        else:
            self.base_e0.copy_(e0)

    def effective_weights(self) -> dict[str, torch.Tensor]:
        """W' of every weight that an adaptation writes, by parameter name; differentiable, plain tensors."""
        return self.adaptation.weights(self.backbone.parameters, are_plain=True)  # type: ignore

    def forward(self, batch: Batch, outputs: Iterable[str] | None = None, training: bool = False) -> Prediction:
        """The outputs, by default energies and forces; `training` keeps the graph for a loss on them.

        Raises InputError as predict.
        """
        request = Request(ALWAYS if outputs is None else frozenset(outputs), training)
        return self.predict(self.adaptation.weights(self.backbone.parameters), batch, request)

    def predict(self, weights: Weights, batch: Batch, request: Request) -> Prediction:
        """The backbone's prediction with `weights`, by parameter name, in place of its own and of all adaptations'.

        Raises InputError for an output that the backbone does not have.
        """
        unknown = sorted(request.outputs - set(self.backbone.outputs))
        if unknown:
            has = ", ".join(self.backbone.outputs)
            raise InputError(f"output {unknown[0]!r} is asked of a {self.backbone.name}, expected some of {has}")
        terms = self.adaptation.energy_terms()
        request = dataclasses.replace(request, terms=terms) if terms else request
        outputs = self.backbone.predict(weights, batch, request)
        return Prediction(outputs, self.e0_energy(batch))

    def collate(self, structures: Sequence[Structure], graphs: Sequence[Graph] | None = None) -> Batch:
        """Structures as this model takes them: its species, cutoff, precision and labels, on its device.

        `graphs`: their edges within its cutoff, where they are known. Raises InputError for a head that the model
        lacks and for an input label that a structure lacks and the model needs.
        """
        self._check_inputs(structures)
        backbone = self.backbone
        heads = [self._head_of(s) for s in structures]
        names = (*backbone.outputs, *backbone.inputs)
        batch = collate(structures, self.atomic_numbers, backbone.r_max, backbone.dtype, graphs, heads, names)
        return batch if self.device.type == "cpu" else batch.to(self.device)

    def batch(self, source: Source, indices: Sequence[int]) -> Batch:
        """Frames of a source as one batch; InputError as collate."""
        graphs = [source.graph(i, self.backbone.r_max) for i in indices]
        return self.collate([source.read(i) for i in indices], graphs)

    def _check_inputs(self, structures: Sequence[Structure]) -> None:
        for label in [label_of(name) for name in self.backbone.inputs]:
            lacking = next((s for s in structures if label.name not in s.labels), None)
            if lacking is not None and not label.is_optional:
                raise InputError(f"{lacking.where}: has no {label.name} ({label.key}), "
                                 f"expected it, since a {self.backbone.name} reads it")  # fmt: skip

    def _head_of(self, structure: Structure) -> int:
        heads = self.backbone.heads
        if structure.head is None:
            return self.head
        if structure.head not in heads:
            raise InputError(f"{structure.where}: head is {structure.head!r}, expected one of {', '.join(heads)}")
        return heads.index(structure.head)

    def reachable(self, layer: Layer) -> torch.Tensor:
        """Ascending flat indices of the layer's weights that the training data's elements can change."""
        return layer.reachable(self.species_of(self.elements or self.atomic_numbers)).to(self.device)

    def species_of(self, elements: Sequence[int]) -> list[int]:
        """Ascending species indices of atomic numbers; InputError for an element that the model lacks."""
        missing = [z for z in elements if z not in self.atomic_numbers]
        if missing:
            known = list(self.atomic_numbers)
            raise InputError(f"elements {missing} are unknown to the model, which knows {known}")
        return sorted(self.atomic_numbers.index(z) for z in elements)

    def e0_energy(self, batch: Batch) -> torch.Tensor:
        """Sum of E0 per structure [n_graphs], float64."""
        total = self.e0.new_zeros(batch.n_graphs)
        if batch.shared_head == self.head:
            return total.index_add(0, batch.node_graph, self.e0[batch.species])
        by_head = self.backbone.atomic_energies().to(self.e0)
        by_head[self.head] = self.e0
        return total.index_add(0, batch.node_graph, by_head[batch.head[batch.node_graph], batch.species])

    def trainable(self) -> list[torch.nn.Parameter]:
        """Parameters that training changes."""
        return self.adaptation.trainable()

    def counts(self) -> dict[str, int]:
        """Weights changed, and the three denominators: all, adapted and reachable ones (docs/conventions.md)."""
        layers = self.adaptation.layers() or select_layers(self.backbone.layers)
        return {
            "active": self.adaptation.n_changed(),
            "all_weights": sum(p.numel() for p in self.backbone.stock.parameters()),
            "adapted_weights": sum(layer.numel for layer in layers),
            "reachable_weights": sum(self.reachable(layer).numel() for layer in layers),
        }

    def active_share(self, counts: Mapping[str, int] | None = None) -> float:
        """Share of the reachable adapted weights that is changed; 1 where the weights themselves are trained."""
        if any(c.replaces for c in self.adaptation.parts()):
            return 1.0
        counts = counts or self.counts()
        return counts["active"] / counts["reachable_weights"]


def adapt(
    base: Potential,
    kinds: Sequence[str],
    elements: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Potential:
    """A new Potential with one new adaptation of each of the `kinds`, in their order, on `base`.

    `elements`: atomic numbers of the training data; `options`: what is asked of each kind, by the name of its section
    in a config file, its defaults where absent. Raises InputError for an unknown kind, for elements the model lacks,
    for a `base` that is adapted already, and as the kinds themselves do.
    """
    classes = [adaptation_class(kind) for kind in kinds]
    if base.is_adapted:
        raise InputError("adapt: the model already carries an adapter, expected a plain one (merge it first)")
    elements = _checked_elements(base, elements)
    components = []
    for cls in classes:
        asked = (options or {}).get(cls.section)
        if asked is None and cls.options is not None:
            asked = cls.options()
        components.append(cls.build(base, elements, asked, seed))
    return _adapted(base, components, elements)


def sparsify(
    base: Potential,
    config: SparseDelta | None = None,
    elements: Sequence[int] | None = None,
    seed: int = 0,
    candidates: Mapping[str, Sequence[int] | torch.Tensor] | None = None,
) -> Potential:
    """A new Potential with a sparse delta on `base`, whose weights are frozen and shared, never changed.

    `elements`: atomic numbers of the training data; weights of other species cannot be trained and get
    no delta. `candidates`: the weights that may change, as flat indices by layer name (those of `paths`),
    instead of those that `config` would choose; layers that it does not name get no delta. A layer with few
    candidates is trained without ever forming its dense gradient. Raises InputError for targets that match no
    layer, elements the model lacks, a share of less than one weight, a layer in `candidates` that is unknown
    or no target, and indices outside of their layer.
    """
    if base.is_adapted:
        raise InputError("sparsify: the model already carries an adapter, expected a plain one (merge it first)")
    elements = _checked_elements(base, elements)
    return _adapted(base, [Sparse.at(base, elements, config or SparseDelta(), seed, candidates)], elements)


def unfreeze(base: Potential, arm: str, elements: Sequence[int] | None = None) -> Potential:
    """A new Potential, with its own copy of the weights, that trains all of them ("full") or the readouts."""
    if arm not in ("full", "readout"):
        raise InputError(f"arm is {arm!r}, expected full or readout (sparsify makes a sparse one)")
    return adapt(base, [arm], elements)


def merge(model: Potential) -> torch.nn.Module:
    """A stock model on the CPU with the adaptations folded in, and the model's E0: needs no pathtune.

    Raises InputError for an adaptation that adds to the energy what no weights can hold.
    """
    for component in model.adaptation.parts():
        if component.energy_term() is not None:
            raise InputError(f"merge: an adaptation of kind {component.kind!r} adds a term to the energy, "
                             "expected only changes of weights")  # fmt: skip
    weights = {name: w.detach() for name, w in model.effective_weights().items()}
    return model.backbone.with_weights(weights, model.e0, model.head).cpu()


def paths(model: Potential, elements: Sequence[int] | None = None) -> list[PathRow]:
    """Every adaptable weight block: module, path l1 x l2 -> l3, mul, counts, share of all weights, norm."""
    species = model.species_of(elements or model.atomic_numbers)
    parameters = model.backbone.parameters
    total = sum(p.numel() for p in model.backbone.stock.parameters())
    rows = []
    for layer in model.backbone.layers:
        flat = parameters[layer.parameter].detach().double().flatten()
        for path in layer.paths:
            block = flat[path.offset : path.offset + path.numel]
            n_reachable = path.numel if path.is_reachable else 0
            if path.species_axis is not None:
                n_reachable = n_reachable // path.shape[path.species_axis] * len(species)
            rows.append(PathRow(layer.name, layer.kind, path.text, path.mul, path.numel, n_reachable,
                                path.numel / total, float(block.pow(2).mean().sqrt())))  # fmt: skip
    return rows


def check_same_base(model: Potential, backbone: Backbone, elements: Sequence[int], where: str = "use") -> None:
    """Raise InputError unless `backbone` is the model's own base, or equal to it as far as fingerprints tell."""
    mine = model.base
    if (mine.name, mine.shapes()) != (backbone.name, backbone.shapes()):
        raise InputError(f"{where}: the adaptation was made for another model, a {backbone.name}, expected one of this "
                         f"{mine.name}")  # fmt: skip
    found = backbone.fingerprint(elements or backbone.atomic_numbers)
    compare_fingerprints(found, mine.fingerprint(elements or mine.atomic_numbers), where)


def compare_fingerprints(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], where: str
) -> None:
    """Raise InputError for the first parameter whose fingerprint [n_blocks, 2] is not that of the model found."""
    for name, mine in found.items():
        theirs = expected.get(name)
        if theirs is None or theirs.shape != mine.shape:
            raise InputError(f"{where}: was made for another model: {name} is not in its fingerprint")
        rms = theirs[:, 1:].double().abs().clamp(min=1e-12)
        deviation = (mine - theirs.double()).abs()
        if bool((deviation > FINGERPRINT_TOLERANCE * rms).any()):
            worst = int((deviation / rms).max(dim=1).values.argmax())
            raise InputError(
                f"{where}: was made for another model: {name} has rms {mine[worst, 1]:.5g} here, "
                f"expected {theirs[worst, 1]:.5g}"
            )


def _checked_elements(base: Potential, elements: Sequence[int] | None) -> tuple[int, ...]:
    chosen = tuple(sorted(elements or base.atomic_numbers))
    base.species_of(chosen)
    return chosen


def _adapted(base: Potential, components: Sequence[Adaptation], elements: Sequence[int]) -> Potential:
    model = Potential(base.base, base.head)
    model.e0 = base.e0.clone()
    model.base_e0 = base.base_e0.clone()
    model.adaptation = Composition(components, base.base, elements, base.e0)
    return model
