"""The report in a real browser: headless Chromium, wide and narrow, light and dark. `pytest -m browser`."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from pathtune import demo_file
from pathtune.cli import main

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("needs_mace")]
SIZES = {"wide": (1280, 5200), "narrow": (390, 9000)}
# Chromium makes no window below 500 pixels: a narrow one is a frame, which is a window to the page in it.
FRAME = """<!DOCTYPE html><html lang="en"><title>frame</title><body style="margin:0">
<iframe style="border:0;width:{}px;height:{}px" srcdoc="{}"></iframe><script>onload = () => {{
const frame = document.querySelector("iframe"), inner = frame.contentWindow;
const all = (selector, of = inner.document) => [...of.querySelectorAll(selector)];
const cut = all("figure svg").flatMap(svg => all("text", svg).filter(text => {{
const [box, mine] = [svg, text].map(e => e.getBoundingClientRect());
return mine.left < box.left - 1 || mine.right > box.right + 1 || mine.bottom > box.bottom + 1 }}));
document.title = [inner.document.documentElement.scrollWidth, inner.innerWidth, inner.performance.getEntriesByType(
"resource").filter(e => !e.name.startsWith("data:")).length, cut.length,
all("#run .beside .scroll").filter(e => e.scrollWidth > e.clientWidth).length].join(" ") }}</script></body></html>"""
OWN_SERVICES = ("google", "gvt1.com")  # in the addresses that Chromium asks by itself


@pytest.fixture(scope="session")
def chromium():
    """The command; tests fail without it, since nobody asks for them by accident."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "chromium is not installed: apt-get install chromium"
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A full report of the demo's model with a retention set, and a comparison of two runs."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [folder / f"<script>run {seed}" for seed in (0, 1)]
    for seed, run in enumerate(runs):
        assert main(["fit", "--model", "demo", "--train", str(demo_file("train")), "--valid", str(demo_file("valid")),
                     "--epochs", "2", "--max-frames", "20", "--keep-worse", "--no-report", "--seed", str(seed),
                     "--out", str(run)]) == 0  # fmt: skip
    retention = str(demo_file("test")) + "@:10"
    few = ["--max-frames", "8"]
    assert main(["report", str(runs[0]), "--retention", retention, *few, "--out", str(folder / "one")]) == 0
    assert main(["report", *map(str, runs), *few, "--out", str(folder / "two")]) == 0
    return {"one": folder / "one" / "index.html", "two": folder / "two" / "index.html"}


def browse(chromium, page, size, scheme, folder, *flags):
    """What Chromium prints: its standard output, and the messages of the console."""
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
               f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}",
               f"--log-net-log={folder / 'net.json'}", "--disable-background-networking", "--disable-component-update",
               *(["--force-dark-mode"] if scheme == "dark" else []), *flags, page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def requests(log):
    """Addresses that were asked, beside files, data and Chromium's own services."""
    found = re.findall(r'"url":"([^"]+)"', log.read_text())
    asked = [url for url in found if url.startswith(("http", "ws", "ftp"))]
    return {url for url in asked if not any(name in url for name in OWN_SERVICES)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("name", ["one", "two"])
def test_it_shows_without_error_or_request_and_fits_the_window(chromium, pages, tmp_path, name, width, scheme):
    size, framed, picture = SIZES[width], tmp_path / "framed.html", tmp_path / "picture.png"
    framed.write_text(FRAME.format(*size, html.escape(pages[name].read_text())))
    shown = pages[name] if width == "wide" else framed
    _, console = browse(chromium, shown, size, scheme, tmp_path, f"--screenshot={picture}")
    assert not console
    assert not requests(tmp_path / "net.json")
    assert (corner(picture).mean() > 200) == (scheme == "light")
    dom, _ = browse(chromium, framed, size, scheme, tmp_path, "--dump-dom")
    content, window, n_resources, n_cut, n_hidden = map(int, re.search("<title>(.*?)</title>", dom)[1].split())
    assert window == size[0]
    assert content <= window
    assert n_resources == 0
    assert n_cut == 0  # texts of drawings that reach over their edge
    assert n_hidden == 0 or name == "two"  # tables of facts whose values a phone shows only after scrolling


def corner(picture):
    from matplotlib.image import imread

    return 255 * np.asarray(imread(picture))[:20, :20, :3]


@pytest.mark.parametrize("name", ["one", "two"])
def test_the_page_is_valid_html_and_every_image_has_a_text(pages, name):
    import html5lib

    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    tree = parser.parse(pages[name].read_text())
    drawings = [e for e in tree.iter() if str(e.tag).endswith("}svg") or e.tag in ("svg", "img")]
    assert len(drawings) >= 2
    for drawing in drawings:
        assert len(drawing.get("aria-label") or drawing.get("alt") or "") > 20
    ids = [e.get("id") for e in tree.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    numbers = json.loads((pages[name].parent / "report.json").read_text())
    assert numbers["kind"] == {"one": "run", "two": "comparison"}[name]
