"""Writing a report: index.html, report.json, a PNG and an SVG of each figure. jinja2 is imported when asked."""

from __future__ import annotations

import io
import os
import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import Any

from pathtune.errors import InputError
from pathtune.files import checked_path, write_atomically, write_text
from pathtune.report.figures import draw
from pathtune.report.panels import written
from pathtune.report.run import to_json
from pathtune.report.svg import inline, svg_of

PAGE, NUMBERS = "index.html", "report.json"
TEMPLATE = "page.html.j2"
DPI = 160


def write_report(report: Mapping[str, Any], out: pathlib.Path, run_folder: pathlib.Path | None = None) -> pathlib.Path:
    """Write all files into the folder `out` and return the page; `run_folder`: where the files it links to lie.

    Raises InputError when the folder cannot be written to, and as check_folder.
    """
    page = check_folder(out) / PAGE
    drawings = {}
    for panel in report["panels"]:
        if panel["figure"]:
            figure = draw(panel["figure"])
            svg = svg_of(figure, panel["name"])
            write_text(out / f"{panel['name']}.svg", svg)
            _write_png(figure, out / f"{panel['name']}.png")
            drawings[panel["name"]] = inline(svg, panel["name"], panel["figure"]["alt"])
    links = [{"name": name, "target": _target(run_folder, out, name)} for name in report["links"] if run_folder]
    write_text(out / NUMBERS, to_json(report))
    write_text(page, rendered(report, drawings, links))
    return page


def check_folder(out: pathlib.Path) -> pathlib.Path:
    """The folder. Raises InputError for a file, and for one with an index.html that is no report's."""
    page = checked_path(out) / PAGE
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a folder for the report")
    if page.exists() and not (out / NUMBERS).exists():
        raise InputError(f"{page}: is there and is no report of pathtune, expected another --out")
    return out


def rendered(report: Mapping[str, Any], drawings: Mapping[str, str], links: list[dict[str, str]]) -> str:
    """The page; every text of a user is escaped, `drawings` are elements of HTML by panel."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["written"] = written
    return environment.get_template(TEMPLATE).render(report=report, drawings=drawings, links=links) + "\n"


def _target(folder: pathlib.Path | None, out: pathlib.Path, name: str) -> str:
    """From the page to a file of the run; percent-encoded."""
    file = pathlib.Path(folder or out) / name
    return urllib.parse.quote(pathlib.Path(os.path.relpath(file.resolve(), out.resolve())).as_posix())


def _write_png(figure: Any, file: pathlib.Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    stream = io.BytesIO()
    canvas.print_png(stream, metadata={"Software": None})
    write_atomically(file, lambda out: out.write(stream.getvalue()))
