"""The demo's picture: parity of forces, and force error against the share of weights changed."""

from __future__ import annotations

import pathlib
from typing import Any

from pathtune.plots import BLUE, GREY, ORANGE, draw_share_axis, new_figure, save_png


def draw(file: pathlib.Path, result: dict[str, Any], parity: dict[str, Any]) -> None:
    """Write the PNG. `parity`: force components [n], eV/A, of reference, zero-shot and sparse."""
    figure = new_figure(9, 4)
    left, right = figure.subplots(1, 2)
    rows = {row["arm"]: row for row in result["rows"]}
    _draw_parity(left, rows, parity)
    _draw_shares(right, rows, result)
    save_png(figure, file)


def _draw_parity(axes: Any, rows: dict[str, Any], parity: dict[str, Any]) -> None:
    reference = parity["reference"].numpy()
    limit = 1.05 * float(abs(reference).max())
    axes.plot([-limit, limit], [-limit, limit], color="black", lw=0.8, zorder=3)
    for name, colour in (("zero-shot", GREY), ("sparse", ORANGE)):
        label = f"{name}, MAE {rows[name]['forces_mae_mev_a']:.0f} meV/Å"
        axes.plot(reference, parity[name].numpy(), ".", ms=2.5, color=colour, label=label, rasterized=True)
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_aspect("equal")
    axes.set_xlabel("force component, PBE/def2-SVP, eV/Å")
    axes.set_ylabel("force component, model, eV/Å")
    axes.set_title("glycine, test", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left", markerscale=4)


def _draw_shares(axes: Any, rows: dict[str, Any], result: dict[str, Any]) -> None:
    shares = [100 * run["active_share"] for run in result["shares"]]
    errors = [run["test"]["forces_mae_mev_a"] for run in result["shares"]]
    axes.plot(shares, errors, "o-", color=ORANGE, label="sparse")
    for name, colour in (("zero-shot", GREY), ("full fine-tuning", BLUE)):
        error = rows[name]["forces_mae_mev_a"]
        axes.axhline(error, color=colour, ls="--", label=f"{name}, {error:.0f} meV/Å")
    for share, error in zip(shares, errors):
        place = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{error:.0f}", (share, error), fontsize=8, **place)
    axes.set_yscale("log")
    axes.set_ylim(0.7 * min([*errors, rows["full fine-tuning"]["forces_mae_mev_a"]]), None)
    draw_share_axis(axes, [run["active_share"] for run in result["shares"]])
    ticks = [t for t in (10, 20, 30, 50, 100, 200, 300, 500, 1000) if axes.get_ylim()[0] < t < axes.get_ylim()[1]]
    axes.set_yticks(ticks, [str(t) for t in ticks])
    axes.set_ylabel("force MAE on test, meV/Å")
    axes.set_title("error against active share", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.62))
