"""Several adaptations on one potential: a list, each building on the weights that those before it give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pathtune.adaptations.base import Adaptation
from pathtune.data import Comparison, EnergyTerm, Predictor
from pathtune.errors import InputError
from pathtune.layers import Layer, Weights


class Composition(torch.nn.Module):
    """The adaptations of a potential, in the order in which they apply; what `Potential.use` takes and gives.

    It knows the backbone that it was made for, the elements of the data that it was made for, and the E0 that were
    found with it.
    """

    e0: torch.Tensor | None  # [n_species] float64 eV; None: those of the base

    def __init__(
        self,
        components: Sequence[Adaptation],
        base: Any,
        elements: Sequence[int] = (),
        e0: torch.Tensor | None = None,
    ):
        """`base`: the backbone. Raises InputError for components that write the same weight where that is undefined:
        one that replaces weights must be the first to write them."""
        super().__init__()
        self.components = torch.nn.ModuleList(components)
        self.base = base
        for component in components:
            component.base = component.base or base
            component.elements = component.elements or tuple(elements)
        self.elements = tuple(sorted({z for c in components for z in c.elements}))
        self.register_buffer("e0", None if e0 is None else e0.clone())
        _check_writers(components)

    def __len__(self) -> int:
        return len(self.components)

    @property
    def kind(self) -> str:
        """Kinds of the components, joined by +."""
        return "+".join(c.kind for c in self.parts())

    def parts(self) -> list[Adaptation]:
        """The components."""
        return list(self.components)  # type: ignore

    def names(self) -> list[str]:
        """A name for each component: its kind, with a number from the second of a kind on."""
        kinds = [component.kind for component in self.parts()]
        before = [kinds[:i].count(kind) for i, kind in enumerate(kinds)]
        return [f"{kind}_{n + 1}" if n else kind for kind, n in zip(kinds, before)]

    @property
    def backbone(self) -> Any:
        """What computes: the copy that a component trains, or the base."""
        return next((c.backbone for c in self.parts() if c.backbone is not None), self.base)

    @property
    def is_stored(self) -> bool:
        """Whether an adapter file can hold it."""
        return len(self) > 0 and all(c.is_stored for c in self.parts())

    def layers(self) -> list[Layer]:
        """Layers that some component may change, each once."""
        return list({layer.name: layer for c in self.parts() for layer in c.layers()}.values())

    def weights(self, parameters: Mapping[str, Any], are_plain: bool = False) -> Weights:
        """W' by parameter name after all components, differentiable; `are_plain`: none as SparseWeights."""
        written: dict[str, Any] = {}
        parts = self.parts()
        for i, component in enumerate(parts):
            later = frozenset().union(*(other.writes() for other in parts[i + 1 :]))
            plain = component.writes() if are_plain else component.writes() & later
            written |= component.weights({**parameters, **written} if written else parameters, plain)
        return written

    def energy_terms(self) -> tuple[EnergyTerm, ...]:
        """What the components add to the energies of the atoms."""
        terms = [c.energy_term() for c in self.parts()]
        return tuple(term for term in terms if term is not None)

    def penalties(self, model: Any) -> list[torch.Tensor]:
        """What the components add to the loss of `model`, which uses them."""
        found = [c.penalty(model) for c in self.parts()]
        return [penalty for penalty in found if penalty is not None]

    def predictors(self) -> dict[str, Predictor]:
        """Outputs that components predict of the final features, by name; the last that has one decides."""
        return {name: found for c in self.parts() for name, found in c.predictors().items()}

    def inputs(self) -> tuple[str, ...]:
        """Names of the labels that the components read from the batch, each once."""
        return tuple(dict.fromkeys(name for c in self.parts() for name in c.inputs))

    def comparisons(self) -> dict[str, Comparison]:
        """How outputs are compared with their labels, by name; the last component that says so decides."""
        return {name: found for c in self.parts() for name, found in c.comparisons().items()}

    def trainable(self) -> list[torch.nn.Parameter]:
        """What an optimizer trains, component by component."""
        return [p for c in self.parts() for p in c.trainable()]

    def state(self) -> list[dict[str, Any]]:
        """Copies of what training changes, one for each component."""
        return [c.state() for c in self.parts()]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """The reverse of `state`."""
        for component, mine in zip(self.parts(), state, strict=True):
            component.restore(mine)

    def n_changed(self) -> int:
        """Number of weights changed and values added, of all components together."""
        return sum(c.n_changed() for c in self.parts())

    def n_added(self) -> int:
        """The part of it that stands beside the weights: of components with a term or an output of their own."""
        return sum(c.n_changed() for c in self.parts() if not c.replaces and not c.writes())


def _check_writers(components: Sequence[Adaptation]) -> None:
    written: dict[str, str] = {}
    for component in components:
        if component.replaces and written:
            first = next(iter(written.values()))
            raise InputError(
                f"adaptations: {component.kind!r} replaces the weights that {first!r} has changed, "
                "expected it before the others, and once"
            )
        names = component.writes() or ({"*"} if component.replaces else set())
        written |= dict.fromkeys(names, component.kind)
