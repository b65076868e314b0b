"""Rows of a comparison: for each arm its best learning rate by validation, then means and spreads over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pathtune.comparing.arms import Arm
from pathtune.comparing.probe import Cost
from pathtune.data import Label, outputs

Row = dict[str, Any]


def validation(run: Mapping[str, Any]) -> float:
    """What a run is chosen by: its best validation loss; infinite where it diverged or never had what was asked."""
    return math.inf if run["valid_loss"] is None else run["valid_loss"]


def best_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run with the lowest validation loss."""
    return min(runs, key=validation)


def untrained_row(name: str, scores: Mapping[str, Mapping[str, float] | None]) -> Row:
    """Of the base; `scores`: errors on valid, test and known."""
    plain = {split: None if found is None else _spreads([found]) for split, found in scores.items()}
    return {"arm": name, "title": name, "values": 0, "stored_bytes": 0, **plain}


def arm_row(arm: Arm, tried: Sequence[dict[str, Any]], chosen: Sequence[dict[str, Any]], cost: Cost | None) -> Row:
    """Of an arm. `tried`: runs at every rate; `chosen`: those at the best one, one for each seed."""
    row: Row = {
        "arm": arm.key,
        "title": arm.title,
        "lr": chosen[0]["lr"],
        "rates": [{"lr": run["lr"], "valid_loss": run["valid_loss"]} for run in tried],
        "seeds": [run["seed"] for run in chosen],
        "is_edge": len(tried) > 2 and chosen[0]["lr"] in (min(r["lr"] for r in tried), max(r["lr"] for r in tried)),
    }
    if cost is not None:
        row |= {"step_seconds": cost.step_seconds, "clock": cost.clock, "peak_bytes": cost.peak_bytes}
    good = [run for run in chosen if run["diverged"] is None]
    row["n_diverged"] = len(chosen) - len(good)
    if not good:
        return row
    first = good[0]
    counts = first["counts"]
    return row | {
        "values": counts["active"],
        "added": counts.get("added", 0),
        "counts": counts,
        "shares": first["shares"],
        "stored_bytes": first["stored_bytes"],
        "optimizer_bytes": first["optimizer_bytes"],
        "epochs": first["epochs"],
        "n_steps": first["n_steps"],
        "seconds": round(statistics.median(run["seconds"] for run in good), 2),
        **{split: _of_split(good, split) for split in ("valid", "test", "known")},
    }


def add_ratios(rows: Sequence[Row]) -> None:
    """To each row error / full fine-tuning's, on test, or on validation where there is no test."""
    full = next((row for row in rows if row["arm"] == "full" and split_of(row)), None)
    for row in rows:
        mine, theirs = split_of(row), split_of(full) if full else None
        if mine and theirs:
            row["over_full"] = {key: _ratio(mine[key][0], theirs[key][0]) for key in mine if key in theirs}


def split_of(row: Row) -> dict[str, list[float]] | None:
    """The errors that a row is judged by: those on test, or on validation where there is no test."""
    return row.get("test") or row.get("valid")


def n_values(row: Row) -> int:
    """Values of the weights that an arm changes, and values that it adds beside them."""
    return row.get("values", 0) + row.get("added", 0)


def reported(rows: Sequence[Row]) -> list[Label]:
    """Labels that some row has an error of."""
    return [label for label in outputs() if any(label.mae_key in (split_of(row) or {}) for row in rows)]


def _ratio(value: float, reference: float) -> float | None:
    return round(value / reference, 4) if reference else None


def _of_split(runs: Sequence[dict[str, Any]], split: str) -> dict[str, list[float]] | None:
    return None if runs[0][split] is None else _spreads([run[split] for run in runs])


def _spreads(found: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Mean, and largest minus smallest, of each error."""
    result = {}
    for key in found[0]:
        values = [scores[key] for scores in found]
        result[key] = [round(statistics.mean(values), 4), round(max(values) - min(values), 4)]
    return result


def error_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of the errors: on each set that there is, and against full fine-tuning."""
    labels = reported(rows)
    splits = [split for split in ("valid", "test", "known") if any(row.get(split) for row in rows)]
    heading = [f"{split} {label.word} {label.report_unit}" for split in splits for label in labels]
    has_ratio = any("over_full" in row for row in rows)
    ratios = labels if has_ratio else []
    heading += [f"{label.word} / full" for label in ratios]
    lines = []
    for row in rows:
        line = [row["title"]]
        line += [_error(row.get(split), label.mae_key) for split in splits for label in labels]
        line += [_plain(row.get("over_full", {}).get(label.mae_key), ".2f") for label in ratios]
        lines.append(line)
    return ["arm", *heading], lines


def cost_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of what each arm trains, keeps and takes."""
    adds = any(row.get("added") for row in rows)
    heading = ["arm", "rate", "values changed", *(["values added"] if adds else [])]
    heading += ["% of reachable", "% of adapted", "% of all", "stored kB", "optimizer kB", "peak MB"]
    heading += ["ms per step", "steps"]
    lines = []
    for row in rows:
        shares = row.get("shares", {})
        lines.append(
            [
                row["title"],
                _plain(row.get("lr"), ".3g") + ("*" if row.get("is_edge") else ""),
                _plain(row.get("values"), ",d") if row.get("values") else "none",
                *([_plain(row.get("added") or None, ",d")] if adds else []),
                *(_plain(shares.get(name), ".3g", 100) for name in ("reachable", "adapted", "all")),
                _plain(row.get("stored_bytes") or None, ",.1f", 1e-3),
                _plain(row.get("optimizer_bytes"), ",.1f", 1e-3),
                _plain(row.get("peak_bytes"), ",.0f", 1e-6),
                _plain(row.get("step_seconds"), ",.1f", 1e3),
                _plain(row.get("n_steps"), ",d"),
            ]
        )
    return heading, lines


def markdown(rows: Sequence[Row]) -> str:
    """One table of both, without the columns that are empty."""
    costs, mine = cost_cells(rows)
    errors, theirs = error_cells(rows)
    columns = list(zip(*[[*costs, *errors[1:]], *([*a, *b[1:]] for a, b in zip(mine, theirs))]))
    kept = [column for column in columns if any(column[1:])]
    lines = [list(line) for line in zip(*kept)]
    lines.insert(1, ["---"] * len(kept))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _error(scores: Mapping[str, Sequence[float]] | None, key: str) -> str:
    if not scores or key not in scores:
        return ""
    mean, spread = scores[key]
    return f"{mean:,.4g}" + (f" ± {spread / 2:.2g}" if spread else "")


def _plain(value: float | None, form: str, factor: float = 1) -> str:
    if value is None:
        return ""
    return format(value if form.endswith("d") else factor * value, form)
