"""Laws of labels: one that tests alone register goes everywhere that energy, forces and stress go."""

import dataclasses
import json

import ase.io
import numpy as np
import pytest
import torch

from models import labelled, molecule, tiny_mace
from pathtune import (
    FitConfig,
    InputError,
    Label,
    LabelKeys,
    SparseDelta,
    calculator,
    evaluate,
    fit,
    load,
    load_adapter,
    read_structures,
    register_label,
    save_adapter,
    sparsify,
    unfreeze,
)
from pathtune.cli import _common, main
from pathtune.data import as_source, batches, labels
from pathtune.losses import loss_terms, total
from pathtune.training.folder import RunFolder
from stopping import interrupted_after

pytestmark = pytest.mark.usefixtures("needs_mace")
ALL_WEIGHTS = SparseDelta(active_share=1.0)


@pytest.fixture
def toys():
    """The module of the toy labels, while they are registered."""
    import toys

    with toys.registered(toys.CHARGE, toys.FIELD):
        yield toys


def one_batch(model, frames):
    return next(batches(model, as_source(frames), len(frames)))


def test_a_registered_label_is_read_and_checked(toys, tmp_path):
    frames = toys.toy_frames(2)
    del frames[1].arrays["REF_charges"]
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    first, second = read_structures(tmp_path / "a.xyz")
    assert np.allclose(first.labels["charge"], frames[0].arrays["REF_charges"], atol=1e-7)
    assert "charge" not in second.labels
    for wrong, words in ((np.zeros((4, 3)), r"frame 0: REF_charges has shape \(4, 3\), expected \(4,\)"),
                         (np.full(4, np.nan), "REF_charges holds NaN or infinity, expected finite charge in e"),
                         (np.full(4, 20.0), "REF_charges reaches 20 e, expected at most 10")):  # fmt: skip
        frames[0].arrays["REF_charges"] = wrong
        with pytest.raises(InputError, match=words):
            as_source(frames)
    with pytest.raises(InputError, match="no frame has the charge key 'q'; present: .*REF_charges"):
        read_structures(tmp_path / "a.xyz", LabelKeys(charge_key="q"))


def test_a_batch_and_the_loss_count_only_the_atoms_that_have_it(toys):
    frames = toys.toy_frames(2)
    del frames[0].arrays["REF_charges"]
    model = toys.toy_model()
    batch = one_batch(model, frames)
    value, mask = batch.labels["charge"]
    assert mask.tolist() == [False] * 4 + [True] * 4
    assert value[:4].abs().max() == 0
    assert batch.wanted == {"energy", "forces", "charge"}
    p = model(batch, outputs=batch.wanted)
    terms = loss_terms(p, batch, "weighted")
    error = p.outputs["charge"][4:] - torch.as_tensor(frames[1].arrays["REF_charges"])
    assert terms["charge"].count == 4
    assert terms["charge"].mean.item() == pytest.approx(error.pow(2).mean().item(), rel=1e-12)
    nothing = {"energy": 0.0, "forces": 0.0}
    assert total(terms, nothing).item() == pytest.approx(2 * error.pow(2).mean().item(), rel=1e-12)
    assert total(terms, {**nothing, "charge": 5.0}).item() == pytest.approx(5 * error.pow(2).mean().item(), rel=1e-12)


def test_sums_and_counts_of_two_batches_add_up_to_the_loss_of_both(toys):
    frames = toys.toy_frames(5)
    model = toys.toy_model()
    parts, whole = [], one_batch(model, frames)
    for batch in (one_batch(model, frames[:2]), one_batch(model, frames[2:])):
        parts.append(loss_terms(model(batch, outputs=batch.wanted), batch))
    expected = total(loss_terms(model(whole, outputs=whole.wanted), whole))
    added = {name: dataclasses.replace(term, sum=term.sum + parts[1][name].sum, count=term.count + parts[1][name].count)
             for name, term in parts[0].items()}  # fmt: skip
    assert total(added).item() == pytest.approx(expected.item(), rel=1e-12)


def test_evaluate_reports_it_over_all_and_by_element(toys):
    frames = toys.toy_frames(3)
    model = toys.toy_model()
    scores = evaluate(model, frames)
    batch = one_batch(model, frames)
    errors = 1000 * (model(batch, outputs=batch.wanted).outputs["charge"] - batch.labels["charge"].value)
    assert scores["charge_mae_me"] == pytest.approx(errors.abs().mean().item(), rel=1e-12)
    assert scores["charge_rmse_me"] == pytest.approx(errors.pow(2).mean().sqrt().item(), rel=1e-12)
    carbon = errors[batch.species == 1]
    assert scores["per_element"]["C"]["charge_mae_me"] == pytest.approx(carbon.abs().mean().item(), rel=1e-12)


