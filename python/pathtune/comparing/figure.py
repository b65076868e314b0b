"""The picture of a comparison: force error against values changed, and against seconds of training."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from pathtune.comparing.table import Row, n_values, reported, split_of
from pathtune.plots import new_figure, save_png

# Okabe and Ito's colours, which those with colour-blindness tell apart, and a shape for each as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("o", "s", "^", "D", "v", "P", "X")


def draw(file: pathlib.Path, rows: Sequence[Row]) -> None:
    """Write the PNG. `rows`: those of the table; the base's is a dashed line, which may lie above the picture."""
    labels = reported(rows)
    label = next((one for one in labels if one.name == "forces"), labels[0])
    points = [row for row in rows if n_values(row) and split_of(row)]
    figure = new_figure(9, 4)
    left, right = figure.subplots(1, 2, sharey=True)
    base = next((row for row in rows if not n_values(row) and split_of(row)), None)
    for axes, seconds in ((left, False), (right, True)):
        for kinds, group in _by_kinds(points).items():
            mine = [row for row in group if _place(row, seconds) is not None]
            _draw_group(axes, mine, label.mae_key, seconds, list(_by_kinds(points)).index(kinds))
        if base:
            error = _error(base, label.mae_key)[0]
            axes.axhline(error, color="#808080", ls="--", lw=1, label=f"zero-shot, {error:.3g}")
        _format(axes, [_place(row, seconds) for row in points])
    left.set_xlabel("values changed and added")
    heights = [_error(row, label.mae_key)[0] for row in points]
    if heights:
        left.set_ylim(min(heights) / 1.2, 1.4 * max(heights))
    right.set_xlabel("seconds of training (steps times the time of a step)")
    on = "test" if any(row.get("test") for row in rows) else "validation"
    left.set_ylabel(f"{label.word} MAE on {on}, {label.report_unit}")
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside upper center", ncols=4)
    save_png(figure, file)


def _by_kinds(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of the same kinds, one colour and shape for each."""
    result: dict[str, list[Row]] = {}
    for row in rows:
        result.setdefault(row["title"].split(",")[0], []).append(row)
    return result


def _place(row: Row, seconds: bool) -> float | None:
    if not seconds:
        return n_values(row)
    return row["n_steps"] * row["step_seconds"] if "step_seconds" in row else row["seconds"] or None


def _error(row: Row, key: str) -> list[float]:
    """Mean and spread."""
    return (split_of(row) or {})[key]


def _draw_group(axes: Any, rows: Sequence[Row], key: str, seconds: bool, index: int) -> None:
    rows = sorted(rows, key=n_values)
    x = [_place(row, seconds) for row in rows]
    y = [_error(row, key)[0] for row in rows]
    bars = [_error(row, key)[1] / 2 for row in rows]
    colour, shape = COLOURS[index % len(COLOURS)], SHAPES[index % len(SHAPES)]
    look = {"fmt": shape, "color": colour, "ls": "-" if len(rows) > 1 else "none", "lw": 1, "ms": 6, "capsize": 3}
    axes.errorbar(x, y, bars if any(bars) else None, label=rows[0]["title"].split(",")[0] if rows else None, **look)
    for i, (row, place, error) in enumerate(zip(rows, x, y)):
        words = row["title"].split(", ", 1)[1:]
        note = {"xytext": (6, 5 if i % 2 == 0 else -11), "textcoords": "offset points", "fontsize": 7, "color": colour}
        axes.annotate(words[0] if words else "", (place, error), **note)


def _format(axes: Any, places: Sequence[float | None]) -> None:
    from matplotlib.ticker import LogLocator, ScalarFormatter

    for axis, subs in ((axes.xaxis, (1.0, 3.0)), (axes.yaxis, (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0))):
        axis.axes.set_xscale("log") if axis is axes.xaxis else axis.axes.set_yscale("log")
        axis.set_major_locator(LogLocator(subs=subs))
        formatter = ScalarFormatter()
        formatter.set_scientific(False)
        axis.set_major_formatter(formatter)
        axis.set_minor_locator(LogLocator(subs=()))
    known = [place for place in places if place]
    if known:
        axes.set_xlim(min(known) / 1.6, max(known) * 2.2)
