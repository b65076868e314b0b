"""The shipped model, and `pathtune demo` end to end: files, resuming, and every mistake as one sentence."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
import torch

import pathtune
from pathtune.cli import main
from pathtune.data import SHIPPED
from pathtune.demo import comparison
from pathtune.training import loop

pytestmark = pytest.mark.usefixtures("needs_mace")
ROOT = pathlib.Path(__file__).parent.parent
MODEL = json.loads((SHIPPED / "model.json").read_text())
TINY = ["--epochs", "1", "--max-frames", "5"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished demo."""
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--out", str(out), *TINY]) == 0
    return out


@pytest.fixture
def loaded(finished, monkeypatch):
    """Model and structures of the demo are loaded once: a command that reads damaged files changes neither."""
    shared = _shared(finished)
    monkeypatch.setattr(comparison, "_world", lambda folder, options: dataclasses.replace(shared, folder=folder))


@functools.cache
def _shared(folder):
    return comparison._world(folder, comparison.DemoOptions(epochs=1, max_frames=5))


def test_the_shipped_weights_are_those_that_were_exported():
    provenance = MODEL["provenance"]
    content = (SHIPPED / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == provenance["weights_sha256"]
    model = pathtune.load("demo")
    assert sum(p.numel() for p in model.backbone.parameters.values()) == provenance["n_weights"]
    organics = pathtune.read_structures(ROOT / "demo" / "data" / provenance["data"])
    urea = [s for s in organics if s.config_type == "urea"]
    scores = pathtune.evaluate(model, urea)
    for key, value in provenance["held_out_per_molecule"]["urea"].items():
        assert scores[key] == pytest.approx(value, rel=2e-3)


def test_the_shipped_model_loads_in_float64_and_predicts_finite_numbers():
    model = pathtune.load("demo", dtype="float64")
    assert model.backbone.dtype == torch.float64
    scores = pathtune.evaluate(model, pathtune.demo_file("test"), max_frames=3)
    assert np.isfinite([scores["energy_mae_mev_atom"], scores["forces_mae_mev_a"]]).all()


def test_glycine_was_not_pretrained_on():
    frames = pathtune.read_structures(ROOT / "demo" / "data" / MODEL["provenance"]["data"], needs_labels=False)
    glycine = [1] * 5 + [6] * 2 + [7] + [8] * 2
    assert not any(sorted(s.atomic_numbers.tolist()) == glycine for s in frames)


def test_what_is_shipped_stays_below_4_megabytes():
    files = [p for p in SHIPPED.rglob("*") if p.is_file() and p.suffix in {".safetensors", ".json", ".xz"}]
    assert {"model.safetensors", "model.json", "glycine_train.extxyz.xz"} <= {p.name for p in files}
    assert sum(p.stat().st_size for p in files) < 4e6


def test_demo_file_names_the_split_that_it_does_not_know():
    with pytest.raises(pathtune.InputError, match="split is 'all', expected train, valid or test"):
        pathtune.demo_file("all")


def test_the_demo_leaves_table_picture_adapter_model_and_runs(finished):
    names = {p.name for p in finished.iterdir()}
    assert names == {"demo.toml", "demo.json", "demo.png", "adapter.safetensors", "merged.model", "runs"}
    assert (finished / "demo.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((finished / "demo.json").read_text())
    assert [row["arm"] for row in result["rows"]] == [
        "zero-shot", "zero-shot, E0 refit", "full fine-tuning", "sparse"]  # fmt: skip
    zero, refitted, full, sparse = result["rows"]
    assert zero["forces_mae_mev_a"] == refitted["forces_mae_mev_a"]
    assert full["changed"] == MODEL["provenance"]["n_weights"]
    assert 0 < sparse["changed"] < full["changed"]
    assert sparse["bytes"] == (finished / "adapter.safetensors").stat().st_size
    for arm in ("full", "sparse"):
        runs = [run for run in result["runs"] if run["arm"] == arm]
        assert [run["lr"] for run in runs] == result["learning_rates"]
        assert all(len(run["curve"]) == 1 for run in runs)
        best = min(runs, key=lambda run: run["valid_loss"])
        row = full if arm == "full" else sparse
        assert (row["lr"], row["forces_mae_mev_a"]) == (best["lr"], best["test"]["forces_mae_mev_a"])


def test_the_table_says_what_the_adapter_does(finished):
    base = pathtune.load("demo")
    sparse = json.loads((finished / "demo.json").read_text())["rows"][3]
    for model in (pathtune.load_adapter(base, finished / "adapter.safetensors"),
                  pathtune.load(finished / "merged.model")):  # fmt: skip
        scores = pathtune.evaluate(model, pathtune.demo_file("test"), max_frames=5)
        assert scores["forces_mae_mev_a"] == pytest.approx(sparse["forces_mae_mev_a"], rel=1e-4)
        assert scores["energy_mae_mev_atom"] == pytest.approx(sparse["energy_mae_mev_atom"], rel=1e-2)


def test_a_run_of_the_demo_is_a_run_of_fit(finished, tmp_path, capsys):
    run = finished / "runs" / "sparse_share0.05_lr0.13"
    again = ["fit", "--config", str(run / "config.toml"), "--out", str(tmp_path / "again"), "--json", "--no-report"]
    assert main(again) == 0
    again, first = json.loads(capsys.readouterr().out), json.loads((run / "metrics.json").read_text())
    # The demo reads the first frames of the validation set, too, where fit reads them all.
    assert again["counts"]["reachable_weights"] == first["counts"]["reachable_weights"]
    assert again["epochs"] == first["epochs"]


def without_times(result):
    if isinstance(result, dict):
        return {k: without_times(v) for k, v in result.items() if k not in {"seconds", "peak_bytes"}}
    return [without_times(v) for v in result] if isinstance(result, list) else result


def test_an_interrupted_demo_goes_on_to_the_same_numbers(finished, tmp_path, monkeypatch, capsys):
    out, original, n_steps = tmp_path / "out", loop.Loop._train_step, 0

    def interrupt(self, batch):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 5:  # in the second sparse run: an epoch is one step
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(loop.Loop, "_train_step", interrupt)
    assert main(["demo", "--out", str(out), *TINY]) == 130
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"pathtune demo: interrupted; pathtune demo --out {out} --epochs 1 --max-frames 5 goes on from here"
    assert not (out / "demo.json").exists()
    assert main(["demo", "--out", str(out), *TINY]) == 0
    assert n_steps == 5 + 5  # four finished runs were not repeated
    results = [json.loads((folder / "demo.json").read_text()) for folder in (out, finished)]
    assert without_times(results[0]) == without_times(results[1])


def test_a_finished_demo_is_printed_again_and_not_repeated(finished, monkeypatch, capsys):
    monkeypatch.setattr(loop.Loop, "_train_step", None)
    assert main(["demo", "--out", str(finished), *TINY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((finished / "demo.json").read_text())
    assert main(["demo", "--out", str(finished), *TINY]) == 0
    table = capsys.readouterr().out
    assert "full fine-tuning" in table
    assert max(map(len, table.replace(str(finished), "").splitlines())) <= 80
    assert "…" not in table


def test_mistakes_are_one_sentence_and_exit_status_2(finished, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    (tmp_path / "file").write_text("a file")
    cases = {
        ("--out", str(tmp_path / "mine")): "is not empty and holds no demo, expected a new folder",
        ("--out", str(tmp_path / "file")): "is a file, expected a folder",
        ("--out", str(tmp_path / "file" / "in")): "cannot be written",
        ("--out", "/proc/pathtune"): "cannot be written",
        ("--out", str(finished), "--seed", "1"): "holds a demo with other options",
        ("--out", str(tmp_path / "new"), "--epochs", "0"): "epochs is 0",
    }
    for arguments, words in cases.items():
        assert main(["demo", *arguments]) == 2
        captured = capsys.readouterr()
        assert words in captured.err
        assert (captured.out, captured.err.strip().count("\n")) == ("", 0)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[]", b'{"rows": []}', b""])
@pytest.mark.parametrize("name", ["demo.json", "demo.toml", "runs/full_lr0.01/metrics.json",
                                  "runs/full_lr0.01/log.jsonl", "runs/full_lr0.01/config.toml"])  # fmt: skip
@pytest.mark.usefixtures("loaded")
def test_a_damaged_file_of_a_demo_is_one_sentence(finished, tmp_path, monkeypatch, capsys, name, content):
    monkeypatch.setattr(loop.Loop, "_train_step", None)
    out = shutil.copytree(finished, tmp_path / "out")
    if name.startswith("runs"):
        (out / "demo.json").unlink()
    (out / name).write_bytes(content)
    assert main(["demo", "--out", str(out), *TINY]) == 2
    captured = capsys.readouterr()
    assert ("full_lr0.01" if name.startswith("runs") else name) in captured.err
    assert (captured.out, captured.err.strip().count("\n")) == ("", 0)


@pytest.mark.usefixtures("loaded")
def test_a_run_that_another_version_left_is_not_mixed_in(finished, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "demo.json").unlink()
    config = out / "runs" / "full_lr0.01" / "config.toml"
    config.write_text(config.read_text().replace("huber_delta = 0.01", "huber_delta = 0.02"))
    assert main(["demo", "--out", str(out), *TINY]) == 2
    assert "full_lr0.01: holds a run of another version's options" in capsys.readouterr().err


def test_without_mace_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mace", None)
    assert main(["demo", "--out", str(tmp_path / "out"), *TINY]) == 2
    assert "pip install mace-torch==" in capsys.readouterr().err
