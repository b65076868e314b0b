"""Laws of replay: the base itself has no loss on it, the E0 refit does not see it, less is forgotten."""

import copy
import json

import ase.io
import numpy as np
import pytest
import torch

from models import crystal, labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, adapt, fit, load, refit_e0
from pathtune.adapter_file import read_adapter
from pathtune.cli import main
from pathtune.data import Frames, Joined, from_atoms
from pathtune.evaluation import mean_loss
from pathtune.training.replay import replayed

pytestmark = pytest.mark.usefixtures("needs_mace")
CONFIG = FitConfig(epochs=6, batch_size=2)


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def structures(seed, n=4):
    return [from_atoms(atoms) for atoms in labelled([molecule(seed + i, n=4) for i in range(n)], seed)]


def known(n=4):
    """Structures without labels, of other sizes than the training data, a crystal among them."""
    return [from_atoms(atoms) for atoms in [crystal(40), *(molecule(30 + i, n=5) for i in range(n - 1))]]


def labelled_by(base, frames):
    """The frames with what the base predicts, as a file at its level of theory would have it."""
    frames = copy.deepcopy(frames)
    for s in frames:
        p = base(base.collate([s]), outputs=("energy", "forces"))
        s.energy_ev, s.forces = p.energy.detach().item(), p.forces.detach().numpy()
    return frames


@pytest.mark.parametrize("by_base", [True, False], ids=["base", "own"])
def test_the_base_itself_has_no_loss_on_replay_though_e0_were_refitted(base, by_base):
    refitted, report = refit_e0(base, structures(0))
    assert max(abs(v) for v in report.shift_ev.values()) > 0.01
    model = adapt(refitted, ["lora"], (1, 6, 8))
    frames = known() if by_base else labelled_by(base, known())
    before = copy.deepcopy(frames)
    source = replayed(model, Frames(frames), 0.25, by_base)
    assert mean_loss(model, source, 3, FitConfig(loss="weighted").loss_of) < 1e-18
    assert [source.read(i).weight for i in range(len(source))] == [0.25] * 4
    assert ("stress" in source.read(0).labels) == by_base
    assert not any("stress" in source.read(i).labels for i in (1, 2, 3))
    for mine, untouched in zip(frames, before):
        assert mine.labels.keys() == untouched.labels.keys()
        assert all(np.array_equal(v, untouched.labels[name]) for name, v in mine.labels.items())
        assert mine.weight == 1.0


def test_the_e0_refit_does_not_see_replay(base):
    found = []
    for replay in (None, known()):
        model = adapt(base, ["lora"], (1, 6, 8))
        found.append((fit(model, structures(0), structures(50), CONFIG, replay=replay), model))
    (without, _), (with_replay, _) = found
    assert without.e0_fit == with_replay.e0_fit
    assert without.epochs[-1]["valid_loss"] != with_replay.epochs[-1]["valid_loss"]


@pytest.mark.parametrize("kinds", [("full",), ("sparse", "lora")], ids="+".join)
def test_with_replay_the_forces_stay_nearer_to_the_bases_and_weight_says_how_near(base, kinds):
    frames = known()
    batch = base.collate(frames)
    expected = base(batch).forces
    teacher = adapt(base, ["modulation"], (1, 6, 8))
    with torch.no_grad():
        for g in teacher.trainable():
            g += 0.2
    train = labelled_by(teacher, structures(0))
    moved = []
    for weight in (0.0, 1.0, 30.0):
        model = adapt(base, kinds, (1, 6, 8))
        config = FitConfig(epochs=12, batch_size=2, replay_weight=weight)
        fit(model, train, train, config, replay=frames)
        moved.append(float((model(batch).forces - expected).detach().abs().mean()))
    assert moved[0] > moved[1] > moved[2]


