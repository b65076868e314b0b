"""Panels of a training: its curve, parity before and after, errors by element and config_type, what was forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pathtune.data import Label, Source, in_order, outputs
from pathtune.evaluation import by_structure, evaluate
from pathtune.importance.measure import spaced
from pathtune.model import Potential
from pathtune.report.panels import COUNT, NUMBER, TEXT, number, panel, percent, table

MOST_POINTS = 1500  # of a parity figure, for each label
BATCH_SIZE = 8


def curve_panel(lines: Sequence[Mapping[str, Any]], best_epoch: int) -> dict[str, Any]:
    """Losses, share of weights changed, and learning rate by epoch."""
    data = {
        name: [line[name] for line in lines] for name in ("epoch", "train_loss", "valid_loss", "active_share", "lr")
    }
    first, last = (lines[0], lines[-1]) if lines else ({}, {})
    alt = (
        "No epoch was trained."
        if not lines
        else (
            f"Validation loss {number(first['valid_loss'])} after the first epoch, {number(last['valid_loss'])} after "
            f"epoch {last['epoch']}; share of weights changed {percent(first['active_share'])} to "
            f"{percent(last['active_share'])}."
        )
    )
    rows = [[line[k] for k in ("epoch", "train_loss", "valid_loss", "active_share", "lr")] for line in _thinned(lines)]
    columns = [
        ("epoch", COUNT),
        ("training loss", NUMBER),
        ("validation loss", NUMBER),
        ("share changed", "percent"),
        ("learning rate", NUMBER),
    ]
    return panel(
        "curve",
        "Learning curve",
        "Both losses should fall and level out; a validation loss that rises while the training loss falls is "
        "overfitting, and the mark is the epoch that was kept.",
        {"kind": "curve", "alt": alt, "best_epoch": best_epoch, **data} if lines else None,
        [table("Epochs, at most 20 of them", columns, rows)],
    )


def _thinned(lines: Sequence[Mapping[str, Any]], most: int = 20) -> list[Mapping[str, Any]]:
    if len(lines) <= most:
        return list(lines)
    return [lines[i] for i in np.linspace(0, len(lines) - 1, most).round().astype(int)]


def parity_panel(base: Potential, model: Potential, source: Source, most_atoms: int) -> dict[str, Any]:
    """Predictions against labels, before and after, of evenly spaced structures with at most so many atoms."""
    n_atoms = max(int(source.composition.sum()), 1)
    part = spaced(source, max(1, len(source) * most_atoms // n_atoms)) if n_atoms > most_atoms else source
    found = [predicted(m, part) for m in (base, model)]
    labels = []
    for label in outputs():
        if label.name not in found[0] or label.name not in found[1]:
            continue
        reference, before = found[0][label.name]
        after = found[1][label.name][1]
        shift = float(reference.mean()) if label.is_extensive else 0.0
        chosen = np.linspace(0, len(reference) - 1, min(MOST_POINTS, len(reference))).round().astype(int)
        errors = [float(np.abs(x - reference).mean() * label.report_factor) for x in (before, after)]
        labels.append(
            {
                "label": label.name,
                "unit": label.unit + ("/atom, from the mean" if label.is_extensive else ""),
                "error_unit": label.report_unit,
                "n": len(reference),
                "mae_before": errors[0],
                "mae_after": errors[1],
                **{
                    name: np.round(values[chosen] - shift, 6).tolist()
                    for name, values in (("reference", reference), ("before", before), ("after", after))
                },
            }
        )
    said = "; ".join(
        f"{x['label']} error {number(x['mae_before'])} before and {number(x['mae_after'])} {x['error_unit']} after"
        for x in labels
    )
    rows = [[x["label"], x["n"], x["mae_before"], x["mae_after"], x["error_unit"]] for x in labels]
    columns = [("label", TEXT), ("numbers", COUNT), ("MAE before", NUMBER), ("MAE after", NUMBER), ("unit", TEXT)]
    notes = [] if part is source else [f"Of {len(source)} structures {len(part)} are drawn here, evenly spaced."]
    return panel(
        "parity",
        "Predictions against labels",
        "On the diagonal a prediction is exact; the closer the points of after lie to it, "
        "compared with those of before, "
        "the more was gained. Before: the base with its energy of each element refitted, so that "
        "a constant does not count.",
        {"kind": "parity", "alt": f"Predictions against labels: {said}.", "labels": labels} if labels else None,
        [table("Errors of the structures drawn here (MAE)", columns, rows)],
        notes,
    )


def predicted(model: Potential, source: Source) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By label, the labelled numbers of a source and what the model predicts for them, flat, per atom if extensive."""
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for chunk in in_order(len(source), BATCH_SIZE):
        batch = model.batch(source, chunk)
        structures = [source.read(i) for i in chunk]
        for label, parts in by_structure(model(batch, outputs=batch.wanted), structures):
            for s, part in zip(structures, parts):
                if label.name in s.labels:
                    n = len(s) if label.is_extensive else 1
                    mine = np.ravel(s.labels[label.name]) / n, np.ravel(part) / n
                    pairs.setdefault(label.name, []).append(mine)
    return {name: tuple(np.concatenate(x) for x in zip(*found)) for name, found in pairs.items()}  # type: ignore


