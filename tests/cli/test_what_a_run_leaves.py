"""What a run leaves to be read: tables, predictions, and all that a methods section needs."""

import csv
import json

import ase.io
import numpy as np
import pytest
import torch

from models import labelled, molecule, tiny_mace
from pathtune import evaluate, load, load_adapter, read_structures
from pathtune.cli import main
from pathtune.training.options import History

pytestmark = pytest.mark.usefixtures("needs_mace")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with a test set."""
    folder = tmp_path_factory.mktemp("world")
    torch.save(tiny_mace(), folder / "tiny.model")
    files = {}
    for name, seed, n in (("train", 0, 6), ("valid", 100, 3), ("test", 200, 4)):
        files[name] = str(folder / f"{name}.xyz")
        ase.io.write(files[name], labelled([molecule(seed + i, n=4) for i in range(n)]), format="extxyz")
    flags = [f for name, file in files.items() for f in (f"--{name}", file)]
    assert main(["fit", "--model", str(folder / "tiny.model"), *flags, "--epochs", "3", "--batch-size", "2",
                 "--keep-worse", "--no-report", "--out", str(folder / "run")]) == 0  # fmt: skip
    return folder / "run"


def tuned(run):
    return load_adapter(load(str(run.parent / "tiny.model")), str(run / "adapter.safetensors"))


def test_the_table_is_the_log_with_errors_and_the_rate_in_force(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    with open(run / "log.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    for line, row in zip(lines, rows):
        for name in ("train_loss", "valid_loss", "lr", "active_share", "seconds"):
            assert float(row[name]) == line[name]
        for name in ("energy_mae_mev_atom", "forces_mae_mev_a"):
            assert float(row[name]) == line["valid_errors"][name]
    assert float(rows[-1]["lr"]) == pytest.approx(json.loads((run / "metrics.json").read_text())["learning_rate"])


def test_the_errors_of_the_best_epoch_in_the_log_are_those_of_evaluate(run):
    metrics = json.loads((run / "metrics.json").read_text())
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    logged = lines[metrics["best_epoch"] - 1]["valid_errors"]["forces_mae_mev_a"]
    assert logged == pytest.approx(metrics["valid"]["forces_mae_mev_a"], rel=1e-9)


def test_predictions_are_those_of_the_tuned_model_with_the_labels_beside_them(run):
    frames = ase.io.read(run / "predictions.extxyz", ":")
    assert [a.info["split"] for a in frames] == ["valid"] * 3 + ["test"] * 4
    test = [a for a in frames if a.info["split"] == "test"]
    given = read_structures(run.parent / "test.xyz")
    for atoms, s in zip(test, given):
        assert atoms.info["REF_energy"] == pytest.approx(s.energy_ev)
        assert np.allclose(atoms.arrays["REF_forces"], s.forces, atol=1e-7)
    errors = [a.arrays["pathtune_forces"] - a.arrays["REF_forces"] for a in test]
    scores = evaluate(tuned(run), given)
    assert 1000 * np.abs(np.concatenate(errors)).mean() == pytest.approx(scores["forces_mae_mev_a"], rel=1e-4)
    energies = [(a.info["pathtune_energy"] - a.info["REF_energy"]) / len(a) for a in test]
    assert 1000 * np.abs(energies).mean() == pytest.approx(scores["energy_mae_mev_atom"], rel=1e-4)
    stored = json.loads((run / "metrics.json").read_text())["test"]
    assert stored["forces_mae_mev_a"] == pytest.approx(scores["forces_mae_mev_a"], rel=1e-9)


def test_metrics_hold_what_a_methods_section_needs_and_describe_prints_it(run, capsys):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["n_structures"] == {"train": 6, "valid": 3, "test": 4}
    assert len(metrics["model_sha256"]) == 64
    assert {"pathtune", "torch", "mace-torch"} <= set(metrics["versions"])
    assert metrics["best_reason"].startswith(f"epoch {metrics['best_epoch']} has the lowest validation loss")
    assert main(["describe", str(run)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("fine-tuned (arm sparse) on 6 structures, with 3 for validation and 4 for testing",
                  f"learning rate {metrics['learning_rate']:.3g}", metrics["model_sha256"][:12],
                  metrics["fingerprints"]["train"][:12], "Test errors: energy MAE", "seed 0",
                  metrics["versions"]["torch"]):  # fmt: skip
        assert words in printed, words
    assert "energy 1, forces 100." in printed  # only labels that the structures have


def test_describe_of_anything_else_is_one_sentence(run, tmp_path, capsys):
    assert main(["describe", str(tmp_path)]) == 2
    assert "expected the folder of a finished run" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text("{}")
    assert main(["describe", str(tmp_path)]) == 2
    assert "holds no versions" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value", "words"), [
    ("n_structures", None, "lacks 'n_structures'"),
    ("valid", {"n_structures": 1, "per_element": {}, "per_config_type": {}, "energy_mae_mev_atom": "1"},
     "valid['energy_mae_mev_atom'] is '1', expected a finite number"),
    ("valid", {"n_structures": 1, "per_element": {}, "per_config_type": {}, "energy_mae_mev_atom": {},
     "energy_rmse_mev_atom": 1}, "valid['energy_mae_mev_atom'] is {}, expected a finite number"),
    ("test", {"n_structures": 1, "per_element": {}, "per_config_type": {}, "forces_mae_mev_a": 1},
     "test lacks 'forces_rmse_mev_a'"),
    ("units", [3], "units[0] is 3, expected a text"),
])  # fmt: skip
def test_describe_of_damaged_metrics_names_the_place(run, tmp_path, capsys, key, value, words):
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics[key]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics if value is None else metrics | {key: value}))
    (tmp_path / "config.toml").write_text((run / "config.toml").read_text())
    assert main(["describe", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_the_reason_of_the_best_epoch_counts_those_that_could_be():
    lines = [{"valid_loss": 1.0, "is_eligible": False}, {"valid_loss": 2.0, "is_eligible": True}]
    assert History(lines, None, 2).reason == (
        "epoch 2 has the lowest validation loss, 2, of the 1 in which the asked share held"
    )
    assert "no epoch could be the best" in History(lines[:1], None, 0).reason
