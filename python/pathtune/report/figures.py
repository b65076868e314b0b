"""The figures of a report, each drawn from what report.json holds of it and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pathtune.plots import new_figure

# Of Okabe and Ito's palette, which those with any colour vision can tell apart; the page has a variable for each.
COLOURS = {
    "ink": "#1b1f24",
    "soft": "#5d6570",
    "rule": "#d3d7dc",
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
    "purple": "#9a5c87",
}
FONT = "DejaVu Sans"
WIDTH = 4.7  # inches: so that text stays readable on a phone
INK, SOFT, RULE, BLUE, ORANGE = (COLOURS[name] for name in ("ink", "soft", "rule", "blue", "orange"))
MARKS = {
    "l = 0": ("o", BLUE),
    "l = 1": ("s", ORANGE),
    "l = 2": ("^", COLOURS["green"]),
    "l = 3": ("D", COLOURS["purple"]),
}
LONGEST = 34  # characters of a name in a figure
STRONG = 0.5  # opacity of a cell from which its number is dark in both colour schemes


def draw(figure: Mapping[str, Any]) -> Any:
    """The matplotlib figure of a panel's data."""
    import matplotlib

    with matplotlib.rc_context(_settings()):
        return DRAWINGS[figure["kind"]](figure)


def _settings() -> dict[Any, Any]:
    names = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor", "axes.titlecolor")
    return {
        **dict.fromkeys(names, INK),
        "font.size": 9.5,
        "font.family": "sans-serif",
        "font.sans-serif": [FONT],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "axes.grid": False,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "svg.fonttype": "none",
    }


def short(text: str, longest: int = LONGEST) -> str:
    """A name that fits, both of its ends kept, without what matplotlib would read as mathematics."""
    if len(text) > longest:
        end = (longest - 1) // 2
        text = f"{text[: longest - 1 - end]}…{text[-end:]}"
    return text.replace("$", r"\$")


