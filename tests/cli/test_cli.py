"""The command line end to end on a small model; a user's mistake is one sentence and exit status 2."""

import json
import os
import re
import subprocess
import sys
import tomllib

import ase.io
import pytest
import torch

from models import crystal, labelled, molecule, tiny_mace
from pathtune import InputError, SparseDelta, guidance, load, sparsify
from pathtune.cli import VERBS, main
from pathtune.training.progress import Progress

pytestmark = pytest.mark.usefixtures("needs_mace")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model file and data files."""
    folder = tmp_path_factory.mktemp("world")
    torch.save(tiny_mace(torch.float32), folder / "tiny.model")
    for name, seed in (("train", 0), ("valid", 100), ("test", 200)):
        ase.io.write(folder / f"{name}.xyz", labelled([molecule(seed + i, n=4) for i in range(6)]), format="extxyz")
    ase.io.write(folder / "stress.xyz", labelled([crystal(0), crystal(1)], stress=True), format="extxyz")
    return folder


def fit_arguments(world, out, *more):
    return ["fit", "--model", str(world / "tiny.model"), "--train", str(world / "train.xyz"),
            "--valid", str(world / "valid.xyz"), "--epochs", "2", "--batch-size", "3",
            "--keep-worse", "--no-report", "--out", str(out), *more]  # fmt: skip


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(fit_arguments(world, out, "--report", "--schedule", "L", "--test", str(world / "test.xyz"))) == 0
    return out


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS), ["bench", "step"]], ids=" ".join)
def test_help_of_every_verb_is_printed(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*verb, "--help"])
    assert ended.value.code == 0
    assert "usage: pathtune" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["evaluate", "--nonsense"], ["paths", "--elements"], ["merge", "--dtype", "int8"],
                                   ["evaluate", "--max-frames=--"]])  # fmt: skip
def test_a_mistake_in_the_flags_of_a_verb_prints_its_usage(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"usage: pathtune {flags[0]} ")


def test_the_command_alone_lists_the_verbs(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert all(f"  {verb} " in said and words[:40] in said for verb, words in VERBS.items())


def test_a_run_leaves_one_folder(finished):
    names = sorted(p.name for p in finished.iterdir() if not p.name.startswith("."))
    assert names == ["adapter.safetensors", "checkpoint", "config.toml", "log.csv", "log.jsonl", "merged.model",
                     "metrics.json", "predictions.extxyz", "report"]  # fmt: skip
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["epochs"] == 2
    assert metrics["counts"]["active"] > 0
    assert len((finished / "log.jsonl").read_text().splitlines()) == 2


def test_evaluate_of_adapter_and_of_merged_model_agree(world, finished, capsys):
    data = ["--data", str(world / "test.xyz"), "--json"]
    assert main(["evaluate", "--model", str(world / "tiny.model"),
                 "--adapter", str(finished / "adapter.safetensors"), *data]) == 0  # fmt: skip
    adapted = json.loads(capsys.readouterr().out)
    assert main(["evaluate", "--model", str(finished / "merged.model"), *data]) == 0
    merged = json.loads(capsys.readouterr().out)
    for key in ("energy_mae_mev_atom", "forces_mae_mev_a"):
        assert adapted[key] == pytest.approx(merged[key], rel=1e-5)


def test_merge_writes_what_fit_merged(world, finished, tmp_path, capsys):
    out = tmp_path / "merged.model"
    arguments = ["merge", "--model", str(world / "tiny.model"), "--adapter", str(finished / "adapter.safetensors"),
                 "--out", str(out)]  # fmt: skip
    assert main(arguments) == 0
    a, b = (torch.load(f, weights_only=False).state_dict() for f in (out, finished / "merged.model"))
    assert all(torch.equal(a[k], b[k]) for k in b)
    capsys.readouterr()
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_config_file_mirrors_the_flags(world, finished, tmp_path, capsys):
    config = (finished / "config.toml").read_text().replace(str(finished), str(tmp_path / "again"))
    (tmp_path / "config.toml").write_text(config)
    assert main(["fit", "--config", str(tmp_path / "config.toml"), "--json", "--no-report"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    first = json.loads((finished / "metrics.json").read_text())
    assert metrics["valid"] == first["valid"]
    assert (tmp_path / "again" / "adapter.safetensors").read_bytes().__len__() > 0


def test_stress_labels_are_fitted_and_reported(world, tmp_path, capsys):
    arguments = fit_arguments(world, tmp_path / "run", "--json")
    arguments[4] = arguments[6] = str(world / "stress.xyz")
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["valid"]["stress_mae_gpa"] > 0


def test_paths_lists_every_layer(world, capsys):
    assert main(["paths", "--model", str(world / "tiny.model"), "--elements", "H", "O"]) == 0
    out = capsys.readouterr().out
    for name in ("node_embedding.linear", "interactions.0.linear_up", "interactions.1.skip_tp", "readouts.0.linear"):
        assert name in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["paths", "--model", str(world / "tiny.model"), "--data", str(world / "test.xyz"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sum(row["share"] for row in rows) <= 1 + 1e-12  # Python 3.12 and newer sum without rounding


def test_paths_and_fit_mean_the_same_by_reachable_and_by_changed(world, finished, capsys):
    counts = json.loads((finished / "metrics.json").read_text())["counts"]
    flags = ["paths", "--model", str(world / "tiny.model"), "--adapter", str(finished / "adapter.safetensors")]
    assert main([*flags, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sum(row["changed"] for row in rows) == counts["active"] > 0
    assert sum(row["reachable"] for row in rows if row["scope"] == "linear") == counts["reachable_weights"]
    assert all((row["change"] > 0) == (row["changed"] > 0) for row in rows)
    assert main(flags) == 0
    out = capsys.readouterr().out
    assert f"{counts['reachable_weights']:,d}  " in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["paths", "--model", str(world / "tiny.model")]) == 0
    assert "depends on the elements: name" in capsys.readouterr().out


def test_an_interrupted_run_resumes_only_when_asked(world, tmp_path, monkeypatch, capsys):
    from pathtune.training import loop

    out, original = tmp_path / "run", loop.Loop._finish_epoch

    def interrupt(self):
        original(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Loop, "_finish_epoch", interrupt)
    assert main(fit_arguments(world, out)) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(fit_arguments(world, out)) == 2
    assert "unfinished run" in capsys.readouterr().err
    assert main(fit_arguments(world, out, "--resume", "--lr", "0.5")) == 2
    assert "--resume, but lr is 0.5 and was not set in" in capsys.readouterr().err
    assert main(fit_arguments(world, out, "--resume")) == 0


def replace(arguments, flag, value):
    arguments = list(arguments)
    arguments[arguments.index(flag) + 1] = value
    return arguments


MISTAKES = {
    "missing train file": (lambda w, a: replace(a, "--train", str(w / "none.xyz")), "none.xyz: no such file"),
    "missing model": (lambda w, a: replace(a, "--model", str(w / "none.model")), "none.model: no such file"),
    "model is no model": (lambda w, a: replace(a, "--model", str(w / "train.xyz")), "train.xyz: not a MACE model"),
    "unknown key": (lambda w, a: [*a, "--energy-key", "dft"], "'dft'"),
    "unknown target": (lambda w, a: [*a, "--targets", "nothing"], "'nothing' matches no layer of scope linear"),
    "share beyond 1": (lambda w, a: [*a, "--active-share", "2"], "active_share is 2.0, expected a share in (0, 1]"),
    "share of nothing": (lambda w, a: [*a, "--active-share", "1e-9"], "less than one of"),
    "late step": (lambda w, a: [*a, "--by-step", "100000"], "by_step is 100000, expected at most"),
    "no out": (lambda w, a: a[:-2], "--out is missing"),
    "zero epochs": (lambda w, a: replace(a, "--epochs", "0"), "epochs is 0"),
    "missing config": (lambda w, a: [*a, "--config", "none.toml"], "none.toml: cannot be read"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_status_2(case, world, tmp_path, capsys):
    change, words = MISTAKES[case]
    assert main(change(world, fit_arguments(world, tmp_path / "run"))) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.strip().count("\n") == 0
    assert captured.out == ""
    assert not (tmp_path / "run").exists()


def test_nothing_is_overwritten(world, finished, tmp_path, capsys):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    assert main(fit_arguments(world, finished)) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("precious")
    assert main(fit_arguments(world, tmp_path / "notes")) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["mine.txt"]
    assert main(fit_arguments(world, world / "train.xyz")) == 2
    assert "is a file" in capsys.readouterr().err


def test_an_unknown_config_key_is_named(world, tmp_path, capsys):
    for text, words in (("[fit]\nepoch = 3\n", "unknown key 'epoch'"), ("[fits]\n", "unknown section 'fits'"),
                        ("[fit]\nlr = 'many'\n", "expected float"), ("fit", "is not TOML")):  # fmt: skip
        (tmp_path / "c.toml").write_text(text)
        assert main(fit_arguments(world, tmp_path / "run", "--config", str(tmp_path / "c.toml"))) == 2
        assert words in capsys.readouterr().err


def test_an_adapter_of_another_model_and_a_truncated_one_are_named(world, finished, tmp_path, capsys):
    torch.save(tiny_mace(torch.float32, seed=5), tmp_path / "other.model")
    adapter = finished / "adapter.safetensors"
    data = ["--data", str(world / "test.xyz")]
    assert main(["evaluate", "--model", str(tmp_path / "other.model"), "--adapter", str(adapter), *data]) == 2
    assert "was made for another model" in capsys.readouterr().err
    (tmp_path / "cut.safetensors").write_bytes(adapter.read_bytes()[:-10])
    arguments = ["--adapter", str(tmp_path / "cut.safetensors"), *data]
    assert main(["evaluate", "--model", str(world / "tiny.model"), *arguments]) == 2
    assert "cut.safetensors: not a readable adapter" in capsys.readouterr().err


def test_importing_imports_no_backbone_and_loading_a_model_is_silent_and_leaves_torch_load_safe(world):
    code = ("import os, sys, warnings, contextlib\n"
            "with warnings.catch_warnings():\n"
            "    warnings.simplefilter('error')\n"
            "    import pathtune\n"
            "assert not {'mace', 'e3nn', 'sevenn', 'matplotlib'} & sys.modules.keys()\n"
            "pathtune.load(sys.argv[1])\n"
            "with contextlib.suppress(pathtune.InputError): pathtune.load('no such model')\n"
            "assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' not in os.environ")  # fmt: skip
    clean = {k: v for k, v in os.environ.items() if k != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    done = subprocess.run([sys.executable, "-c", code, str(world / "tiny.model")], capture_output=True, text=True,
                          env=clean, check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_automatic_share_follows_the_data_and_is_explained(world, tmp_path, capsys):
    assert main([*fit_arguments(world, tmp_path / "run"), "--active-share", "auto"]) == 0
    assert re.search(r"active share: [\d.]+ %, by the amount of data: [\d,]+ labelled numbers", capsys.readouterr().out)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    share = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["delta"]["active_share"]
    assert metrics["counts"]["active"] == round(share * metrics["counts"]["reachable_weights"])


def test_a_share_by_default_is_said_with_that_of_the_data(world, tmp_path, capsys):
    assert main(fit_arguments(world, tmp_path / "run")) == 0
    assert "active share: 3 % by default; --active-share auto would take 30 %" in capsys.readouterr().out

def test_a_swept_share_is_explained_drawn_and_used(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(guidance.choose_share, "__defaults__", (None, None, (0.05, 0.5), None, None, False))
    assert main([*fit_arguments(world, tmp_path / "run"), "--active-share", "sweep"]) == 0
    out = capsys.readouterr().out
    assert "active share: " in out
    points = json.loads((tmp_path / "run" / "sweep.json").read_text())["points"]
    assert [p["share"] for p in points] == [0.05, 0.5]
    assert (tmp_path / "run" / "sweep.png").exists()
    counts = json.loads((tmp_path / "run" / "metrics.json").read_text())["counts"]
    assert counts["active"] in (round(0.05 * counts["reachable_weights"]), round(0.5 * counts["reachable_weights"]))


@pytest.mark.parametrize("word", ["auto", "sweep"])
def test_a_word_for_a_share_wants_a_decision_first(world, word):
    with pytest.raises(InputError, match=f"active_share is '{word}', expected a number here: share_for or"):
        sparsify(load(str(world / "tiny.model")), SparseDelta(active_share=word))


def test_a_reader_that_stops_early_ends_the_program_quietly(finished):
    program = "import sys; from pathtune.cli import VERBS, main; sys.exit(main())"
    command = [sys.executable, "-c", program, "show", str(finished / "adapter.safetensors")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in said


def test_a_notebooks_shell_gets_lines_instead_of_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(3) as progress:
        progress.say("a line")
        progress.step(0, 1, 2, 0.5)
    assert capsys.readouterr().err == "a line\n"