def errors_panel(before: Mapping[str, Any], after: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Errors of every element and config_type, before and after, of what `evaluate` returns."""
    tables, bars = [_overall(before, after)], []
    groups = (
        ("per_element", "element", "n_atoms", "atoms"),
        ("per_config_type", "config_type", "n_structures", "structures"),
    )
    for key, word, counted, unit in groups:
        rows = [(name, s, before[key].get(name, {})) for name, s in after[key].items()]
        for label in _known(after):
            mine = [
                [name, s.get(counted), old.get(label.mae_key), s[label.mae_key]]
                for name, s, old in rows
                if label.mae_key in s
            ]
            if not mine or (key == "per_config_type" and len(rows) < 2):
                continue
            caption = f"{label.word} MAE by {word}, {label.report_unit}"
            tables.append(table(caption, [(word, TEXT), (unit, COUNT), ("before", NUMBER), ("after", NUMBER)], mine))
            if label.per == "atom":
                bars += [{"name": r[0], "by": word, "n": r[1], "before": r[2], "after": r[3]} for r in mine]
    forces = next((label for label in _known(after) if label.per == "atom"), None)
    unit = forces.report_unit if forces else ""
    worst = max(bars, key=lambda bar: bar["after"], default=None)
    alt = (
        ""
        if worst is None
        else (
            f"Errors of forces by element and config_type; the largest after is {number(worst['after'])} {unit}, "
            f"of {worst['name']}."
        )
    )
    return panel(
        "errors",
        f"Errors on {what}, by element and config_type",
        "Each line goes from the error before (open) to the error after (filled), further left "
        "is better; a group of few "
        "atoms or structures (n) says little.",
        {"kind": "errors", "alt": alt, "unit": unit, "rows": bars[:40]} if bars else None,
        tables,
    )


def _known(scores: Mapping[str, Any]) -> list[Label]:
    return [label for label in outputs() if label.mae_key in scores]


def _overall(before: Mapping[str, Any], after: Mapping[str, Any], first: str = "before") -> dict[str, Any]:
    rows = [
        [
            label.name,
            before.get(label.mae_key),
            after[label.mae_key],
            before.get(label.rmse_key),
            after[label.rmse_key],
            label.report_unit,
        ]
        for label in _known(after)
    ]
    columns = [
        ("label", TEXT),
        (f"MAE {first}", NUMBER),
        ("MAE after", NUMBER),
        (f"RMSE {first}", NUMBER),
        ("RMSE after", NUMBER),
        ("unit", TEXT),
    ]
    return table(f"All {after['n_structures']} structures", columns, rows)


def forgetting_panel(base: Potential, model: Potential, retention: Source) -> dict[str, Any]:
    """Errors of base and tuned model on structures of what the base knows, both with the base's own E0."""
    own = base.with_e0(base.base.atomic_energies()[base.head].to(base.device))
    tuned = model.with_e0(own.e0)
    before, after = evaluate(own, retention), evaluate(tuned, retention)
    bars = [
        {
            "name": f"{label.word}, {label.report_unit}",
            "by": "label",
            "n": after["n_structures"],
            "before": before[label.mae_key],
            "after": after[label.mae_key],
        }
        for label in _known(after)
    ]
    said = "; ".join(f"{b['name']}: {number(b['before'])} before, {number(b['after'])} after" for b in bars)
    return panel(
        "forgetting",
        "What it forgot",
        "Errors on structures of what the base was trained on: an error after that is larger "
        "than before is what tuning "
        "forgot. Both models have the base's own energy of each element here.",
        {"kind": "forgetting", "alt": f"Errors on the retention set, {said}.", "rows": bars} if bars else None,
        [_overall(before, after)],
    )
