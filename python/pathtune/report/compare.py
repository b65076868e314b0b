"""What the report of several runs of one base holds: overlap, importance side by side, errors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from pathtune.adaptations import SparseDelta
from pathtune.data import Source, outputs
from pathtune.errors import InputError
from pathtune.evaluation import evaluate
from pathtune.importance import Importance, importance, overlap
from pathtune.importance.measure import check_labelled, spaced
from pathtune.importance.parts import Change
from pathtune.options import from_mapping
from pathtune.report.contents import CAVEATS, MOST_FRAMES, names_of
from pathtune.report.panels import COUNT, NUMBER, PERCENT, TEXT, panel, percent, table
from pathtune.report.run import FinishedRun
from pathtune.training.methods import describe


def comparison(
    runs: Sequence[FinishedRun], data: Source | None = None, max_frames: int | None = MOST_FRAMES
) -> dict[str, Any]:
    """What report.json holds of several runs; `data`: structures on which all are judged, else each one's own.

    Raises InputError for runs of different bases, and as run_report.
    """
    names = names_of(runs)
    sources = [run.valid if data is None else data for run in runs]
    for run, source in zip(runs, sources):
        check_labelled(run.model, source, run.fit)
    measured = [
        importance(run.model, spaced(source, max_frames), run.fit, elements=run.elements)
        if Change.of(run.model).base
        else None
        for run, source in zip(runs, sources)
    ]
    what = "the given data" if data is not None else "each run's own validation set"
    notes = []
    if data is None and len({run.metrics["fingerprints"].get("valid") for run in runs}) > 1:
        notes = ["The runs have different validation sets: their errors and shares are of different structures."]
    return {
        "kind": "comparison",
        "title": " against ".join(names),
        "is_full": True,
        "sentence": f"{len(runs)} runs of one base, {runs[0].metrics['base']}, judged on {what}.",
        "warnings": notes,
        "facts": {"rows": _facts(runs, names), "shares": None},
        "panels": [_errors(runs, names, sources), _overlaps(runs, names), _importance(names, measured)],
        "importance": {name: found.as_dict() for name, found in zip(names, measured) if found},
        "methods": " ".join(f"{name}: {describe(run.metrics, run.config)}" for name, run in zip(names, runs)),
        "links": [],
        "caveats": list(CAVEATS),
        "more": None,
    }


def _facts(runs: Sequence[FinishedRun], names: Sequence[str]) -> dict[str, Any]:
    columns = [
        ("run", TEXT),
        ("arm", TEXT),
        ("seed", COUNT),
        ("training structures", COUNT),
        ("values changed", COUNT),
        ("of the reachable", PERCENT),
    ]
    rows = [
        [name, m["arm"], m["seed"], m["n_structures"]["train"], m["counts"]["active"], m["active_share"]]
        for name, m in zip(names, [run.metrics for run in runs])
    ]
    return table("What was run", columns, rows)


def _errors(runs: Sequence[FinishedRun], names: Sequence[str], sources: Sequence[Source]) -> dict[str, Any]:
    scores = [(evaluate(run.base, source), evaluate(run.model, source)) for run, source in zip(runs, sources)]
    known = [label for label in outputs() if any(label.mae_key in after for _, after in scores)]
    columns = [("run", TEXT), ("structures", COUNT)]
    for label in known:
        columns += [(f"{label.word} before, {label.report_unit}", NUMBER), (f"{label.word} after", NUMBER)]
    rows = [
        [name, after["n_structures"], *[s.get(label.mae_key) for label in known for s in (before, after)]]
        for name, (before, after) in zip(names, scores)
    ]
    return panel(
        "errors",
        "Errors",
        "Mean absolute errors of each run before and after; smaller is better, and two runs "
        "compare only where they were "
        "judged on the same structures.",
        None,
        [table("MAE", columns, rows)],
    )


def _overlaps(runs: Sequence[FinishedRun], names: Sequence[str]) -> dict[str, Any]:
    rows = []
    for i, j in itertools.combinations(range(len(runs)), 2):
        found = overlap(runs[i].model, runs[j].model, (_first_share(runs[i]), _first_share(runs[j])))
        pair = f"{names[i]}, {names[j]}"
        rows.append(
            [
                pair,
                *found["changed"],
                found["both"],
                found["jaccard"],
                found["chance"],
                found["ceiling"],
                found["cosine"],
            ]
        )
    counted = [("runs", TEXT), ("first changes", COUNT), ("second changes", COUNT), ("both", COUNT)]
    columns = [("runs", TEXT), ("overlap", PERCENT), ("by chance", PERCENT), ("ceiling", PERCENT), ("cosine", NUMBER)]
    bars = [{"name": r[0], "jaccard": r[4], "chance": r[5], "ceiling": r[6]} for r in rows]
    said = "; ".join(f"{b['name']}: {percent(b['jaccard'])}, by chance {percent(b['chance'])}" for b in bars)
    return panel(
        "overlap",
        "The same weights?",
        "Overlap is the number of weights that both change over that of weights that either "
        "changes; read it between what "
        "chance gives and the ceiling, the most that these two could have reached.",
        {"kind": "overlap", "alt": f"Overlap of changed weights, {said}.", "rows": bars},
        [
            table("Overlap (Jaccard index)", columns, [[row[0], *row[4:]] for row in rows]),
            table("Weights that were changed", counted, [row[:4] for row in rows]),
        ],
    )


def _first_share(run: FinishedRun) -> float:
    """Of the weights that were candidates at all, where they were drawn at random; 1 for any other arm."""
    if run.metrics["arm"] != "sparse":
        return 1.0
    options = {k: v for k, v in run.config.get("delta", {}).items() if not (k == "active_share" and isinstance(v, str))}
    delta = from_mapping(SparseDelta, options, f"{run.folder.config}, [delta]")
    return delta.first_share if delta.score == "random" else 1.0


def _importance(names: Sequence[str], measured: Sequence[Importance | None]) -> dict[str, Any]:
    groups = list(dict.fromkeys(g.group for found in measured if found for g in found.groups))
    groups.sort(key=lambda group: (group == "rest", group))
    rows, values = [], []
    for name, found in zip(names, measured):
        shares = {g.group: g.shapley_share for g in found.groups} if found else {}
        values.append([shares.get(group) for group in groups])
        rows.append([name, *values[-1], found.completeness if found else None])
    columns = [("run", TEXT), *[(group, PERCENT) for group in groups], ("integrated gradients add up to", PERCENT)]
    said = "; ".join(f"{r[0]}: " + ", ".join(f"{g} {percent(v)}" for g, v in zip(groups, r[1:])) for r in rows)
    return panel(
        "shapley",
        "Importance side by side",
        "Each bar is the exact Shapley share of the loss taken off by the weights of one l; where only the seed "
        "differs, the difference says how uncertain a share is.",
        {
            "kind": "side_by_side",
            "alt": f"Shapley shares. {said}.",
            "names": list(names),
            "groups": groups,
            "values": values,
        },
        [table("Shapley share of the loss taken off", columns, rows)],
    )


def check_same_base(runs: Sequence[FinishedRun]) -> None:
    """Raise InputError for a run of another base than the first's, as far as its metrics tell."""
    for run in runs[1:]:
        mine, first = (r.metrics.get("model_sha256") or r.metrics.get("model") for r in (run, runs[0]))
        if mine != first:
            raise InputError(
                f"{run.folder.folder}: was trained from another base than {runs[0].folder.folder}, expected runs of one"
            )
