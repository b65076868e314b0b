"""The report of a run: every number of the page is in report.json, and names of users are not interpreted."""

import html.parser
import json
import re
import shutil

import ase.io
import pytest
import torch

from models import labelled, molecule, tiny_mace
from pathtune.cli import main
from pathtune.cli.describe import describe
from pathtune.forms import read_toml
from pathtune.report.figures import draw
from pathtune.report.page import write_report
from pathtune.report.svg import svg_of

pytestmark = pytest.mark.usefixtures("needs_mace")
HOSTILE = "<script>alert(1)</script>&\"'"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model, sets whose config_types hold HTML, and a finished run with its cheap report."""
    folder = tmp_path_factory.mktemp("world")
    torch.save(tiny_mace(), folder / "tiny.model")
    for name, seed, n in (("train", 0, 6), ("valid", 100, 4), ("kept", 200, 3)):
        frames = labelled([molecule(seed + i, n=4) for i in range(n)])
        for i, atoms in enumerate(frames):
            atoms.info["config_type"] = HOSTILE if i % 2 else "plain"
        ase.io.write(folder / f"{name}.xyz", frames, format="extxyz")
    fit(folder, "run <b>1</b>")
    return folder


def fit(folder, name, *more):
    assert main(["fit", "--model", str(folder / "tiny.model"), "--train", str(folder / "train.xyz"), "--valid",
                 str(folder / "valid.xyz"), "--epochs", "2", "--batch-size", "3", "--keep-worse", "--out",
                 str(folder / name), *more]) == 0  # fmt: skip
    return folder / name


@pytest.fixture(scope="module")
def run(world):
    return world / "run <b>1</b>"


@pytest.fixture(scope="module")
def full(world, run):
    """The full report, with a retention set."""
    assert main(["report", str(run), "--retention", str(world / "kept.xyz"), "--out", str(world / "full")]) == 0
    return world / "full"


class Page(html.parser.HTMLParser):
    """Tags, texts outside of drawings and styles, and the values of <data>."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.values, self.inside = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("svg", "style", "data", "script"):
            self.inside.append(tag)
        if tag == "data":
            self.values.append(dict(attrs)["value"])

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside and data.strip():
            self.texts.append(" ".join(data.split()))


def leaves(value):
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, (list, tuple)) or type(value).__name__ == "dict_values":
        for v in value:
            yield from leaves(v)
    else:
        yield value


def test_every_number_of_the_page_is_in_report_json(full):
    page = Page((full / "index.html").read_text())
    report = json.loads((full / "report.json").read_text())
    numbers = {repr(v) for v in leaves(report) if isinstance(v, (int, float)) and not isinstance(v, bool)}
    texts = [" ".join(v.split()) for v in leaves(report) if isinstance(v, str)]
    assert len(page.values) > 50
    assert not set(page.values) - numbers
    for text in page.texts:
        if re.search(r"\d", text):
            assert any(text in known or known in text for known in texts if re.search(r"\d", known)), text


def test_a_figure_is_redrawn_from_report_json_alone(full):
    report = json.loads((full / "report.json").read_text())
    assert len([p for p in report["panels"] if p["figure"]]) >= 7
    for panel in report["panels"]:
        if panel["name"] in ("shapley", "map"):
            assert svg_of(draw(panel["figure"]), panel["name"]) == (full / f"{panel['name']}.svg").read_text()


def test_names_with_html_in_them_are_shown_and_not_interpreted(full, run):
    for file in (full / "index.html", run / "report" / "index.html"):
        page = Page(file.read_text())
        assert not [tag for tag, _ in page.tags if tag in ("script", "b", "iframe")]
        assert HOSTILE in page.texts
        assert run.name in page.texts
        assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_the_page_is_one_file_that_asks_for_nothing(full):
    text = (full / "index.html").read_text()
    assert len(text) < 3_000_000
    page = Page(text)
    links = [a.get("href") or a.get("src") or "" for _, a in page.tags] + re.findall(r"url\(([^)]*)\)", text)
    assert not [link for link in links if re.match(r"(https?:)?//", link)]
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    drawings = [a for tag, a in page.tags if tag == "svg"]
    assert len(drawings) >= 7
    assert all(a.get("role") == "img" and len(a.get("aria-label", "")) > 20 for a in drawings)
    for name in re.findall(r'<a href="([^"]+)"', text):
        assert name == "report.json" or "run%20%3Cb%3E1%3C/b%3E" in name
    assert "predictions.extxyz" in page.texts


def test_every_panel_says_how_to_read_it_and_leaves_its_figure_in_two_formats(full):
    report = json.loads((full / "report.json").read_text())
    names = [p["name"] for p in report["panels"]]
    assert names == ["curve", "parity", "errors", "forgetting", "shapley", "map", "rates", "elements", "surroundings"]
    for panel in report["panels"]:
        assert panel["how"].endswith(".")
        if panel["figure"]:
            assert (full / f"{panel['name']}.png").read_bytes().startswith(b"\x89PNG")
            assert "<svg" in (full / f"{panel['name']}.svg").read_text()
    assert "not its electrons" in " ".join(report["caveats"])


