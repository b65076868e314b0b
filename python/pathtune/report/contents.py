"""What the report of one run holds, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pathtune.data import Source, outputs
from pathtune.evaluation import evaluate
from pathtune.importance import importance
from pathtune.importance.measure import check_labelled, spaced
from pathtune.importance.parts import Change
from pathtune.report.panels import FACT, PERCENT, TEXT, number, panel, percent, table
from pathtune.report.run import FinishedRun
from pathtune.report.training import curve_panel, errors_panel, forgetting_panel, parity_panel
from pathtune.report.weights import NOT_ELECTRONS, weight_panels
from pathtune.training.methods import describe

COUNTED = {"reachable": "reachable_weights", "adapted": "adapted_weights", "all": "all_weights"}
FEW_ATOMS, MOST_ATOMS = 1500, 6000  # whose predictions the parity figure of a cheap and of a full report asks
MOST_FRAMES = 60  # structures that importance is measured on, by default
CAVEATS = (
    NOT_ELECTRONS,
    "Which weights were changed follows the training rule as much as the data: a count is no evidence for physics.",
    "Importance describes this adapter on these structures; what a change of one l could do is often done by another.",
    "A claim about a class of materials needs several systems a side, two seeds each, the "
    "anisotropy of their structures "
    "as a covariate, and a correction for the number of measures tried.",
)


def run_report(
    run: FinishedRun,
    is_full: bool = True,
    data: Source | None = None,
    retention: Source | None = None,
    max_frames: int | None = MOST_FRAMES,
) -> dict[str, Any]:
    """What report.json holds of a run.

    `is_full`: with importance, which takes longer. `data`: labelled structures in place of the run's validation set;
    `retention`: structures of what the base knows. Raises InputError for structures without labels and for elements
    that the model lacks.
    """
    source = run.valid if data is None else data
    what = "the validation set" if data is None else "the given data"
    check_labelled(run.model, source, run.fit)
    if data is None:
        before, after = run.metrics["valid_before"], run.metrics["valid"]
    else:
        before, after = evaluate(run.base, source), evaluate(run.model, source)
    panels = [
        curve_panel(run.lines, run.metrics["best_epoch"]),
        parity_panel(run.base, run.model, source, MOST_ATOMS if is_full else FEW_ATOMS),
        errors_panel(before, after, what),
    ]
    said = sentence(before, after, run, what)
    caveats: list[str] = list(CAVEATS)
    if retention is None:
        caveats.append("What was forgotten was not measured; --retention FILE measures it.")
    else:
        panels.append(forgetting_panel(run.base, run.model, retention))
        said += forgotten(panels[-1], len(retention))
    found = None
    if is_full and Change.of(run.model).base:
        part = spaced(source, max_frames)
        found = importance(run.model, part, run.fit, elements=run.elements)
        panels += weight_panels(found)
    elif is_full:
        why = "The weights are those of the base: there is nothing to measure."
        panels.append(panel("shapley", "Importance", "What each group of weights did to the loss.", notes=[why]))
    return {
        "kind": "run",
        "title": run.name,
        "is_full": is_full,
        "sentence": said,
        "warnings": list(run.metrics["warnings"]),
        "facts": _facts(run, source, found.n_structures if found else None, what),
        "panels": panels,
        "importance": found.as_dict() if found else None,
        "methods": describe(run.metrics, run.config),
        "links": _links(run),
        "caveats": caveats,
        "more": None if is_full else "pathtune report RUN adds importance by degree, layer and element.",
    }


def sentence(before: dict[str, Any], after: dict[str, Any], run: FinishedRun, what: str) -> str:
    """The run in one honest sentence."""
    changes = [
        (label.word, before[label.mae_key], after[label.mae_key], label.report_unit)
        for label in outputs()
        if label.mae_key in before and label.mae_key in after
    ]
    how_many = f"{run.metrics['counts']['active']:,d} values ({percent(run.metrics['active_share'])} of the reachable)"
    if run.metrics["is_start"]:
        return "Training made the model worse, so the result is the base with refitted atomic energies."
    n = after["n_structures"]
    return f"With {how_many} changed, the mean errors on {what} ({n} structures) went from {_listed(changes)}."


def forgotten(forgetting: dict[str, Any], n_structures: int) -> str:
    """What the panel of forgetting says, in one sentence; nothing where it has no figure."""
    if not forgetting["figure"]:
        return ""
    changes = [(*row["name"].split(", "), row["before"], row["after"]) for row in forgetting["figure"]["rows"]]
    told = _listed([(word, before, after, unit) for word, unit, before, after in changes])
    return f" On {n_structures} structures of what the base knows, mean errors went from {told}."


def _listed(changes: Sequence[tuple[str, float, float, str]]) -> str:
    parts = [f"{number(old)} to {number(new)} {unit} ({word})" for word, old, new, unit in changes]
    return ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]


def _facts(run: FinishedRun, source: Source, n_measured: int | None, what: str) -> dict[str, Any]:
    m, counts = run.metrics, run.metrics["counts"]
    rows: list[list[Any]] = [
        ["base", f"{m['base']} {m.get('model') or ''}".strip()],
        *[["base SHA-256", m["model_sha256"]] for _ in range(bool(m.get("model_sha256")))],
        ["arm", m["arm"]],
        ["seed", m["seed"]],
        *[[f"structures, {name}", n] for name, n in m["n_structures"].items()],
        [f"structures of {what}", len(source)],
        ["values changed", counts["active"]],
        *[["values added beside the weights", counts["added"]] for _ in range(bool(counts.get("added")))],
        *[[f"weights, {word}", counts[name]] for word, name in COUNTED.items()],
        ["precision", m["dtype"]],
        *[[name, version] for name, version in m["versions"].items()],
    ]
    if n_measured is not None:
        rows.insert(-len(m["versions"]) - 1, ["structures that importance is measured on", n_measured])
    shares = [[f"of {word} weights", counts["active"] / max(1, counts[name])] for word, name in COUNTED.items()]
    return {
        "rows": table("What was run", [("", TEXT), ("", FACT)], rows),
        "shares": table("Share of weights that were changed", [("", TEXT), ("", PERCENT)], shares),
    }


def _links(run: FinishedRun) -> list[str]:
    folder = run.folder
    files = (folder.predictions, folder.adapter, folder.merged, folder.metrics, folder.config, folder.table)
    return [file.name for file in files if file.is_file()]


def names_of(runs: Sequence[FinishedRun]) -> list[str]:
    """One for each run: its folder's name, with a number where two have the same."""
    found = [run.name for run in runs]
    return [f"{name} ({i + 1})" if found.count(name) > 1 else name for i, name in enumerate(found)]
