"""Laws of loggers of others: told of every epoch and of the scores once; a missing package is a sentence."""

import json
import sys
import types

import ase.io
import pytest
import torch

from models import labelled, molecule, tiny_mace
from pathtune.cli import main
from pathtune.training.loggers import PACKAGES, check_loggers, numbers_of

pytestmark = pytest.mark.usefixtures("needs_mace")


class Fake:
    """The parts of both packages that are used, and what they were told."""

    def __init__(self):
        self.begun, self.told, self.texts, self.ended = [], [], [], 0
        self.id, self.summary = "abc", {}

    def init(self, **asked):
        self.begun.append(asked)
        return self

    def log(self, values, step):
        self.told.append((step, values))

    def finish(self):
        self.ended += 1

    def writer(self, folder, purge_step):
        self.begun.append({"folder": folder, "purge_step": purge_step})
        return self

    def add_text(self, name, text):
        self.texts.append((name, text))

    def add_scalar(self, name, value, step):
        self.told.append((step, {name: value}))

    def flush(self):
        pass

    close = finish


@pytest.fixture
def fake(monkeypatch):
    found = Fake()
    for name in ("WANDB_DIR", "WANDB_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    for name, content in {
        "wandb": {"init": found.init},
        "tensorboard": {},
        "torch.utils.tensorboard": {"SummaryWriter": found.writer},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Of a fit, without its folder."""
    folder = tmp_path_factory.mktemp("loggers")
    torch.save(tiny_mace(torch.float32), folder / "m.model")
    ase.io.write(folder / "t.xyz", labelled([molecule(i, n=3) for i in range(3)]), format="extxyz")
    data = ["--train", f"{folder}/t.xyz", "--valid", f"{folder}/t.xyz", "--test", f"{folder}/t.xyz"]
    return ["fit", "--model", f"{folder}/m.model", *data, "--no-check-units", "--keep-worse", "--no-report", "--json"]


def values(fake, name):
    return [(step, told[name]) for step, told in fake.told if name in told]


def test_wandb_is_told_options_every_epoch_and_the_scores(words, fake, tmp_path):
    assert main([*words, "--out", str(tmp_path / "run"), "--epochs", "2", "--logger", "wandb"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert fake.begun[0]["config"]["fit"]["epochs"] == 2
    assert (fake.begun[0]["project"], fake.begun[0]["name"]) == ("pathtune", "run")
    assert values(fake, "valid_loss") == [(k + 1, line["valid_loss"]) for k, line in enumerate(log)]
    assert values(fake, "valid_errors/forces_mae_mev_a") == [
        (k + 1, line["valid_errors"]["forces_mae_mev_a"]) for k, line in enumerate(log)
    ]
    assert fake.summary["final_test/forces_rmse_mev_a"] == metrics["test"]["forces_rmse_mev_a"]
    assert fake.ended == 1


def test_tensorboard_has_curves_in_the_folder_of_the_run(words, fake, tmp_path):
    assert main([*words, "--out", str(tmp_path / "run"), "--epochs", "2", "--logger", "tensorboard"]) == 0
    assert fake.begun == [{"folder": str(tmp_path / "run" / "tensorboard"), "purge_step": 1}]
    assert [step for step, _ in values(fake, "lr")] == [1, 2]
    assert "epochs = 2" in fake.texts[0][1]
    assert fake.ended == 1


def test_a_run_that_goes_on_goes_on_in_the_same_curves(words, fake, tmp_path, monkeypatch):
    from pathtune.training.loop import Loop

    finish, run = Loop._finish_epoch, [*words, "--out", str(tmp_path / "run"), "--epochs", "3"]

    def interrupted(self):
        finish(self)
        if self.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_finish_epoch", interrupted)
    assert main([*run, "--logger", "wandb"]) == 130
    monkeypatch.undo()
    for name in ("wandb", "tensorboard", "torch.utils.tensorboard"):
        module = types.ModuleType(name)
        vars(module).update({"init": fake.init, "SummaryWriter": fake.writer})
        monkeypatch.setitem(sys.modules, name, module)
    assert main([*run, "--logger", "wandb", "tensorboard", "--resume"]) == 0
    assert fake.begun[1] | {"config": 0} == fake.begun[0] | {"id": "abc", "resume": "allow", "config": 0}
    assert fake.begun[2]["purge_step"] == 3
    assert [step for step, _ in values(fake, "seconds")] == [1, 2, 3, 3]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_one_sentence_before_anything_is_made(words, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setitem(sys.modules, PACKAGES[name][0], None)
    assert main([*words, "--out", str(tmp_path / "run"), "--logger", name]) == 2
    expected = f"logger is {name}, whose package is not installed, expected it: pip install {PACKAGES[name][0]}"
    assert capsys.readouterr().err == f"pathtune fit: {expected}\n"
    assert not (tmp_path / "run").exists()


def test_a_service_that_cannot_be_reached_is_one_sentence(words, fake, tmp_path, capsys):
    def refuse(**asked):
        raise ConnectionError("no network\nat all")

    sys.modules["wandb"].init = refuse
    assert main([*words, "--out", str(tmp_path / "run"), "--logger", "wandb"]) == 2
    assert "logger is wandb, which cannot begin (no network at all), expected a login" in capsys.readouterr().err


def test_a_line_of_the_log_becomes_numbers_by_name():
    line = {"epoch": 1, "lr": 0.5, "valid_errors": {"a": 1.0, "b": None}, "is_eligible": True, "x": "text"}
    assert numbers_of(line, ("epoch", "is_eligible")) == {"lr": 0.5, "valid_errors/a": 1.0}
    check_loggers([])
