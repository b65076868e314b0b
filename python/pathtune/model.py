"""A potential: a pretrained backbone, the deltas on its layers, and the atomic energies E0."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch

from pathtune.data import Batch, Graph, Request, Source, Structure, collate, label_of
from pathtune.data.batch import ALWAYS
from pathtune.delta import DeltaParameter, FixedDelta, effective_weights
from pathtune.errors import InputError
from pathtune.layers import Layer, PathRow, Weights, select_layers
from pathtune.sparse_delta import SparseDelta


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
    """A backbone with deltas. `arm` names what is trainable: sparse, full, readout, or none."""

    e0: torch.Tensor  # [n_species] float64 eV, of the chosen head

    def __init__(self, backbone: Backbone, head: int = 0):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.arm = "none"
        self.config: SparseDelta | None = None
        self.elements: tuple[int, ...] = ()  # those of the training data, once it has been adapted
        self.deltas = torch.nn.ModuleDict()
        self.register_buffer("e0", backbone.atomic_energies()[head].clone())

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Elements that the model knows, in the order of its species index."""
        return self.backbone.atomic_numbers

    @property
    def device(self) -> torch.device:
        """Where the model computes; chosen by `load`."""
        return self.e0.device

    def adapted(self) -> list[DeltaParameter | FixedDelta]:
        """The deltas, in the order of the backbone's layers."""
        return list(self.deltas.values())  # type: ignore

    def effective_weights(self) -> dict[str, torch.Tensor]:
        """W' of every adapted layer by parameter name; differentiable in the deltas."""
        parameters = self.backbone.parameters
        return {d.layer.parameter: d.effective(parameters[d.layer.parameter]) for d in self.adapted()}

    def forward(self, batch: Batch, outputs: Iterable[str] | None = None, training: bool = False) -> Prediction:
        """The outputs, by default energies and forces; `training` keeps the graph for a loss on them.

        Raises InputError as predict.
        """
        parameters = self.backbone.parameters
        asked = ALWAYS & set(self.backbone.outputs) if outputs is None else frozenset(outputs)
        request = Request(asked, training)
        return self.predict(effective_weights(self.adapted(), parameters), batch, request)

    def predict(self, weights: Weights, batch: Batch, request: Request) -> Prediction:
        """The backbone's prediction with `weights`, by parameter name, in place of its own; no deltas.

        Raises InputError for an output that the backbone does not have.
        """
        unknown = sorted(request.outputs - set(self.backbone.outputs))
        if unknown:
            has = ", ".join(self.backbone.outputs)
            raise InputError(f"output {unknown[0]!r} is asked of a {self.backbone.name}, expected some of {has}")
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
        species = [self.atomic_numbers.index(z) for z in self.elements or self.atomic_numbers]
        return layer.reachable(species).to(self.device)

    def e0_energy(self, batch: Batch) -> torch.Tensor:
        """Sum of E0 per structure [n_graphs], float64."""
        total = self.e0.new_zeros(batch.n_graphs)
        if batch.shared_head == self.head:
            return total.index_add(0, batch.node_graph, self.e0[batch.species])
        by_head = self.backbone.atomic_energies().to(self.e0)
        by_head[self.head] = self.e0
        return total.index_add(0, batch.node_graph, by_head[batch.head[batch.node_graph], batch.species])

    def trainable(self) -> list[torch.nn.Parameter]:
        """Parameters that the arm trains."""
        if self.arm == "sparse":
            return list(self.deltas.parameters())
        return [p for p in self.backbone.stock.parameters() if p.requires_grad] if self.arm != "none" else []

    def counts(self) -> dict[str, int]:
        """Active entries and the three denominators of METHOD section 2."""
        layers = [d.layer for d in self.adapted()] or select_layers(self.backbone.layers)
        return {
            "active": sum(d.n_active() for d in self.adapted()),
            "all_weights": sum(p.numel() for p in self.backbone.stock.parameters()),
            "adapted_weights": sum(layer.numel for layer in layers),
            "reachable_weights": sum(self.reachable(layer).numel() for layer in layers),
        }


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
    config = config or SparseDelta()
    if base.deltas:
        raise InputError("sparsify: the model already carries an adapter, expected a plain one (merge it first)")
    elements = tuple(sorted(elements or base.atomic_numbers))
    species = _species_indices(base, elements)
    model = _fresh(base)
    model.arm, model.config, model.elements = "sparse", config, elements
    layers = select_layers(base.backbone.layers, config.targets, config.scope)
    reachable = {layer.name: layer.reachable(species) for layer in layers}
    if candidates is None:
        chosen = _first_candidates(reachable, config, seed)
    else:
        chosen = _fixed_candidates(layers, candidates)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in layers:
            if layer.name not in chosen or (candidates is not None and not chosen[layer.name].numel()):
                continue
            delta = DeltaParameter(
                layer, chosen[layer.name], config, base.backbone.parameters[layer.parameter],
                reachable[layer.name].numel(), layer.name in base.backbone.sparse_layers,
            )  # fmt: skip
            model.deltas[layer.name.replace(".", "/")] = delta
    return model