def test_the_methods_paragraph_is_that_of_describe(full, run):
    report = json.loads((full / "report.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    assert report["methods"] == describe(metrics, read_toml(run / "config.toml"))


def test_fit_leaves_the_cheap_panels_and_no_report_leaves_none(world, run):
    report = json.loads((run / "report" / "report.json").read_text())
    assert [p["name"] for p in report["panels"]] == ["curve", "parity", "errors"]
    assert not report["is_full"]
    assert not (fit(world, "quiet", "--no-report") / "report").exists()


@pytest.mark.parametrize("arm", ["full", "lora"])
def test_other_arms_have_a_report_too(world, arm):
    folder = fit(world, f"arm {arm}", "--arm", arm, "--no-report")
    assert main(["report", str(folder)]) == 0
    report = json.loads((folder / "report" / "report.json").read_text())
    groups = {g["group"]: g for g in report["importance"]["groups"]}
    assert ("rest" in groups) == (arm == "full")
    assert sum(g["changed_share"] for g in groups.values()) == pytest.approx(1)


def test_errors_on_given_data_are_those_of_evaluate(world, run, capsys):
    out = world / "given"
    assert main(["report", str(run), "--data", str(world / "kept.xyz"), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--model", str(world / "tiny.model"), "--adapter", str(run / "adapter.safetensors"),
                 "--data", str(world / "kept.xyz"), "--json"]) == 0  # fmt: skip
    scores = json.loads(capsys.readouterr().out)
    report = json.loads((out / "report.json").read_text())
    overall = next(p for p in report["panels"] if p["name"] == "errors")["tables"][0]["rows"]
    assert overall[1][2] == pytest.approx(scores["forces_mae_mev_a"])


def test_two_runs_are_compared_with_chance_and_ceiling(world, run):
    other = fit(world, "other", "--seed", "1", "--no-report")
    out = world / "both"
    assert main(["report", str(run), str(other), "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    panels = {p["name"]: p for p in report["panels"]}
    assert set(panels) == {"errors", "overlap", "shapley"}
    row = panels["overlap"]["figure"]["rows"][0]
    assert 0 < row["chance"] < row["ceiling"] <= 1
    assert 0 <= row["jaccard"] <= row["ceiling"]
    assert [r[0] for r in panels["errors"]["tables"][0]["rows"]] == [run.name, "other"]


def copied(run, folder):
    shutil.copytree(run, folder)
    return folder


def without(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def other_base(folder):
    config = (folder / "config.toml").read_text()
    torch.save(tiny_mace(seed=3), folder / "other.model")
    model = re.search(r'^model = "(.*)"', config, re.MULTILINE)[1]
    (folder / "config.toml").write_text(config.replace(model, str(folder / "other.model")))


def other_base_of_the_same_hash(folder):
    other_base(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"model_sha256": None}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("adapter.safetensors", "merged.model"), "holds neither adapter.safetensors nor merged.model"),
        (without("metrics.json"), "holds an unfinished run"),
        (without("metrics.json", "config.toml"), "expected the folder of a finished run"),
        (other_base, "its SHA-256 is"),
        (other_base_of_the_same_hash, "was made for another model"),
        (lambda folder: (folder / "metrics.json").write_text('{"versions": {}, "shares": {}}'), "lacks 'arm'"),
        (lambda folder: (folder / "log.jsonl").write_text("[1]\n"), "line 1"),
        (lambda folder: (folder / "predictions.extxyz").unlink(), "predictions.extxyz"),
    ],
    ids=["no adapter", "unfinished", "no run", "other base", "fingerprint", "metrics", "log", "predictions"],
)
def test_a_damaged_run_is_one_sentence(run, tmp_path, capsys, change, words):
    folder = copied(run, tmp_path / "copy")
    change(folder)
    capsys.readouterr()
    assert main(["report", str(folder)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_bad_flags_and_data_are_one_sentence(world, run, tmp_path, capsys):
    bare, foreign = tmp_path / "bare.xyz", tmp_path / "foreign.xyz"
    ase.io.write(bare, [molecule(0, n=3)], format="extxyz")
    frames = labelled([molecule(0, n=3)])
    frames[0].numbers[0] = 79
    ase.io.write(foreign, frames, format="extxyz")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "index.html").write_text("mine")
    for flags, words in (
        ([str(run), "--data", str(bare)], "REF_energy"),
        ([str(run), "--data", str(foreign)], "contains Au, which the model does not know"),
        ([str(run), "--retention", str(foreign)], "contains Au"),
        ([str(run), "--max-frames", "0"], "--max-frames is 0"),
        ([str(run), str(run)], "expected each once"),
        ([str(run), "--out", str(taken)], "is no report of pathtune"),
        ([str(run), "--out", str(bare)], "is a file"),
        ([str(tmp_path / "nothing")], "no such folder"),
    ):
        capsys.readouterr()
        assert main(["report", *flags]) == 2, words
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert (taken / "index.html").read_text() == "mine"


def test_runs_of_different_bases_are_one_sentence(world, run, tmp_path, capsys):
    torch.save(tiny_mace(seed=3), tmp_path / "tiny.model")
    for name in ("train.xyz", "valid.xyz"):
        shutil.copy(world / name, tmp_path / name)
    other = fit(tmp_path, "other", "--no-report")
    capsys.readouterr()
    assert main(["report", str(run), str(other)]) == 2
    assert "another" in capsys.readouterr().err


def test_a_report_is_written_over_an_older_one_of_the_same_folder(full, tmp_path):
    report = json.loads((full / "report.json").read_text())
    small = report | {"panels": report["panels"][:1]}
    for _ in range(2):
        page = write_report(small, tmp_path / "again")
    assert page.exists()
