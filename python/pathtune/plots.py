"""What the package's figures have in common. matplotlib is imported when a figure is made."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from pathtune.files import write_atomically

GREY, BLUE, ORANGE = "#9a9a9a", "#4c8bb8", "#d1603d"


def new_figure(width: float, height: float) -> Any:
    """A figure of this size in inches, without a window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def draw_share_axis(axes: Any, shares: Sequence[float]) -> None:
    """The horizontal axis of active shares, in per cent and logarithmic, with a tick for each."""
    percent = [100 * share for share in shares]
    axes.set_xscale("log")
    axes.set_xticks(percent, [f"{p:.2g}" for p in percent])
    axes.minorticks_off()
    axes.set_xlabel("weights changed, % of the reachable adapted ones")


def save_png(figure: Any, file: str | pathlib.Path) -> None:
    """Write the figure, its panels without a frame above and to the right; InputError as write_atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    canvas = FigureCanvasAgg(figure)
    write_atomically(pathlib.Path(file), lambda stream: canvas.print_png(stream, metadata={"Software": None}))