def random_part(reachable: Mapping[str, torch.Tensor], n: int, seed: int) -> dict[str, torch.Tensor]:
    """`n` of all the entries, drawn evenly: ascending indices by layer name."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [r.numel() for r in reachable.values()]
    is_drawn = torch.zeros(sum(sizes), dtype=torch.bool)
    is_drawn[torch.randperm(sum(sizes), generator=generator)[:n]] = True
    return {name: r[mask] for (name, r), mask in zip(reachable.items(), is_drawn.split(sizes))}


def _first_candidates(
    reachable: Mapping[str, torch.Tensor], config: SparseDelta, seed: int
) -> Mapping[str, torch.Tensor]:
    """A random part of the reachable weights, or all of them: for good, or until `fit` has scored them."""
    n, share = sum(r.numel() for r in reachable.values()), config.final_share
    if share is not None and round(share * n) < 1:
        raise InputError(f"active_share is {share}, which is less than one of {n} reachable weights")
    if config.first_share == 1 or config.score != "random":
        return reachable
    return random_part(reachable, round(config.first_share * n), seed)


def _fixed_candidates(
    layers: Sequence[Layer], candidates: Mapping[str, Sequence[int] | torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Ascending indices by layer name; InputError as in sparsify."""
    by_name, result = {layer.name: layer for layer in layers}, {}
    for name, indices in candidates.items():
        if name not in by_name:
            known = ", ".join(by_name)
            raise InputError(f"candidates: {name!r} is no layer to adapt, expected some of {known}")
        flat = torch.as_tensor(indices, dtype=torch.int64).flatten()
        unique = flat.unique()
        if unique.numel() < flat.numel():
            raise InputError(f"candidates: {name} has repeated indices, expected each once")
        numel = by_name[name].numel
        if unique.numel() and (int(unique[0]) < 0 or int(unique[-1]) >= numel):
            raise InputError(f"candidates: indices of {name} span {int(unique[0])} to {int(unique[-1])}, "
                             f"expected 0 to {numel - 1}")  # fmt: skip
        result[name] = unique
    return result


def unfreeze(base: Potential, arm: str, elements: Sequence[int] | None = None) -> Potential:
    """A new Potential, with its own copy of the weights, that trains all of them ("full") or the readouts."""
    if arm not in ("full", "readout"):
        raise InputError(f"arm is {arm!r}, expected full or readout (sparsify makes a sparse one)")
    model = _fresh(base, base.backbone.copy())
    model.arm, model.elements = arm, tuple(sorted(elements or base.atomic_numbers))
    readouts = model.backbone.readouts
    for name, parameter in model.backbone.parameters.items():
        parameter.requires_grad_(parameter.is_floating_point() and (arm == "full" or name.startswith(readouts)))
    return model


def merge(model: Potential) -> torch.nn.Module:
    """A stock model on the CPU with the deltas folded in, W <- W + S(D, d), and the model's E0: needs no pathtune."""
    weights = {name: w.detach() for name, w in model.effective_weights().items()}
    return model.backbone.with_weights(weights, model.e0, model.head).cpu()


def paths(model: Potential, elements: Sequence[int] | None = None) -> list[PathRow]:
    """Every adaptable weight block: module, path l1 x l2 -> l3, mul, counts, share of all weights, norm."""
    species = _species_indices(model, elements or model.atomic_numbers)
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


def _fresh(base: Potential, backbone: Backbone | None = None) -> Potential:
    model = Potential(backbone or base.backbone, base.head)
    model.e0 = base.e0.clone()
    return model


def _species_indices(model: Potential, elements: Sequence[int]) -> list[int]:
    missing = [z for z in elements if z not in model.atomic_numbers]
    if missing:
        raise InputError(f"elements {missing} are unknown to the model, which knows {list(model.atomic_numbers)}")
    return sorted(model.atomic_numbers.index(z) for z in elements)


