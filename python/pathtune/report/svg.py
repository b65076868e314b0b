"""A drawing of matplotlib as a part of a page: its colours follow the page's, its text is text, its ids are its own."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

from pathtune.report.figures import COLOURS, FONT

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": [FONT],
    "font.size": 9.5,
}


def svg_of(figure: Any, name: str) -> str:
    """The file's text, reproducible; `name` makes its ids differ from those of other drawings."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing, transparent=True, dpi=150)
    return stream.getvalue()


def inline(svg: str, name: str, alt: str) -> str:
    """The text of `svg_of` as an element of HTML with the text alternative `alt`."""
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    for variable, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    text = text.replace(f"'{FONT}', sans-serif", "var(--sans)")
    head = re.search(r'viewBox="([^"]+)"', text)
    opening = f'<svg role="img" aria-label="{escape(alt)}" viewBox="{head[1] if head else ""}">'
    return re.sub(r"^<svg[^>]*>", lambda _: opening, text, count=1, flags=re.DOTALL)
