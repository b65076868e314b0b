"""A potential: a pretrained backbone, the adaptations on it, and the atomic energies E0."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pathtune.adaptations import Adaptation, Composition
from pathtune.backbone import Backbone, check_same_base
from pathtune.data import (
    Batch,
    Comparison,
    EnergyTerm,
    Graph,
    Request,
    Source,
    Structure,
    collate,
    conjugates,
    find_graph,
    label_of,
    streams,
)
from pathtune.data.batch import ALWAYS
from pathtune.errors import InputError
from pathtune.layers import Layer, Weights, select_layers

DENOMINATORS = ("reachable", "adapted", "all")  # of a share of weights: docs/conventions.md


@dataclasses.dataclass
class Prediction:
    """What a potential says of a batch."""

    outputs: dict[str, torch.Tensor]  # by label; "energy" is the interaction energy E - sum E0 [n_graphs], eV
    e0_energy: torch.Tensor  # [n_graphs] eV, float64
    comparisons: Mapping[str, Comparison] = dataclasses.field(default_factory=dict)  # with labels, by name

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


class Potential(torch.nn.Module):
    """A pretrained backbone and, if any, the adaptations in use on it; the backbone is shared and never changed."""

    e0: torch.Tensor  # [n_species] float64 eV, of the chosen head
    base_e0: torch.Tensor  # [n_species] float64 eV, without adaptations

    def __init__(self, backbone: Backbone, head: int = 0):
        super().__init__()
        self.base = backbone
        self.head = head
        self.tuned_heads = (head,)  # indices of those that the training data name
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
    def inputs(self) -> tuple[str, ...]:
        """Names of the labels that the backbone, or an adaptation in use, reads from the batch."""
        return (*self.backbone.inputs, *self.adaptation.inputs())

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the labels that it predicts: the backbone's, derivatives by what adaptations read, and theirs."""
        derived = [label.name for label in conjugates(self.adaptation.inputs())]
        return (*self.backbone.outputs, *derived, *self.adaptation.predictors())

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
            check_same_base(self.base, base, adaptation.elements)
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

    def for_heads(self, heads: Iterable[str | None] | None) -> Potential:
        """The same model, to be tuned on data of these heads; None stands for the one that it was loaded for.

        Raises InputError for a head that it lacks.
        """
        found = tuple(sorted({self.head_index(name, "heads") for name in heads or (None,)}))
        if found == self.tuned_heads:
            return self
        new = self.with_e0(self.e0)
        new.tuned_heads = found
        return new

    def head_index(self, name: str | None, where: str) -> int:
        """The head of a name that `where` has; None is the one that the model was loaded for.

        A model without heads of its own takes every name. Raises InputError for a head that the model lacks.
        """
        heads = self.backbone.heads
        if name is None or heads in (("Default",), ("default",)):
            return self.head
        if name not in heads:
            raise InputError(f"{where}: head is {name!r}, expected one of {', '.join(heads)}")
        return heads.index(name)

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
        asked = ALWAYS & set(self.backbone.outputs) if outputs is None else frozenset(outputs)
        request = Request(asked, training)
        return self.predict(self.adaptation.weights(self.backbone.parameters), batch, request)

    def predict(self, weights: Weights, batch: Batch, request: Request) -> Prediction:
        """The backbone's prediction with `weights`, by parameter name, in place of its own and of all adaptations'.

        Terms of the energy are those of `request`, else those of the adaptations. Raises InputError for an output that
        the model does not have.
        """
        unknown = sorted(request.outputs - set(self.outputs))
        if unknown:
            has = ", ".join(self.outputs)
            raise InputError(f"output {unknown[0]!r} is asked of a {self.backbone.name}, expected some of {has}")
        terms = () if request.terms else self.adaptation.energy_terms()
        request = dataclasses.replace(request, terms=terms) if terms else request
        own = {name: f for name, f in self.adaptation.predictors().items() if name in request.outputs}
        request = dataclasses.replace(request, predictors=own) if own else request
        outputs = self.backbone.predict(weights, batch, request)
        return Prediction(outputs, self.e0_energy(batch), self.adaptation.comparisons())

    def final_features(self, batch: Batch, outputs: Iterable[str] = ("energy",)) -> tuple[Prediction, tuple[Any, ...]]:
        """The prediction without terms of the energy, and what such a term is a function of: the final features
        [n_nodes, dim], edges, batch; without a graph."""
        seen: list[tuple[Any, ...]] = []

        def tap(features: torch.Tensor, edges: Any, batch: Batch) -> torch.Tensor:
            seen.append((features.detach(), dataclasses.replace(edges, vectors=edges.vectors.detach()), batch))
            return features.new_zeros(batch.n_nodes)

        terms: tuple[EnergyTerm, ...] = (tap,)
        request = Request(frozenset(outputs), terms=terms)
        return self.predict(self.adaptation.weights(self.backbone.parameters), batch, request), seen[0]

    def collate(self, structures: Sequence[Structure], graphs: Sequence[Graph] | None = None) -> Batch:
        """Structures as this model takes them: its species, cutoff, precision and labels, on its device.

        `graphs`: their edges within its cutoff, where they are known. Raises InputError for a head that the model
        lacks and for an input label that a structure lacks and the model needs.
        """
        return self._staged(structures, graphs)()

    def batch(self, source: Source, indices: Sequence[int]) -> Batch:
        """Frames of a source as one batch; InputError as collate."""
        return self.staged(source, indices)()

    def staged(self, source: Source, indices: Sequence[int]) -> Callable[[], Batch]:
        """`batch` in two parts: what the host does, here, and the one copy to a device, where the result is called.

        The first may run in a thread while the device computes another batch. InputError as collate.
        """
        return self._staged(*self.read(source, indices))

    def read(self, source: Source, indices: Sequence[int]) -> tuple[list[Structure], list[Graph]]:
        """Frames of a source, and their edges within the cutoff."""
        indices = [int(i) for i in indices]
        structures = [source.read(i) for i in indices]
        r_max = self.backbone.r_max
        if streams(source):  # it would only read the structure again
            return structures, [find_graph(s, r_max) for s in structures]
        return structures, [source.graph(i, r_max) for i in indices]

    def on_host(self, structures: Sequence[Structure], graphs: Sequence[Graph] | None = None) -> Batch:
        """`collate` on the CPU, wherever the model is; InputError as there."""
        self._check_inputs(structures)
        backbone = self.backbone
        heads = [self.head_index(s.head, s.where) for s in structures]
        names = (*self.outputs, *self.inputs)
        return collate(structures, self.atomic_numbers, backbone.r_max, backbone.dtype, graphs, heads, names)

    def _staged(self, structures: Sequence[Structure], graphs: Sequence[Graph] | None) -> Callable[[], Batch]:
        batch = self.on_host(structures, graphs)
        if self.device.type == "cpu":
            return lambda: batch
        self.backbone.prepare(batch)
        return functools.partial(batch.packed(self.device.type == "cuda").to, self.device)

    def _check_inputs(self, structures: Sequence[Structure]) -> None:
        for label in [label_of(name) for name in self.inputs]:
            lacking = next((s for s in structures if label.name not in s.labels), None)
            if lacking is None or label.is_optional:
                continue
            beside = [other.name for other in conjugates((label.name,)) if other.name in lacking.labels]
            has = f"has {' and '.join(beside)} but no" if beside else "has no"
            raise InputError(
                f"{lacking.where}: {has} {label.name} ({' or '.join((label.key, *label.aliases))}), "
                f"expected it, since {self._reader_of(label.name)} reads it{label.hint and ': '}{label.hint}"
            )
        for name, (least, most) in getattr(self.backbone, "input_ranges", {}).items():
            for s in structures:
                value = s.labels.get(name, np.zeros(()))
                if not np.all((value == np.round(value)) & (value >= least) & (value <= most)):
                    raise InputError(
                        f"{s.where}: {name} is {np.ravel(value)[0]:g}, expected a whole number from {least} to {most}, "
                        f"which is what this {self.backbone.name} knows"
                    )

    def _reader_of(self, name: str) -> str:
        kinds = [c.kind for c in self.adaptation.parts() if name in c.inputs]
        return f"an adaptation of kind {kinds[0]!r}" if kinds else f"a {self.backbone.name}"

    def reachable(self, layer: Layer) -> torch.Tensor:
        """Ascending flat indices of the layer's weights that the training data's elements and heads can change."""
        species = self.species_of(self.elements or self.atomic_numbers)
        return layer.reachable(species, self.tuned_heads).to(self.device)

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
        by_head = self.backbone.atomic_energies().to(self.e0).clone()  # of a float64 model it is the model's own
        by_head[self.head] = self.e0
        return total.index_add(0, batch.node_graph, by_head[batch.head[batch.node_graph], batch.species])

    def trainable(self) -> list[torch.nn.Parameter]:
        """Parameters that training changes."""
        return self.adaptation.trainable()

    def counts(self) -> dict[str, int]:
        """Weights changed, values added beside them, and the three denominators: all, adapted and reachable weights.

        See docs/conventions.md.
        """
        layers = self.adaptation.layers() or select_layers(self.backbone.layers)
        added = self.adaptation.n_added()
        return {
            "active": self.adaptation.n_changed() - added,
            "added": added,
            "all_weights": sum(p.numel() for p in self.backbone.stock.parameters()),
            "adapted_weights": sum(layer.numel for layer in layers),
            "reachable_weights": sum(self.reachable(layer).numel() for layer in layers),
        }

    def active_share(self, counts: Mapping[str, int] | None = None) -> float:
        """Share of the reachable adapted weights that is changed; 1 where all weights are trained."""
        return self.shares(counts)["reachable"]

    def shares(self, counts: Mapping[str, int] | None = None) -> dict[str, float]:
        """What is changed as a share of the reachable, of the adapted and of all weights.

        Where the weights themselves are trained, the first two count those that are trained among these weights.
        """
        counts = counts or self.counts()
        changed = dict.fromkeys(DENOMINATORS, counts["active"])
        if any(c.replaces for c in self.adaptation.parts()):
            layers = self.adaptation.layers() or select_layers(self.backbone.layers)
            parameters = self.backbone.parameters
            trained = [layer for layer in layers if self._is_changed(parameters[layer.parameter], layer.parameter)]
            changed["reachable"] = sum(self.reachable(layer).numel() for layer in trained)
            changed["adapted"] = sum(layer.numel for layer in trained)
        return {name: changed[name] / max(counts[f"{name}_weights"], 1) for name in DENOMINATORS}

    def _is_changed(self, parameter: torch.Tensor, name: str) -> bool:
        """Whether a weight of the adaptations' own copy is trained, or was before."""
        is_written = any(name in c.writes() for c in self.adaptation.parts())
        return is_written or parameter.requires_grad or not torch.equal(parameter, self.base.parameters[name])
