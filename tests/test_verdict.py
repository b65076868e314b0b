"""Laws of the verdict on a training: a result that is worse than the base is not kept, and it is said."""

import json

import ase.io
import numpy as np
import pytest
import torch

from models import labelled, molecule, tiny_mace
from pathtune import load
from pathtune.cli import main
from pathtune.data import Frames, collate, from_atoms
from pathtune.training.options import History
from pathtune.training.verdict import judge, trivial_errors

pytestmark = pytest.mark.usefixtures("needs_mace")
CURVE = History([{"train_loss": 1.0}, {"train_loss": 0.5}], None, 2)
SCORES = {"energy_rmse_mev_atom": 5.0, "forces_rmse_mev_a": 100.0}


@pytest.mark.parametrize(
    ("after", "losses", "is_worse", "n_warnings"),
    [
        ({}, (1.0, 0.5), False, 0),
        ({}, (1.0, 1.1), True, 1),
        ({"forces_rmse_mev_a": 900.0}, (1.0, 0.5), True, 1),  # above both the zeros and the base
        ({"energy_rmse_mev_atom": 4.5}, (1.0, 0.5), False, 1),  # better than the base, which was no better than a guess
    ],
)
def test_worse_is_a_higher_loss_or_an_error_above_both_guess_and_base(after, losses, is_worse, n_warnings):
    guesses = {"energy_rmse_mev_atom": 4.0 if after else 9.0, "forces_rmse_mev_a": 500.0}
    if "forces_rmse_mev_a" in after:
        guesses["energy_rmse_mev_atom"] = 9.0
    verdict = judge(SCORES, SCORES | after, losses, guesses, CURVE)
    assert (verdict.is_worse, len(verdict.warnings)) == (is_worse, n_warnings)


def test_the_likely_cause_follows_the_errors_and_the_training_loss():
    guesses = {"energy_rmse_mev_atom": 4.0}
    falls = judge(SCORES, SCORES | {"energy_rmse_mev_atom": 4.5}, (1.0, 0.5), guesses, CURVE).warnings[0]
    assert "it was 5 before, so train longer or give energy_weight more; if it stays, the labels may have" in falls
    stays = judge(SCORES, SCORES, (1.0, 0.5), guesses, CURVE).warnings[0]
    assert "the labels may have another unit, sign or level of theory" in stays
    rising = History([{"train_loss": 1.0}, {"train_loss": 3.0}], None, 1)
    assert "a lower learning rate" in judge(SCORES, SCORES, (1.0, 2.0), {}, rising).warnings[0]
    assert "differ in level of theory" in judge(SCORES, SCORES, (1.0, 2.0), {}, CURVE).warnings[0]


def test_guesses_are_zeros_for_forces_and_a_constant_for_each_element():
    frames = [from_atoms(a) for a in labelled([molecule(seed, n=3 + seed % 4) for seed in range(12)])]
    for s in frames:
        s.energy_ev = float(sum({1: -1.0, 6: -4.0, 8: -9.0}[int(z)] for z in s.atomic_numbers))
    found = trivial_errors(Frames(frames), Frames(frames[:5]))
    forces = np.concatenate([s.forces.ravel() for s in frames[:5]])
    assert found["forces_rmse_mev_a"] == pytest.approx(1000 * np.sqrt(np.mean(forces**2)))
    assert found["energy_rmse_mev_atom"] == pytest.approx(0, abs=1e-6)


ARMS = [("sparse", False), ("full", False), ("full", True), ("kron", True)]


@pytest.mark.parametrize(("arm", "replays_carbon"), ARMS)
def test_a_run_that_only_makes_it_worse_keeps_the_start_and_ends_with_status_1(arm, replays_carbon, tmp_path, capsys):
    torch.save(tiny_mace(), tmp_path / "tiny.model")
    base = load(str(tmp_path / "tiny.model"))
    frames = [molecule(seed, n=4 + seed % 2) for seed in range(6)]
    ase.io.write(tmp_path / "replay.xyz", frames, format="extxyz")
    if replays_carbon:  # which the training data then have not
        for atoms in frames:
            atoms.numbers[atoms.numbers == 6] = 8
    for atoms in frames:  # the labels are the model's own: nothing can be better
        p = base(collate([from_atoms(atoms)], base.atomic_numbers, base.backbone.r_max, base.backbone.dtype))
        atoms.info["REF_energy"] = p.energy.item()
        atoms.arrays["REF_forces"] = p.forces.detach().numpy()
    ase.io.write(tmp_path / "data.xyz", frames, format="extxyz")
    file = str(tmp_path / "data.xyz")
    command = ["fit", "--model", str(tmp_path / "tiny.model"), "--train", file, "--valid", file, "--arm", arm,
               "--epochs", "2", "--lr", "0.3", "--no-report"]  # fmt: skip
    command += ["--replay", str(tmp_path / "replay.xyz"), "--batch-size", "12"] if replays_carbon else []
    assert main([*command, "--out", str(tmp_path / "run")]) == 1
    printed = capsys.readouterr()
    assert "worse than" in printed.err
    assert "the start again" in printed.out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["is_worse"], metrics["is_start"]) == (True, True)
    assert metrics["valid"]["forces_mae_mev_a"] == pytest.approx(0, abs=1e-3)
    merged = load(str(tmp_path / "run" / "merged.model"))
    for name, weight in base.backbone.parameters.items():
        assert torch.equal(merged.backbone.parameters[name], weight), name
    assert main([*command, "--out", str(tmp_path / "kept"), "--keep-worse"]) == 0
    metrics = json.loads((tmp_path / "kept" / "metrics.json").read_text())
    assert (metrics["is_worse"], metrics["is_start"]) == (True, False)
    assert metrics["valid"]["forces_mae_mev_a"] > 1
