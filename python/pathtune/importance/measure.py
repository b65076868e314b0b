"""`importance`: all measures of one tuned model on one set of structures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from ase.data import chemical_symbols

from pathtune.adaptations.pull import fisher_diagonal
from pathtune.data import (
    Batch,
    LabelKeys,
    Request,
    Source,
    as_source,
    batches,
    check_elements,
    elements_of,
    outputs,
    subset,
)
from pathtune.errors import InputError
from pathtune.importance.anisotropy import local_order
from pathtune.importance.counts import RateLine, rate_line
from pathtune.importance.integrated import complete_gradients, is_complete
from pathtune.importance.parts import REST, Change, Part, group_name, parts_of
from pathtune.importance.result import ElementRow, GroupRow, Importance, PartRow
from pathtune.importance.shapley import left_out, losses_of, shapley_values
from pathtune.model import Potential
from pathtune.training.options import FitConfig

Row = TypeVar("Row", PartRow, ElementRow)
BATCH_SIZE = 4
FISHER_FRAMES = 16  # structures, evenly spaced, for the Fisher information
FISHER_SEED = 0  # of the random signs; not that of a training


def importance(
    model: Potential,
    structures: Any,
    config: FitConfig | None = None,
    keys: LabelKeys | None = None,
    max_frames: int | None = None,
    elements: Sequence[int] | None = None,
) -> Importance:
    """What each group of weights of a tuned model did to the loss on these structures, best those of validation.

    `model`: one with adaptations of any kind; the base's and the tuned weights are compared, both with the tuned
    model's E0 and terms of the energy, so that only weights are judged. `structures`: as of `evaluate`; at most
    `max_frames` of them, evenly spaced. `config`: its loss, the default one where None. `elements`: atomic numbers
    that count as reachable, by default those that the model was adapted to. Raises InputError as evaluate, for
    structures without a label that counts in the loss, and for a model whose weights are its base's.
    """
    config = config or FitConfig()
    source = spaced(as_source(structures, keys), max_frames)
    check_elements(source, model.atomic_numbers)
    check_labelled(model, source, config)
    change = Change.of(model)
    if not change.base:
        raise InputError("importance: the model's weights are those of its base, expected a tuned model")
    parts = parts_of(model.base, change.adapted, model.species_of(elements or _elements(model, source)))
    frames = list(batches(model, source, BATCH_SIZE))
    loss_of = functools.partial(config.loss_of, scale=config.scale_of(model, source))
    changed = {part.group for part in parts if _n_changed(change, part)}
    players = sorted(changed - {REST}) + [REST] * (REST in changed)
    losses = losses_of(players, lambda s: mean_loss_with(model, change.with_groups(parts, s), frames, loss_of))
    removed = losses[frozenset()] - losses[frozenset(players)]
    gradients, nodes, completeness = complete_gradients(model, change, frames, loss_of, removed)
    shown = is_complete(completeness)
    fisher = _fisher(model, change, source)
    rows = _part_rows(change, parts, gradients if shown else None, removed, fisher)
    line = rate_line([row.rate for row in rows], [row.fisher for row in rows])
    order = local_order(source, model.base.r_max)
    return Importance(
        n_structures=len(source),
        n_atoms=int(source.composition.sum()),
        loss_base=losses[frozenset()],
        loss_tuned=losses[frozenset(players)],
        groups=_group_rows(rows, players, losses, removed),
        coalitions=tuple((tuple(sorted(s)), value) for s, value in losses.items()),
        parts=tuple(_with_prediction(row, line) for row in rows),
        elements=tuple(
            _with_prediction(row, line)
            for row in _element_rows(model, change, parts, gradients if shown else None, removed, fisher)
        ),
        nodes=nodes,
        completeness=completeness,
        is_complete=shown,
        rate_line=line,
        anisotropy=tuple((k + 1, float(q.mean()), float(q.std())) for k, q in enumerate(order.T)) if len(order) else (),
    )


def spaced(source: Source, most: int | None) -> Source:
    """At most so many structures of a source, evenly spaced. Raises InputError for less than one."""
    if most is not None and most < 1:
        raise InputError(f"max_frames is {most}, expected at least 1")
    if most is None or len(source) <= most:
        return source
    return subset(source, np.linspace(0, len(source) - 1, most).round().astype(int).tolist())


def check_labelled(model: Potential, source: Source, config: FitConfig) -> None:
    """Raise InputError where no structure has a label that the model predicts and the loss counts."""
    counted = [
        label.name
        for label in outputs()
        if label.name in model.outputs and config.weights.get(label.name, label.weight)
    ]
    if not len(source) or not any(bool(source.present[name].any()) for name in counted):
        raise InputError(
            f"{source.read(0).where if len(source) else 'the data'}: {len(source)} structures have no label that "
            f"counts, expected {' or '.join(counted)}"
        )


def mean_loss_with(
    model: Potential, weights: Mapping[str, torch.Tensor], frames: Sequence[Batch], loss_of: Any
) -> float:
    """The mean loss over the structures of `frames` with these weights in place of those that adaptations change."""
    total, n = 0.0, 0
    for batch in frames:
        prediction = model.predict(weights, batch, Request(batch.wanted))
        total += float(loss_of(prediction, batch).detach()) * batch.n_graphs
        n += batch.n_graphs
    return total / n


def _elements(model: Potential, source: Source) -> Sequence[int]:
    """Those that the model was adapted to; of one that was extracted, and knows them all, those of the data."""
    is_any = not model.elements or len(model.elements) == len(model.atomic_numbers)
    return elements_of(source) if is_any else model.elements


def _n_changed(change: Change, part: Part) -> int:
    return int((part.of(change.delta(part.parameter)) != 0).sum()) if part.parameter in change.base else 0


def _fisher(model: Potential, change: Change, source: Source) -> dict[str, torch.Tensor]:
    """F_i W_i^2 of every adapted weight at the base, by name, float64."""
    names = [name for name in model.base.parameters if name in change.adapted]
    frames = batches(model, spaced(source, FISHER_FRAMES), 1)
    found = fisher_diagonal(model, frames, FISHER_SEED, names)
    return {name: f.double() * model.base.parameters[name].detach().double().square() for name, f in found.items()}


def _part_rows(
    change: Change,
    parts: Sequence[Part],
    gradients: Mapping[str, torch.Tensor] | None,
    removed: float,
    fisher: Mapping[str, torch.Tensor],
) -> list[PartRow]:
    rows = []
    for part in parts:
        reachable = part.is_reachable
        n_reachable, n_changed = int(reachable.sum()), _n_changed(change, part)
        information = part.of(fisher[part.parameter]).cpu()[reachable]
        relative = integrated = None
        if part.parameter in change.base and n_reachable:
            delta, base = part.of(change.delta(part.parameter)), part.of(change.base[part.parameter])
            norms = [float(w.cpu()[reachable].double().square().mean().sqrt()) for w in (delta, base)]
            relative = norms[0] / norms[1] if norms[1] else None
        if gradients is not None:
            mine = gradients.get(part.parameter)
            integrated = 0.0 if mine is None else float(part.of(mine).sum())
        rows.append(
            PartRow(
                layer=part.layer,
                kind=part.kind,
                path=part.path,
                group=part.group,
                weights=part.indices.numel(),
                reachable=n_reachable,
                changed=n_changed,
                rate=n_changed / n_reachable if n_reachable else None,
                predicted_rate=None,
                fisher=float(information.mean()) if n_reachable else None,
                relative_change=relative,
                integrated=integrated,
                integrated_share=_share(integrated, removed),
            )
        )
    return rows


def _with_prediction(row: Row, line: RateLine | None) -> Row:
    return dataclasses.replace(row, predicted_rate=None if line is None else line.at(row.fisher))


def _group_rows(
    rows: Sequence[PartRow], players: Sequence[str], losses: Mapping[frozenset[str], float], removed: float
) -> tuple[GroupRow, ...]:
    values, left = shapley_values(players, losses), left_out(players, losses)
    all_fisher = sum((row.fisher or 0.0) * row.reachable for row in rows)
    all_changed = sum(row.changed for row in rows)
    names = sorted({row.group for row in rows} - {REST}) + [REST] * any(row.group == REST for row in rows)
    result = []
    for name in names:
        mine = [row for row in rows if row.group == name]
        pieces = [row.integrated for row in mine]
        integrated = None if None in pieces else sum(p for p in pieces if p is not None)
        changed = sum(row.changed for row in mine)
        fisher = sum((row.fisher or 0.0) * row.reachable for row in mine)
        result.append(
            GroupRow(
                group=name,
                weights=sum(row.weights for row in mine),
                reachable=sum(row.reachable for row in mine),
                changed=changed,
                changed_share=changed / all_changed,
                shapley=values.get(name, 0.0),  # a group without a change never changes the loss
                shapley_share=_share(values.get(name, 0.0), removed),
                left_out=left.get(name, 0.0),
                integrated=integrated,
                integrated_share=_share(integrated, removed),
                fisher_share=fisher / all_fisher if all_fisher else None,
            )
        )
    return tuple(result)


def _element_rows(
    model: Potential,
    change: Change,
    parts: Sequence[Part],
    gradients: Mapping[str, torch.Tensor] | None,
    removed: float,
    fisher: Mapping[str, torch.Tensor],
) -> tuple[ElementRow, ...]:
    # By species and degree: reachable, changed, integrated, Fisher information.
    sums: dict[tuple[int, int | None], list[float]] = {}
    for part in parts:
        if part.species is None or part.kind != "species linear":
            continue
        like = model.base.parameters[part.parameter]
        delta = change.delta(part.parameter) if part.parameter in change.base else torch.zeros_like(like)
        is_changed = part.of(delta).cpu() != 0
        mine = None if gradients is None else gradients.get(part.parameter, torch.zeros_like(like))
        information = part.of(fisher[part.parameter]).cpu()
        for s in range(len(model.atomic_numbers)):
            where = part.species == s
            row = sums.setdefault((s, part.degree), [0.0, 0.0, 0.0, 0.0])
            reachable = where & part.is_reachable
            row[0] += int(reachable.sum())
            row[1] += int((where & is_changed).sum())
            row[2] += 0.0 if mine is None else float(part.of(mine).cpu()[where].sum())
            row[3] += float(information[reachable].sum())
    present = {s for (s, _), row in sums.items() if row[0]}
    order = sorted(sums.items(), key=lambda item: (item[0][0], item[0][1] is None, item[0][1] or 0))
    return tuple(
        ElementRow(
            element=chemical_symbols[model.atomic_numbers[s]],
            group=group_name(degree),
            reachable=int(row[0]),
            changed=int(row[1]),
            rate=row[1] / row[0] if row[0] else None,
            predicted_rate=None,
            fisher=row[3] / row[0] if row[0] else None,
            integrated_share=None if gradients is None else _share(row[2], removed),
        )
        for (s, degree), row in order
        if s in present or row[1]  # of up to 89 elements those of the data, and any other that changed
    )


def _share(value: float | None, whole: float) -> float | None:
    return None if value is None or whole <= 0 else value / whole
