"""A panel as plain values: what report.json holds of it, and all that its figure and its tables are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# How a column's numbers are written.
TEXT, COUNT, PERCENT, NUMBER = "text", "count", "percent", "number"
FACT = "fact"  # a text or a count


def panel(
    name: str,
    title: str,
    how: str,
    figure: Mapping[str, Any] | None = None,
    tables: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """One panel. `how`: the sentence that says how to read it; `figure`: its kind, its alt text and its data."""
    return {
        "name": name,
        "title": title,
        "how": how,
        "figure": dict(figure) if figure else None,
        "tables": [dict(t) for t in tables],
        "notes": list(notes),
    }


def table(caption: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """A table; `columns`: heading and format of each."""
    return {
        "caption": caption,
        "columns": [{"name": name, "format": kind} for name, kind in columns],
        "rows": [list(row) for row in rows],
    }


def number(value: float | None) -> str:
    """A number in a sentence or cell."""
    if value is None:
        return "\u2013"
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share in a sentence or cell; below 1 % two digits of it are enough."""
    if value is None:
        return "\u2013"
    return f"{100 * value:.3g} %" if abs(value) >= 0.01 else f"{100 * value:.2g} %"


def written(value: Any, kind: str) -> str:
    """A cell."""
    if value is None:
        return "\u2013"
    if kind == COUNT:
        return f"{value:,d}"
    return {PERCENT: percent, NUMBER: number}.get(kind, str)(value)