@pytest.mark.parametrize("arm", ["sparse", "full"])
def test_training_lowers_its_error_and_the_log_says_so(toys, arm):
    model = sparsify(toys.toy_model(), ALL_WEIGHTS) if arm == "sparse" else unfreeze(toys.toy_model(), "full")
    frames = toys.toy_frames(4)
    for atoms in frames:
        atoms.arrays["REF_charges"] = np.full(len(atoms), atoms.info["field"][0] - 0.5)
    weights = {"energy": 0.0, "forces": 0.0, "charge": 1.0}
    history = fit(model, frames, frames, FitConfig(epochs=8, batch_size=2, lr=0.1, weights=weights))
    parts = [line["valid_parts"] for line in history.epochs]
    assert set(parts[0]) == {"energy", "forces", "charge"}
    assert min(p["charge"] for p in parts) < 0.9 * parts[0]["charge"]


def test_the_command_line_has_its_flags_and_prints_it(toys, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_common, "load", lambda *_: toys.toy_model(dtype=torch.float32))
    frames = toys.toy_frames(4)
    for atoms in frames:
        atoms.arrays["q"] = atoms.arrays.pop("REF_charges")
    file = str(tmp_path / "a.xyz")
    ase.io.write(file, frames, format="extxyz")
    out = tmp_path / "run"
    flags = ["--model", "toy", "--charge-key", "q"]
    assert main(["fit", *flags, "--train", file, "--valid", file, "--epochs", "1", "--out", str(out),
                 "--charge-weight", "7", "--keep-worse", "--no-report"]) == 0  # fmt: skip
    assert "charge MAE" in capsys.readouterr().out
    config = (out / "config.toml").read_text()
    assert 'charge_key = "q"' in config
    assert "charge_weight = 7.0" in config
    assert "charge" in json.loads((out / "log.jsonl").read_text())["valid_parts"]
    assert main(["evaluate", *flags, "--data", file, "--adapter", str(out / "adapter.safetensors")]) == 0
    assert "charge MAE" in capsys.readouterr().out
    assert main(["fit", "--config", str(out / "config.toml"), "--out", str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"]["charge_mae_me"] > 0


def test_a_run_on_it_resumes_bitwise_and_its_adapter_loads(toys, tmp_path):
    config = FitConfig(epochs=3, batch_size=2, charge_weight=3.0)
    frames = toys.toy_frames(4)

    def trained(name):
        model = sparsify(toys.toy_model(), SparseDelta(active_share=0.2))
        folder = RunFolder(tmp_path / name)
        folder.folder.mkdir(exist_ok=True)
        fit(model, frames, frames, config, folder=folder)
        return model

    expected = trained("whole")
    with interrupted_after(2), pytest.raises(KeyboardInterrupt):
        trained("broken")
    resumed = trained("broken")
    assert all(torch.equal(a, b) for a, b in zip(expected.trainable(), resumed.trainable(), strict=True))
    save_adapter(resumed, tmp_path / "a.safetensors")
    loaded = load_adapter(toys.toy_model(), tmp_path / "a.safetensors")
    found, charges = (evaluate(m, frames)["charge_mae_me"] for m in (resumed, loaded))
    assert found == pytest.approx(charges, rel=1e-12)


def test_the_calculator_gives_it(toys):
    model = toys.toy_model()
    atoms = toys.toy_frames(1)[0]
    expected = model(one_batch(model, [atoms]), outputs=["charge"]).outputs["charge"]
    atoms.calc = calculator(model)
    atoms.get_potential_energy()
    assert atoms.calc.results["charge"] == pytest.approx(expected.detach().numpy(), rel=1e-12)
    assert atoms.calc.get_property("charge", atoms).shape == (4,)


def test_an_input_label_reaches_the_backbone_and_has_no_weight(toys):
    model = toys.toy_model()
    frames = toys.toy_frames(2)
    before = model(one_batch(model, frames), outputs=["charge"]).outputs["charge"]
    frames[1].info["field"] = frames[1].info["field"] + [0.5, 0.0, 0.0]
    after = model(one_batch(model, frames), outputs=["charge"]).outputs["charge"]
    assert torch.allclose(after - before, torch.tensor([0.0] * 4 + [0.5] * 4, dtype=torch.float64), atol=1e-12)
    assert "field" not in FitConfig().weights
    del frames[1].info["field"]
    with pytest.raises(InputError, match=r"atoms, frame 1: has no field \(field\), expected it, since a"):
        one_batch(model, frames)


def test_what_a_model_does_not_predict_is_one_sentence(toys):
    model = load(tiny_mace())
    frames = toys.toy_frames(2)
    with pytest.raises(InputError, match="output 'charge' is asked of a ScaleShiftMACE, expected some of energy, for"):
        model(one_batch(model, frames), outputs=["charge"])
    with pytest.raises(InputError, match="the data have charge labels, but a ScaleShiftMACE predicts energy, forces, "):
        fit(sparsify(model), frames, frames)
    history = fit(sparsify(model), frames, frames, FitConfig(epochs=1, charge_weight=0.0))
    assert "charge" not in history.epochs[0]["valid_parts"]
    assert "charge_mae_me" not in evaluate(model, frames)


def test_without_a_registration_nothing_knows_a_label():
    assert [label.name for label in labels()] == ["energy", "forces", "stress", "magmom", "magforces",
                                                 "moment_length", "total_charge", "total_spin"]  # fmt: skip
    with pytest.raises(TypeError, match="charge_weight"):
        FitConfig(charge_weight=1.0)
    with pytest.raises(AttributeError, match="charge_key"):
        _ = LabelKeys().charge_key
    assert "REF_charges" not in str(read_keys())


def read_keys():
    return sorted(LabelKeys().keys.values())


@pytest.mark.parametrize(("call", "words"), [
    (lambda: register_label(Label(name="forces", per="atom", key="F")), "label 'forces' is registered already"),
    (lambda: register_label(Label(name="f2", per="atom", key="REF_forces")), "'REF_forces' names two labels, forces a"),
    (lambda: LabelKeys(energy_key="E", stress_key="E"), "key 'E' names two labels, energy and stress, expected"),
    (lambda: Label(name="Big", per="atom", key="B"), "label name is 'Big'"),
    (lambda: Label(name="dipole", per="frame", key="d"), "label dipole: per is 'frame', expected graph or atom"),
    (lambda: Label(name="dipole", per="graph", key="d", parity=0), "label dipole: parity is 0, expected 1 or -1"),
    (lambda: FitConfig(weights={"energies": 1.0}), "weights: unknown name 'energies', expected one of energy, forces"),
])  # fmt: skip
def test_wrong_labels_and_keys_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_options_of_labels_are_keywords_attributes_and_replaceable():
    config = FitConfig(energy_weight=3.0, weights={"forces": 10.0})
    assert (config.energy_weight, config.forces_weight, config.stress_weight) == (3.0, 10.0, 1.0)
    changed = dataclasses.replace(config, stress_weight=0.0)
    rest = {"magforces": 100.0, "moment_length": 1.0}
    assert changed.weights == {"energy": 3.0, "forces": 10.0, "stress": 0.0, **rest}
    assert dataclasses.replace(changed, stress_weight=1.0) == config
    assert LabelKeys(energy_key="E").energy_key == "E"


def test_an_older_config_answers_for_a_label_that_is_registered_later():
    config, keys = FitConfig(), LabelKeys()
    import toys

    with toys.registered(toys.CHARGE):
        assert (config.charge_weight, keys.charge_key) == (2.0, "REF_charges")


def test_a_weight_multiplies_a_structures_errors():
    model = load(tiny_mace())
    source = as_source(labelled([molecule(i, n=4) for i in range(3)]))
    plain = next(batches(model, source, 3))
    assert not plain.weights
    source.read(1).weight = 3.0
    weighted = next(batches(model, source, 3))
    p = model(plain)
    for name, rows in (("energy", slice(1, 2)), ("forces", slice(4, 8))):
        error = p.of(name) - plain.labels[name].value
        cost = (error / 4 if name == "energy" else error).pow(2)
        expected = cost.sum() + 2 * cost[rows].sum()
        found = loss_terms(p, weighted, "weighted")[name]
        assert found.sum.item() == pytest.approx(expected.item(), rel=1e-9)
        assert found.count == loss_terms(p, plain, "weighted")[name].count
