"""The verbs that make one potential of another: adapt, sparsify, unfreeze, merge; and what there is to adapt."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from pathtune.adaptations import Adaptation, Composition, Sparse, SparseDelta, adaptation_class
from pathtune.errors import InputError
from pathtune.layers import PathRow
from pathtune.model import Potential


def adapt(
    base: Potential,
    kinds: Sequence[str],
    elements: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    heads: Iterable[str | None] | None = None,
) -> Potential:
    """A new Potential with one new adaptation of each of the `kinds`, in their order, on `base`.

    `elements`: atomic numbers of the training data; `heads`: the heads that they name, by default the one that the
    model was loaded for; `options`: what is asked of each kind, by the name of its section in a config file, its
    defaults where absent. Raises InputError for an unknown kind, for elements and heads the model lacks, for a `base`
    that is adapted already, and as the kinds themselves do.
    """
    base = base.for_heads(heads)
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
    heads: Iterable[str | None] | None = None,
) -> Potential:
    """A new Potential with a sparse delta on `base`, whose weights are frozen and shared, never changed.

    `elements` and `heads`: of the training data; weights of other species and heads cannot be trained and get no
    delta; by default all elements, and the head that the model was loaded for. `candidates`: the weights that may
    change, as flat indices by layer name (those of `paths`), instead of those that `config` would choose; layers
    that it does not name get no delta. A layer with few candidates is trained without ever forming its dense gradient.
    Raises InputError for targets that match no
    layer, elements the model lacks, a share of less than one weight, a layer in `candidates` that is unknown
    or no target, and indices outside of their layer.
    """
    base = base.for_heads(heads)
    if base.is_adapted:
        raise InputError("sparsify: the model already carries an adapter, expected a plain one (merge it first)")
    elements = _checked_elements(base, elements)
    return _adapted(base, [Sparse.at(base, elements, config or SparseDelta(), seed, candidates)], elements)


def unfreeze(base: Potential, arm: str, elements: Sequence[int] | None = None) -> Potential:
    """A new Potential, with its own copy of the weights, that trains all of them ("full") or the readouts."""
    if arm not in ("full", "readout"):
        raise InputError(f"arm is {arm!r}, expected full or readout (sparsify makes a sparse one)")
    return adapt(base, [arm], elements)


def merge(model: Potential, drop_spin: bool = False) -> torch.nn.Module:
    """A stock model on the CPU with the adaptations folded in, and the model's E0: needs no pathtune.

    `drop_spin`: leave out an adaptation of kind "spin", with a warning: the energy changes, to that of the model
    without moments. Raises InputError for an adaptation that adds to the energy what no weights can hold.
    """
    for component in model.adaptation.parts():
        if component.predictors():
            warnings.warn(
                f"pathtune: merge leaves out {', '.join(component.predictors())}, which a plain model cannot predict",
                stacklevel=2,
            )
        if component.energy_term() is None:
            continue
        if component.kind == "spin" and drop_spin:
            warnings.warn(
                "pathtune: merge leaves out the spin layer: the energy changes, to that of zero moments", stacklevel=2
            )
        elif component.kind == "spin":
            raise InputError(
                "merge: a plain model cannot hold the spin layer, expected drop_spin (--drop-spin), "
                "which changes the energy to that of zero moments"
            )
        else:
            raise InputError(
                f"merge: an adaptation of kind {component.kind!r} adds a term to the energy, "
                "expected only changes of weights"
            )
    weights = {name: w.detach() for name, w in model.effective_weights().items()}
    return model.backbone.with_weights(weights, model.e0, model.head).cpu()


def paths(model: Potential, elements: Sequence[int] | None = None) -> list[PathRow]:
    """Every adaptable weight block: module, path l1 x l2 -> l3, mul, counts, share of all weights, norm, changes.

    `elements`: of the structures that decide what is reachable; by default those of the adaptation, or all that the
    model knows. Raises InputError for elements that it does not know.
    """
    species = model.species_of(elements or (model.is_adapted and model.elements) or model.atomic_numbers)
    heads = model.tuned_heads
    own = model.base.parameters
    changed = {**model.backbone.parameters, **model.effective_weights()} if model.is_adapted else {}
    total = sum(p.numel() for p in model.backbone.stock.parameters())
    rows = []
    for layer in model.backbone.layers:
        flat = own[layer.parameter].detach().double().flatten()
        delta = changed.get(layer.parameter, flat).detach().double().flatten() - flat
        for path in layer.paths:
            block = slice(path.offset, path.offset + path.numel)
            rows.append(
                PathRow(
                    module=layer.name,
                    kind=layer.kind,
                    path=path.text,
                    mul=path.mul,
                    weights=path.numel,
                    reachable=path.reachable(species, heads).numel(),
                    share=path.numel / total,
                    norm=float(flat[block].pow(2).mean().sqrt()),
                    scope=layer.scope,
                    changed=int(delta[block].count_nonzero()),
                    change=float(delta[block].pow(2).mean().sqrt()),
                )
            )
    return rows


def _checked_elements(base: Potential, elements: Sequence[int] | None) -> tuple[int, ...]:
    chosen = tuple(sorted(elements or base.atomic_numbers))
    base.species_of(chosen)
    return chosen


def _adapted(base: Potential, components: Sequence[Adaptation], elements: Sequence[int]) -> Potential:
    model = Potential(base.base, base.head)
    model.e0 = base.e0.clone()
    model.base_e0 = base.base_e0.clone()
    model.tuned_heads = base.tuned_heads
    model.adaptation = Composition(components, base.base, elements, base.e0)
    return model