def test_joined_sources_are_the_list_of_their_frames(base):
    parts = [structures(0), known(), [from_atoms(molecule(3, n=1))]]
    joined = Joined([Frames(part) for part in parts])
    whole = Frames([s for part in parts for s in part])
    assert len(joined) == len(whole) == 9
    assert joined.elements == whole.elements
    assert np.array_equal(joined.composition, whole.composition)
    assert joined.present.keys() == whole.present.keys()
    assert all(np.array_equal(mask, whole.present[name]) for name, mask in joined.present.items())
    assert all(joined.read(i) is whole.read(i) for i in range(9))
    assert all(np.array_equal(joined.graph(i, 3.5).sender, whole.graph(i, 3.5).sender) for i in range(9))
    other = Joined([Frames(part) for part in reversed(parts)])
    assert joined.fingerprint == Joined([Frames(part) for part in parts]).fingerprint != other.fingerprint
    assert len(Joined([])) == 0


def test_the_command_line_replays_a_file_and_resumes_bitwise(tmp_path, monkeypatch, capsys):
    from pathtune.training import loop

    torch.save(tiny_mace(torch.float32), tmp_path / "tiny.model")
    for name, seed in (("train", 0), ("valid", 50)):
        ase.io.write(tmp_path / f"{name}.xyz", labelled([molecule(seed + i, n=4) for i in range(4)]), format="extxyz")
    ase.io.write(tmp_path / "old.xyz", [molecule(30 + i, n=5) for i in range(3)], format="extxyz")

    def command(out, *more):
        files = [word for name in ("train", "valid") for word in (f"--{name}", str(tmp_path / f"{name}.xyz"))]
        return main(["fit", "--model", str(tmp_path / "tiny.model"), *files, "--replay", str(tmp_path / "old.xyz"),
                     "--replay-weight", "0.5", "--epochs", "2", "--batch-size", "2", "--arm", "lora", "--rank", "2",
                     "--no-report", "--out", str(tmp_path / out), *more])  # fmt: skip

    assert command("whole") == 0
    original = loop.Loop._finish_epoch

    def interrupt(self):
        original(self)
        assert self.steps_per_epoch == 4
        if self.epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_finish_epoch", interrupt)
        assert command("broken") == 130
    assert command("broken", "--resume") == 0
    whole, broken = (read_adapter(tmp_path / out / "adapter.safetensors")[0] for out in ("whole", "broken"))
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
    assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["arm"] == "lora"
    assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["n_steps"] == 8  # replayed structures count
    capsys.readouterr()
    assert command("own", "--replay-labels", "own") == 2
    assert "old.xyz: no frame has the energy key 'REF_energy'" in capsys.readouterr().err
    for options, said in (
        (("--pull", "ewc"), "pull is 'ewc' beside arm lora, expected pull among the arm's kinds"),
        (("--freeze", "*"), "freeze is ('*',) beside arm lora, expected full among the arm's kinds"),
        (("--active-share", "0.1"), "active_share is 0.1 beside arm lora, expected sparse among the arm's kinds"),
    ):
        assert command("own", *options) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "own").exists()


def test_a_negative_weight_and_an_unknown_element_are_named(base):
    with pytest.raises(InputError, match="replay_weight is -1.0, expected at least 0"):
        FitConfig(replay_weight=-1.0)
    strange = molecule(1)
    strange.numbers[0] = 79
    with pytest.raises(InputError, match="contains Au, which the model does not know"):
        fit(adapt(base, ["lora"]), structures(0), structures(0), replay=[strange])


def test_replayed_labels_of_another_level_of_theory_are_warned_of(base):
    config = FitConfig(epochs=1, batch_size=2, replay_labels="own")
    frames = labelled_by(base, known())
    fit(adapt(base, ["readout"]), structures(0), structures(0), config, replay=copy.deepcopy(frames))
    for s in frames:
        s.energy_ev = s.energy_ev - 40.0 * int((s.atomic_numbers == 8).sum())
    with pytest.warns(UserWarning, match=r"O -40 eV\): they look like another level of theory, expected the base's"):
        fit(adapt(base, ["readout"]), structures(0), structures(0), config, replay=frames)