def _plain_log(axes: Any, which: str) -> None:
    """A logarithmic axis whose few ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _curve(data: Mapping[str, Any]) -> Any:
    figure = new_figure(WIDTH, 4.4)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    epoch = data["epoch"]
    top.plot(epoch, data["train_loss"], color=SOFT, ls="--", label="training")
    top.plot(epoch, data["valid_loss"], color=BLUE, label="validation")
    best = [v for e, v in zip(epoch, data["valid_loss"]) if e == data["best_epoch"]]
    if best:
        top.plot([data["best_epoch"]], best, "o", color=ORANGE, ms=6, label=f"kept, epoch {data['best_epoch']}")
    if min(*data["train_loss"], *data["valid_loss"]) > 0:
        _plain_log(top, "y")
    top.set_ylabel("loss")
    top.legend()
    middle.plot(epoch, [100 * s for s in data["active_share"]], color=BLUE)
    middle.set_ylabel("changed, %")
    middle.set_ylim(0, None)
    bottom.plot(epoch, data["lr"], color=BLUE)
    bottom.set_ylabel("learning\nrate")
    bottom.set_ylim(0, None)
    bottom.set_xlabel("epoch")
    figure.align_ylabels([top, middle, bottom])
    return figure


def _parity(data: Mapping[str, Any]) -> Any:
    labels = data["labels"]
    n_rows = (len(labels) + 1) // 2
    figure = new_figure(WIDTH, 2.5 * n_rows + 0.3)
    grid = figure.subplots(n_rows, 2, squeeze=False).ravel()
    for axes, label in zip(grid, labels):
        values = np.array([*label["reference"], *label["before"], *label["after"]])
        low, high = values.min(), values.max()
        pad = 0.05 * (high - low) or 1.0
        axes.plot([low - pad, high + pad], [low - pad, high + pad], color=INK, lw=0.8, zorder=3)
        for name, colour, mark in (("before", ORANGE, "x"), ("after", BLUE, "o")):
            axes.plot(label["reference"], label[name], mark, ms=2.6, mew=0.7, color=colour, rasterized=True)
        axes.set(xlim=(low - pad, high + pad), ylim=(low - pad, high + pad), xlabel="label", ylabel="model")
        axes.set_aspect("equal")
        axes.set_title(f"{label['label']}, {label['unit']}", fontsize=8.5)
        axes.locator_params(nbins=4)
    for axes in grid[len(labels) :]:
        axes.set_axis_off()
    handles = [_mark(ORANGE, "x", "before"), _mark(BLUE, "o", "after")]
    if len(labels) % 2:
        grid[-1].legend(handles=handles, loc="center")
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _mark(colour: str, mark: str, text: str, face: str | None = None) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], ls="", marker=mark, color=colour, label=text, markerfacecolor=face or colour)


def _before_after(rows: Sequence[Mapping[str, Any]], xlabel: str, names: Sequence[str]) -> Any:
    figure = new_figure(WIDTH, 0.9 + 0.28 * len(rows))
    axes = figure.subplots()
    places = list(range(len(rows)))[::-1]
    for y, row in zip(places, rows):
        if row["before"] is not None:
            axes.plot([row["before"], row["after"]], [y, y], color=RULE, lw=2, zorder=1)
            axes.plot([row["before"]], [y], "o", color=ORANGE, mfc="none", zorder=2)
        axes.plot([row["after"]], [y], "o", color=BLUE, zorder=3)
    values = [v for row in rows for v in (row["before"], row["after"]) if v is not None]
    if min(values) > 0 and max(values) > 8 * min(values):
        _plain_log(axes, "x")
    else:
        axes.set_xlim(0, None)
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(xlabel)
    axes.tick_params(axis="y", length=0)
    figure.legend(
        handles=[_mark(ORANGE, "o", "before", "none"), _mark(BLUE, "o", "after")], loc="outside upper center", ncols=2
    )
    return figure


def _errors(data: Mapping[str, Any]) -> Any:
    names = [f"{short(row['name'], 22)} ({row['n']:,d})" for row in data["rows"]]
    return _before_after(data["rows"], f"force error (MAE), {data['unit']}", names)


def _forgetting(data: Mapping[str, Any]) -> Any:
    return _before_after(data["rows"], "error (MAE)", [short(row["name"]) for row in data["rows"]])


def _bars(groups: Sequence[str], series: Sequence[tuple[str, str, Sequence[float | None]]], xlabel: str) -> Any:
    """Horizontal bars in per cent, those of a group together, each with its number."""
    figure = new_figure(WIDTH, 0.9 + 0.24 * len(groups) * (len(series) + 0.6))
    axes = figure.subplots()
    height = 0.82 / len(series)
    for k, (name, colour, values) in enumerate(series):
        places = [-i + 0.41 - (k + 0.5) * height for i in range(len(groups))]
        shown = [100 * (v or 0.0) for v in values]
        axes.barh(places, shown, height * 0.9, color=colour, label=short(name))
        for y, v, value in zip(places, shown, values):
            if value is not None:
                axes.annotate(
                    _per_cent(v),
                    (v, y),
                    (3 if v >= 0 else -3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    ha="left" if v >= 0 else "right",
                )
    axes.axvline(0, color=INK, lw=0.8)
    axes.spines["left"].set_visible(False)  # it would cross the numbers of negative bars
    axes.margins(x=0.12)
    axes.set_yticks([-i for i in range(len(groups))], [short(g) for g in groups])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(xlabel)
    figure.legend(loc="outside upper center", ncols=min(len(series), 3))
    return figure


def _shapley(data: Mapping[str, Any]) -> Any:
    rows = data["rows"]
    series = [
        ("importance", BLUE, [r["shapley_share"] for r in rows]),
        ("changed", ORANGE, [r["changed_share"] for r in rows]),
        ("reachable", SOFT, [r["reachable_share"] for r in rows]),
    ]
    return _bars([r["group"] for r in rows], series, "share, %")


def _side_by_side(data: Mapping[str, Any]) -> Any:
    colours = (BLUE, ORANGE, COLOURS["green"], COLOURS["purple"], SOFT)
    series = [(name, colours[i % 5], values) for i, (name, values) in enumerate(zip(data["names"], data["values"]))]
    return _bars(data["groups"], series, "Shapley share of the loss taken off, %")


def _overlap(data: Mapping[str, Any]) -> Any:
    rows = data["rows"]
    series = [
        ("overlap", BLUE, [r["jaccard"] for r in rows]),
        ("by chance", SOFT, [r["chance"] for r in rows]),
        ("ceiling", RULE, [r["ceiling"] for r in rows]),
    ]
    return _bars([r["name"] for r in rows], series, "weights in both, % of those in either")


def _per_cent(value: float) -> str:
    """A number of per cent with one digit behind the point, without the sign of what is shown as zero."""
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text


def _grid(values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str]) -> Any:
    """Numbers in per cent on a background that says their size: blue, or orange where they are negative."""
    figure = new_figure(WIDTH, 0.7 + 0.25 * len(rows))
    axes = figure.subplots()
    numbers = np.array([[np.nan if v is None else 100 * v for v in line] for line in values], dtype=float)
    top = float(np.nanmax(np.abs(numbers))) or 1.0
    for i, line in enumerate(numbers):
        for j, value in enumerate(line):
            if np.isnan(value):
                axes.annotate("\u2013", (j, i), ha="center", va="center", color=SOFT)
                continue
            opacity = 0.04 + 0.86 * abs(value) / top
            hue = BLUE if value >= 0 else ORANGE
            axes.fill_between([j - 0.48, j + 0.48], i - 0.46, i + 0.46, color=hue, alpha=opacity, lw=0)
            ink = INK if opacity < STRONG else "#010101"
            axes.annotate(_per_cent(value), (j, i), ha="center", va="center", fontsize=8, color=ink)
    axes.set_xlim(-0.5, max(len(columns), 3) - 0.5)  # a single column is no wider than one of several
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), [short(r) for r in rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _map(data: Mapping[str, Any]) -> Any:
    return _grid(data["values"], data["layers"], data["groups"])


def _elements(data: Mapping[str, Any]) -> Any:
    return _grid(data["values"], data["elements"], data["groups"])


def _rates(data: Mapping[str, Any]) -> Any:
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    points = data["points"]
    values = [100 * v for p in points for v in (p["rate"], p["predicted"])]
    ends = [min(values) / 1.5, max(values) * 1.5]
    axes.plot(ends, ends, color=INK, lw=0.8)
    for group in sorted({p["group"] for p in points}, key=lambda name: (name == "rest", name)):
        mark, colour = MARKS.get(group, ("x", SOFT))
        mine = [(100 * p["predicted"], 100 * p["rate"]) for p in points if p["group"] == group]
        axes.plot(*zip(*mine), ls="", marker=mark, color=colour, ms=5, label=group)
    for which in ("x", "y"):
        _plain_log(axes, which)
    axes.set(
        xlim=ends, ylim=ends, xlabel="predicted by Fisher information, % of reachable", ylabel="changed, % of reachable"
    )
    axes.legend()
    return figure


def _surroundings(data: Mapping[str, Any]) -> Any:
    figure = new_figure(WIDTH, 0.9 + 0.3 * len(data["rows"]))
    left, right = figure.subplots(1, 2, sharey=True)
    names = [row["group"] for row in data["rows"]]
    places = list(range(len(names)))[::-1]
    left.barh(places, [100 * (row["fisher_share"] or 0.0) for row in data["rows"]], 0.55, color=BLUE)
    for y, row in zip(places, data["rows"]):
        if row["fisher_share"] is not None:
            share = 100 * row["fisher_share"]
            left.annotate(_per_cent(share), (share, y), (3, 0), textcoords="offset points", va="center", fontsize=8)
    left.margins(x=0.25)
    left.set_xlabel("Fisher share, %")
    for y, row in zip(places, data["rows"]):
        if row["order"] is not None:
            right.errorbar([row["order"]], [y], xerr=[row["order_spread"]], fmt="o", color=ORANGE, capsize=3)
    right.set_xlim(0, 1)
    right.set_xlabel("anisotropy q (sd)")
    left.set_yticks(places, names)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
    return figure


DRAWINGS = {
    "curve": _curve,
    "parity": _parity,
    "errors": _errors,
    "forgetting": _forgetting,
    "shapley": _shapley,
    "side_by_side": _side_by_side,
    "overlap": _overlap,
    "map": _map,
    "elements": _elements,
    "rates": _rates,
    "surroundings": _surroundings,
}
