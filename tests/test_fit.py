"""Laws of fitting: the same seed, a killed run, the E0 refit, the loss."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from models import ALL, crystal, labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, evaluate, fit, load, refit_e0, sparsify, unfreeze
from pathtune.adaptations.averaging import beta1_for
from pathtune.data import collate, from_atoms
from pathtune.losses import loss
from pathtune.model import Prediction
from pathtune.training.folder import RunFolder
from pathtune.training.options import parameter_groups

pytestmark = pytest.mark.usefixtures("needs_mace")


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def structures(n=6, seed=0):
    return [from_atoms(a) for a in labelled([molecule(seed + i, n=4) for i in range(n)], seed)]


def adapted(base):
    return sparsify(base, SparseDelta(delta_start="paper"), elements=[1, 6, 8])


def values_of(model):
    return [p.detach().clone() for p in model.trainable()]


CONFIG = FitConfig(epochs=3, batch_size=2, lr=1e-2)


def test_training_lowers_the_loss_and_keeps_the_best(base):
    teacher = sparsify(base, SparseDelta(delta_start="paper", initial_std=0.1, initial_threshold=0.05), seed=9)
    frames = structures()
    for s in frames:
        p = teacher(collate([s], base.atomic_numbers, base.backbone.r_max, base.backbone.dtype))
        s.energy_ev, s.forces = p.energy.item(), p.forces.detach().numpy()
    history = fit(adapted(base), frames, frames, FitConfig(epochs=8, batch_size=3, lr=2e-2))
    losses = [line["valid_loss"] for line in history.epochs]
    assert min(losses) < 0.8 * losses[0]
    assert losses[history.best_epoch - 1] == min(losses)


def test_the_same_seed_gives_the_same_run_and_another_does_not(base):
    runs = []
    for seed in (0, 0, 1):
        model = adapted(base)
        fit(model, structures(), structures(2), FitConfig(epochs=2, batch_size=2, seed=seed))
        runs.append(values_of(model))
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1]))
    assert not all(torch.equal(a, b) for a, b in zip(runs[0], runs[2]))


class Killed(BaseException):
    pass


def test_a_run_killed_at_any_step_resumes_to_the_bitwise_same_result(base, tmp_path, monkeypatch):
    undisturbed = adapted(base)
    expected = fit(undisturbed, structures(), structures(2), CONFIG)
    folder = RunFolder(tmp_path / "run")
    folder.folder.mkdir()
    from pathtune.training import loop

    original, count, kill_at = loop.Loop._train_step, [0], [0]

    def step(self, batch):
        if count[0] == kill_at[0]:
            raise Killed
        count[0] += 1
        return original(self, batch)

    monkeypatch.setattr(loop.Loop, "_train_step", step)
    # checkpoints after every step, so that runs also resume inside an epoch
    config = FitConfig(epochs=3, batch_size=2, lr=1e-2, checkpoint_minutes=1e-9)
    for kill_at[0] in (1, 2, 4, 5, 7):
        with pytest.raises(Killed):
            fit(adapted(base), structures(), structures(2), config, folder=folder)
    kill_at[0] = -1
    resumed = adapted(base)
    found = fit(resumed, structures(), structures(2), config, folder=folder)
    assert count[0] == 9  # no step was run twice: each checkpoint was used
    assert all(torch.equal(a, b) for a, b in zip(values_of(undisturbed), values_of(resumed)))
    for a, b in zip(expected.epochs, found.epochs):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    assert [json.loads(line)["epoch"] for line in folder.log.read_text().splitlines()] == [1, 2, 3]


def test_e0_refit_recovers_a_known_shift(base):
    frames = [from_atoms(molecule(seed, n=3 + seed % 4)) for seed in range(12)]
    batch = collate(frames, base.atomic_numbers, base.backbone.r_max, base.backbone.dtype)
    shift = {1: 0.3, 6: -1.5, 8: 40.0}
    for s, energy in zip(frames, base(batch).energy.detach().tolist()):
        s.energy_ev = energy + sum(shift[int(z)] for z in s.atomic_numbers)
    fitted, report = refit_e0(base, frames)
    found = dict(zip(base.atomic_numbers, (fitted.e0 - base.e0).tolist()))
    assert found == pytest.approx(shift, abs=1e-9)
    assert report.rank == 3
    assert report.rms_after_mev_atom < 1e-6
    assert torch.equal(base.e0, base.backbone.atomic_energies()[0])


def test_a_rank_deficient_refit_is_of_minimum_norm_and_says_so(base):
    frames = [from_atoms(a) for a in labelled([molecule(0) for _ in range(3)])]
    _, report = refit_e0(base, frames)
    assert (report.rank, report.n_elements) == (1, len(report.shift_ev))
    counts = np.array([(frames[0].atomic_numbers == z).sum() for z in (1, 6, 8)])
    shifts = np.array(list(report.shift_ev.values()))
    assert np.allclose(shifts / counts[counts > 0], (shifts / counts[counts > 0])[0])
    assert "minimum norm" in str(report)


def test_what_the_energies_drifted_by_is_taken_out_at_the_end(base):
    frames = structures(8)
    config = FitConfig(epochs=3, batch_size=2, lr=3e-2, energy_weight=1e-3, refit_e0_last=False)
    drifted, refitted = adapted(base), adapted(base)
    fit(drifted, frames, frames, config)
    history = fit(refitted, frames, frames, dataclasses.replace(config, refit_e0_last=True))
    before, after = (evaluate(m, frames) for m in (drifted, refitted))
    assert after["energy_mae_mev_atom"] < before["energy_mae_mev_atom"]
    assert after["energy_rmse_mev_atom"] == pytest.approx(history.last_e0_fit.rms_after_mev_atom, rel=1e-6)
    assert after["forces_mae_mev_a"] == before["forces_mae_mev_a"]


def test_a_minority_on_another_energy_scale_does_not_move_a_huber_refit_nor_worsens_validation(base):
    atoms = [molecule(0, n=4) for _ in range(8)]
    for seed, a in enumerate(atoms):
        a.rattle(0.02, seed=seed)
    frames = [from_atoms(a) for a in labelled(atoms)]
    for s, energy in zip(frames, base(base.collate(frames)).energy.tolist()):
        s.energy_ev = energy
    for s in frames[:2]:
        s.energy_ev += 2.0 * len(s)
    squares, robust = refit_e0(base, frames)[1], refit_e0(base, frames, huber_delta=0.01)[1]
    assert max(abs(v) for v in robust.shift_ev.values()) < 0.1 * max(abs(v) for v in squares.shift_ev.values())
    model = adapted(base)
    config = FitConfig(epochs=1, lr=1e-9, loss="weighted", refit_e0=False)
    history = fit(model, frames, frames[2:], config)  # squares would spoil the six that validate
    assert history.last_e0_fit is None
    assert torch.equal(model.e0, base.e0)


def test_without_energies_there_is_nothing_to_refit(base):
    frames = structures()
    for s in frames:
        s.energy_ev = None
    refitted, report = refit_e0(base, frames)
    assert torch.equal(refitted.e0, base.e0)
    assert report.shift_ev == {}


def test_isolated_atoms_fix_their_element(base):
    frames = structures()
    atom = molecule(n=1)
    atom.numbers[:] = 8
    atom.info.update(REF_energy=-7.5, config_type="IsolatedAtom")
    frames.append(from_atoms(atom))
    fitted, report = refit_e0(base, frames)
    assert report.from_isolated_atoms == ("O",)
    batch = collate([frames[-1]], base.atomic_numbers, base.backbone.r_max, base.backbone.dtype)
    assert fitted(batch).energy.item() == pytest.approx(-7.5, abs=1e-9)


def test_an_absurd_energy_is_named(base):
    frames = structures()
    frames[3].energy_ev += 1e4
    frames[3].where = "x.xyz, frame 3"
    with pytest.raises(InputError, match="x.xyz, frame 3: the energy is"):
        refit_e0(base, frames)


@pytest.mark.parametrize(("n_steps", "beta1"), [(1, 0.9), (240, 0.95), (2280, 1 - 12 / 2280), (10**6, 0.998)])
def test_beta1_is_one_minus_twelve_steps_over_those_of_the_run_within_limits(n_steps, beta1):
    assert beta1_for(n_steps) == pytest.approx(beta1)


def test_one_minus_beta1_of_a_share_lies_between_that_of_3_percent_and_of_all_weights(base):
    for n_steps in (240, 2280):
        shares = (0.01, 0.03, 0.1, 0.3, 1.0)
        found = [sparsify(base, SparseDelta(active_share=s)).adaptation.parts()[0].beta1(n_steps) for s in shares]
        assert found[0] == found[1] == pytest.approx(0.98)
        assert found[-1] == pytest.approx(beta1_for(n_steps))
        assert sorted(found[1:], reverse=n_steps == 240) == found[1:]
        middle = sparsify(base, SparseDelta(active_share=0.03**0.5)).adaptation.parts()[0].beta1(n_steps)
        assert 1 - middle == pytest.approx(((1 - found[1]) * (1 - found[-1])) ** 0.5)


def test_rate_and_beta1_follow_the_length_of_the_run_unless_they_are_asked(base):
    full = unfreeze(base, "full")
    for epochs in (3, 30):
        (groups,) = parameter_groups(full, FitConfig(), 10 * epochs)
        assert groups[0]["betas"] == (beta1_for(10 * epochs), 0.999)
        assert groups[0]["lr"] == pytest.approx(8e-4 * (10 * epochs) ** 0.5)
    (groups,) = parameter_groups(sparsify(base, SparseDelta(active_share=0.03)), FitConfig(), 2280)
    assert groups[0]["betas"][0] == 0.98
    assert groups[0]["lr"] == pytest.approx(1.2e-3 * (2280 / 0.03) ** 0.5)
    (groups,) = parameter_groups(sparsify(base, SparseDelta(active_share=1.0)), FitConfig(), 2280)
    assert groups[0]["betas"][0] == beta1_for(2280)
    (groups,) = parameter_groups(full, FitConfig(lr=0.5, beta1=0.3), 2280)
    assert (groups[0]["lr"], groups[0]["betas"][0]) == (0.5, 0.3)


@pytest.mark.parametrize("beta1", [-0.1, 1.0])
def test_a_beta1_outside_of_0_and_1_is_refused(beta1):
    with pytest.raises(InputError, match=rf"beta1 is {beta1}, expected a number in \[0, 1\)"):
        FitConfig(beta1=beta1)


def test_a_learning_rate_that_explodes_is_named(base):
    with pytest.raises(InputError, match="loss is .* try a learning rate below 1e\\+15"):
        fit(adapted(base), structures(), structures(), FitConfig(epochs=5, lr=1e15))


def test_a_loss_that_rises_from_the_first_steps_on_stops_with_a_rate_to_try(base):
    teacher = sparsify(base, SparseDelta(delta_start="paper", initial_std=0.01, initial_threshold=0.005), seed=9)
    frames = structures(12)
    for s in frames:
        p = teacher(collate([s], base.atomic_numbers, base.backbone.r_max, base.backbone.dtype))
        s.energy_ev, s.forces = p.energy.item(), p.forces.detach().numpy()
    with pytest.raises(InputError, match=r"the loss rose from .* in \d+ steps at the learning rate 3, .* try --lr 1$"):
        fit(unfreeze(base, "full"), frames, frames, FitConfig(epochs=9, batch_size=2, lr=3.0))
    assert len(fit(unfreeze(base, "full"), frames, frames, FitConfig(epochs=2, batch_size=2)).epochs) == 2


def test_what_is_not_finite_is_named_wherever_it_is_predicted(base):
    broken = unfreeze(base, "full")
    with torch.no_grad():
        broken.trainable()[0][0] = math.nan
    frames = structures(3)
    frames[0].where = "x.xyz, frame 0"
    with pytest.raises(InputError, match="x.xyz, frame 0: the model predicts a.* of nan, expected"):
        evaluate(broken, frames)
    with pytest.raises(InputError, match="x.xyz, frame 0: the model predicts an energy that is not finite"):
        refit_e0(broken, frames)
    with pytest.raises(InputError, match="the validation loss is nan before the first step"):
        fit(broken, frames, frames, FitConfig(epochs=1, refit_e0=False))


def test_missing_labels_do_not_count(base):
    frames = [from_atoms(a) for a in labelled([crystal(0), crystal(1)], stress=True)]
    frames[0].stress = None
    frames[1].energy_ev = None
    batch = collate(frames, base.atomic_numbers, base.backbone.r_max, base.backbone.dtype)
    p = base(batch, outputs=ALL)
    only_energy = loss(p, batch, "weighted", {"forces": 0.0, "stress": 0.0})
    expected = ((p.energy[0] - frames[0].energy_ev) / 5) ** 2
    assert only_energy.item() == pytest.approx(expected.item(), rel=1e-12)
    only_stress = loss(p, batch, "weighted", {"energy": 0.0, "forces": 0.0})
    expected = (p.stress[1] - torch.as_tensor(frames[1].stress)).pow(2).mean()
    assert only_stress.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_huber_loss_is_torchs(base):
    frames = structures(2)
    batch = collate(frames, base.atomic_numbers, base.backbone.r_max, base.backbone.dtype)
    p = base(batch)
    expected = 100 * torch.nn.functional.huber_loss(p.forces, batch.labels["forces"].value, delta=0.01)
    expected = expected + torch.nn.functional.huber_loss(p.energy / 4, batch.labels["energy"].value / 4, delta=0.01)
    assert loss(p, batch).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_float32_loss_keeps_the_digits_of_large_energies():
    e0 = torch.tensor([-65536.0], dtype=torch.float64)
    atoms = labelled([molecule(n=2)])[0]
    atoms.info["REF_energy"] = -65536.0 - 1.0001
    batch = collate([from_atoms(atoms)], [1, 6, 8], 3.5, torch.float32)
    p = Prediction({"energy": torch.tensor([-1.0]), "forces": batch.labels["forces"].value}, e0)
    assert loss(p, batch, "weighted").item() == pytest.approx((1e-4 / 2) ** 2, rel=1e-2)


def test_readout_and_full_arms_train_only_their_weights(base):
    for arm, expected in (("readout", lambda name: name.startswith("readouts.")), ("full", lambda name: True)):
        model = unfreeze(base, arm)
        fit(model, structures(2), structures(2), FitConfig(epochs=1, lr=1e-3))
        changed = {name for (name, a), b in zip(model.backbone.stock.named_parameters(),
                                                base.backbone.stock.parameters()) if not torch.equal(a, b)}  # fmt: skip
        assert changed
        assert all(expected(name) for name in changed)


def test_early_stopping_stops(base):
    history = fit(adapted(base), structures(2), structures(2, seed=50), FitConfig(epochs=40, lr=0.3, patience=2))
    assert len(history.epochs) < 40
    assert len(history.epochs) == history.best_epoch + 2


def test_evaluate_gives_means_per_element_and_type(base):
    frames = structures(3)
    frames[0].config_type = "odd"
    scores = evaluate(base, frames)
    errors = []
    for s in frames:
        batch = collate([s], base.atomic_numbers, base.backbone.r_max, base.backbone.dtype)
        errors.append(base(batch).forces.detach().numpy() - s.forces)
    assert scores["forces_mae_mev_a"] == pytest.approx(1000 * np.abs(np.concatenate(errors)).mean(), rel=1e-9)
    carbon = np.concatenate([e[s.atomic_numbers == 6] for e, s in zip(errors, frames)])
    assert scores["per_element"]["C"]["forces_mae_mev_a"] == pytest.approx(1000 * np.abs(carbon).mean(), rel=1e-9)
    assert scores["per_config_type"]["odd"]["n_structures"] == 1
    assert "stress_mae_gpa" not in scores


@pytest.mark.parametrize("options", [{"epochs": 0}, {"lr": -1.0}, {"loss": "mse"}, {"batch_size": 0},
                                     {"huber_delta": math.nan}])  # fmt: skip
def test_wrong_options_are_named(options):
    with pytest.raises(InputError, match=next(iter(options))):
        FitConfig(**options)
