"""A spin layer is started by least squares, trained, resumed, saved, merged and used in ASE."""

import dataclasses
import json

import ase.io
import numpy as np
import pytest
import safetensors.torch
import torch

import spins
from models import tiny_mace
from pathtune import FitConfig, InputError, SpinLayer, adapt, evaluate, fit, load, load_adapter, merge, save_adapter
from pathtune.adaptations import Stored
from pathtune.adapter_file import checksum, read_adapter
from pathtune.cli import main
from pathtune.data import as_source, batches
from stopping import interrupted_after

pytestmark = pytest.mark.usefixtures("needs_mace")
ALL = (1, 6, 8)


@pytest.fixture(scope="module")
def base(needs_mace):
    return load(tiny_mace())


def taught(base, n=30, seed=0, scale=1.0):
    """Frames whose labels are those of `base`, Landau terms and exchange of C and O; magforces divided by `scale`."""
    teacher = adapt(base, ["spin"], ALL, {"spin": spins.LAYER})
    spin = spins.spin_of(teacher).energy
    with torch.no_grad():
        spin.site_constants.copy_(torch.tensor([[-0.3, 0.08, 0.0], [0.2, 0.0, 0.01]]))
        spin.pair_constants[:, 0] = torch.tensor([[0.2, 0.1, 0.05, 0.0], [-0.1, 0.3, 0.0, 0.1], [0.3, 0.0, 0.2, 0.1]])
    frames = spins.spin_frames(n, seed)
    for atoms in frames:
        atoms.arrays["REF_magmom"][atoms.numbers == 1] = 0.0
        p = spins.predict(teacher, atoms)
        atoms.info["REF_energy"] = p.energy.item() - 0.7 * int((atoms.numbers == 1).sum())
        atoms.arrays["REF_forces"] = p.forces.detach().numpy()
        atoms.arrays["REF_magforces"] = p.of("magforces").detach().numpy() / scale
    return frames


def started(base, frames, **options):
    """A spin model as it stands before step 0, and its layer."""
    model = adapt(base, ["spin"], ALL, {"spin": dataclasses.replace(spins.LAYER, **options)})
    spin = spins.spin_of(model)
    assert spin.begin(model, batches(model, as_source(frames), 1), None)
    return model, spin


@pytest.mark.filterwarnings("ignore:pathtune. magforces are not")
def test_the_start_finds_the_constants_and_e0_that_made_the_labels(base):
    model, _ = started(base, taught(base))
    scores = evaluate(model, taught(base, 6, seed=60))
    assert scores["energy_mae_mev_atom"] < 1
    assert scores["forces_mae_mev_a"] < 5
    assert scores["magforces_mae_mev_mu_b"] < 5
    h = model.atomic_numbers.index(1)
    assert (model.e0 - base.e0)[h].item() == pytest.approx(-0.7, abs=0.01)
    assert torch.equal(model.adaptation.e0, model.e0)


def test_energies_alone_start_it_too(base):
    frames = taught(base, 80)
    for atoms in frames:
        del atoms.arrays["REF_magforces"]
    model, spin = started(base, frames)
    assert spin.consistency is None
    assert evaluate(model, taught(base, 6, seed=200))["energy_mae_mev_atom"] < 5


def test_magforces_of_another_scale_are_found_and_said(base):
    frames = taught(base, 40, scale=1.257)
    with pytest.warns(UserWarning, match=r"magforces are not -dE/dm of the energies: times 1\.2"):
        _, spin = started(base, frames)
    assert spin.consistency.factor == pytest.approx(1.257, abs=0.02)
    model, spin = started(base, frames, magforces_scale="fit")
    assert spin.summary()["magforces_scale"] == spin.consistency.factor
    found = evaluate(model, frames)
    assert found["magforces_mae_mev_mu_b"] < 10
    atoms = frames[0]
    p = spins.predict(model, atoms)
    error = p.of("magforces").detach().numpy() / spin.summary()["magforces_scale"] - atoms.arrays["REF_magforces"]
    assert evaluate(model, [atoms])["magforces_mae_mev_mu_b"] == pytest.approx(1000 * np.abs(error).mean(), rel=1e-9)


def test_a_perpendicular_part_ignores_what_lies_along_the_moments(base):
    frames = taught(base, 8)
    options = {"magforces_part": "perpendicular"}
    model, _ = started(base, frames, **options)
    before = evaluate(model, frames)
    for atoms in frames:
        atoms.arrays["REF_magforces"] += 3.0 * atoms.arrays["REF_magmom"]
    again, _ = started(base, frames, **options)
    after = evaluate(model, frames)
    assert after["magforces_mae_mev_mu_b"] == pytest.approx(before["magforces_mae_mev_mu_b"], rel=1e-9)
    for a, b in zip(model.trainable(), again.trainable()):
        assert torch.allclose(a, b, rtol=0, atol=1e-8)
    source = as_source(frames)
    batch = model.batch(source, range(8))
    term = FitConfig().terms_of(model(batch, outputs=batch.wanted), batch)["magforces"]
    for atoms in frames:
        atoms.arrays["REF_magforces"] -= 3.0 * atoms.arrays["REF_magmom"]
    batch = model.batch(as_source(frames), range(8))
    same = FitConfig().terms_of(model(batch, outputs=batch.wanted), batch)["magforces"]
    assert term.mean.item() == pytest.approx(same.mean.item(), rel=1e-9)


def test_moments_that_do_not_count_are_said_once(base):
    with pytest.warns(UserWarning, match="moments of C are ignored") as caught:
        started(base, spins.spin_frames(4), spin=("H", "O"))
    assert sum("ignored" in str(w.message) for w in caught) == 1


@pytest.mark.filterwarnings("ignore:pathtune")
@pytest.mark.parametrize("order", ["pair", "many-body"])
def test_training_lowers_the_errors_of_a_start_that_cannot_fit(base, order):
    frames = taught(base, 12)
    for atoms in frames:  # a length-coupled energy that is not among the linear constants
        m = atoms.arrays["REF_magmom"] * (atoms.numbers != 1)[:, None]
        square = (m**2).sum()
        atoms.info["REF_energy"] += 0.02 * square**2
        atoms.arrays["REF_magforces"] -= 0.08 * square * m
    model = adapt(base, ["spin"], ALL, {"spin": dataclasses.replace(spins.LAYER, spin_order=order)})
    history = fit(model, frames, frames, FitConfig(epochs=12, batch_size=3))
    losses = [line["valid_loss"] for line in history.epochs]
    assert min(losses) < 0.8 * losses[0]
    assert set(history.epochs[0]["valid_parts"]) == {"energy", "forces", "magforces"}


def test_losses_are_in_spreads_where_magforces_are_trained_on_only(base):
    frames = taught(base, 6)
    model = adapt(base, ["spin"], ALL, {"spin": spins.LAYER})
    source = as_source(frames)
    scale = FitConfig().scale_of(model, source)
    assert scale.weights == dict.fromkeys(("energy", "forces", "stress", "magforces", "moment_length"), 1.0)
    values = np.concatenate([a.arrays["REF_magforces"] for a in frames])
    assert scale.spreads["magforces"] == pytest.approx(np.sqrt((values**2).mean()), rel=1e-12)
    batch = model.batch(source, range(6))
    p = model(batch, outputs=batch.wanted)
    plain, scaled = (FitConfig(loss="weighted").terms_of(p, batch, s) for s in (None, scale.spreads))
    assert set(scaled) == set(batch.wanted)
    for name in scaled:
        assert scaled[name].mean.item() == pytest.approx(plain[name].mean.item() / scale.spreads[name] ** 2, rel=1e-9)
    for other in (base, model):
        config = FitConfig(loss_scale="none") if other is model else FitConfig()
        assert config.scale_of(other, source) == ({}, config.weights)


def command(tmp_path, out, *more):
    files = ["--train", str(tmp_path / "train.xyz"), "--valid", str(tmp_path / "valid.xyz")]
    return main(["fit", "--model", str(tmp_path / "tiny.model"), *files, "--epochs", "3", "--batch-size", "4",
                 "--keep-worse", "--spin", "C", "O", "--spin-basis", "4", "--spin-hidden", "6", "--out",
                 str(tmp_path / out), "--no-report", *more])  # fmt: skip


@pytest.fixture
def files(tmp_path):
    torch.save(tiny_mace(torch.float32), tmp_path / "tiny.model")
    for name, seed in (("train", 0), ("valid", 50)):
        ase.io.write(tmp_path / f"{name}.xyz", spins.spin_frames(8, seed), format="extxyz")
    return tmp_path


@pytest.mark.filterwarnings("ignore:pathtune")
@pytest.mark.parametrize("kinds", [("spin",), ("sparse", "spin"), ("full", "spin")], ids="+".join)
def test_the_command_line_trains_resumes_bitwise_and_leaves_what_loads(files, capsys, kinds):
    arm = ["--arm", *kinds, "--spin-order", "many-body"]
    assert command(files, "whole", *arm) == 0
    with interrupted_after(2):
        assert command(files, "broken", *arm) == 130
    assert command(files, "broken", *arm, "--resume") == 0
    whole, broken = (read_adapter(files / out / "adapter.safetensors")[0] for out in ("whole", "broken"))
    assert set(whole) == set(broken)
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
    metrics = json.loads((files / "whole" / "metrics.json").read_text())
    assert metrics["spin"]["magforces_scale"] == 1.0
    assert metrics["valid"]["magforces_mae_mev_mu_b"] > 0
    merged = files / "whole" / "merged.model"
    assert merged.exists() == (kinds[0] == "full")
    model = str(merged if merged.exists() else files / "tiny.model")
    capsys.readouterr()
    adapter = str(files / "whole" / "adapter.safetensors")
    data = ["--data", str(files / "valid.xyz")]
    assert main(["evaluate", "--model", model, *data, "--adapter", adapter, "--batch-size", "16", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    for name in ("energy_mae_mev_atom", "forces_mae_mev_a", "magforces_mae_mev_mu_b"):
        assert scores[name] == pytest.approx(metrics["valid"][name], rel=1e-4)
    assert main(["merge", "--model", model, "--adapter", adapter, "--out", str(files / "out.model")]) == 2
    assert "cannot hold the spin layer, expected drop_spin (--drop-spin)" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:pathtune")
def test_a_comparison_counts_what_spin_adds_apart_from_the_weights_that_change(files, monkeypatch):
    """Some of the frames have no carbon, and so no moment that counts."""
    from pathtune.comparing import probe

    monkeypatch.setattr("pathtune.comparing.comparison.costs", lambda arms, world, _: probe.costs(arms, world, False))
    arms = ["--arms", "spin", "sparse+spin", "--active-share", "0.1", "--n-rates", "1", "--epochs", "2"]
    words = [word for name in ("train", "valid") for word in (f"--{name}", str(files / f"{name}.xyz"))]
    assert main(["compare", "--model", str(files / "tiny.model"), *words, *arms, "--batch-size", "4", "--spin", "C",
                 "--out", str(files / "out"), "--no-check-units"]) == 0  # fmt: skip
    rows = {row["title"]: row for row in json.loads((files / "out" / "compare.json").read_text())["rows"]}
    alone, both = (row for title, row in rows.items() if "spin" in title)
    counts = both["counts"]
    assert alone["values"] == 0
    assert alone["added"] == both["added"] == counts["added"] > 0
    assert both["values"] == round(0.1 * counts["reachable_weights"])
    assert both["shares"]["all"] == pytest.approx(both["values"] / counts["all_weights"])
    table = [line.split("|") for line in (files / "out" / "compare.md").read_text().splitlines()]
    column = [cell.strip() for cell in table[0]].index("values added")
    assert [line[column].strip() for line in table[2:]].count(f"{both['added']:,d}") == 2


@pytest.mark.parametrize(("flags", "words"), [
    (["--arm", "spin"], "spin names no element, expected those whose moments count"),
    (["--arm", "spin", "--spin", "Unobtainium"], "spin: 'Unobtainium' is no element, expected symbols such as Fe Ni"),
    (["--arm", "spin", "--spin", "Fe"], "spin: has Fe, expected elements that the model knows"),
    (["--arm", "spin", "--spin", "C", "--spin-cutoff", "9"], "spin_cutoff is 9 A, expected at most the model's 3.5 A"),
    (["--arm", "spin", "--spin", "C", "--magforces-scale", "-1"], "magforces_scale is -1.0, expected a number above 0"),
    (["--arm", "spin", "--spin", "C", "--magmom-key", "m"], "no frame has the magmom key 'm'; present: REF_"),
])  # fmt: skip
def test_wrong_options_are_one_sentence(files, capsys, flags, words):
    given = ["--model", str(files / "tiny.model"), "--train", str(files / "train.xyz"), "--valid",
             str(files / "valid.xyz"), "--out", str(files / "out")]  # fmt: skip
    assert main(["fit", *given, *flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("order", ["pair", "many-body"])
def test_an_adapter_gives_the_same_bits(base, tmp_path, order):
    model = spins.spin_model(order, ("sparse", "spin"), base)
    save_adapter(model, tmp_path / "a.safetensors")
    assert {name.split(".")[0] for name in read_adapter(tmp_path / "a.safetensors")[0]} >= {"spin", "fingerprint"}
    loaded = load_adapter(base, tmp_path / "a.safetensors")
    p, q = (spins.predict(m, spins.spin_crystal()) for m in (model, loaded))
    assert all(torch.equal(p.of(name), q.of(name)) for name in spins.NAMES)
    save_adapter(loaded, tmp_path / "b.safetensors")
    first, second = (read_adapter(tmp_path / f"{name}.safetensors")[0] for name in "ab")
    assert set(first) == set(second)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_tensors_that_do_not_fit_are_refused_in_one_sentence(base):
    spin = spins.spin_of(spins.spin_model(base=base))
    tensors = spin.tensors(base.atomic_numbers)
    for change, words in (
        ({"pair_in": torch.zeros(3, 6)}, r"f: pair_in of the spin layer has shape \(3, 6\), expected \(4, 6\)"),
        ({"elements": torch.tensor([6, 26])}, "f: has Fe, expected elements that the model knows"),
        ({"cutoff": torch.tensor([9.0])}, r"f: the spin layer has cutoff 9.0, expected one above 0 and up to 3.5"),
        ({"elements": torch.tensor([8, 6])}, "f: elements does not ascend from 0 or more, expected each index once"),
        ({"more": torch.zeros(2)}, r"f: more of the spin layer has shape \(2,\), expected None"),
    ):
        with pytest.raises(InputError, match=words):
            type(spin).from_tensors(base, Stored({**tensors, **change}, "f", 3))
    tensors.pop("pair_constants")
    with pytest.raises(InputError, match="f: the spin layer lacks 'pair_constants', expected a whole one"):
        type(spin).from_tensors(base, Stored(tensors, "f", 3))


def test_a_reader_of_format_1_refuses_a_spin_adapter_in_one_sentence(base, tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    save_adapter(spins.spin_model(base=base), file)
    tensors, metadata = read_adapter(file)
    monkeypatch.setattr("pathtune.adapter_checks.FORMATS", ("1",))
    with pytest.raises(InputError, match="has adapter format '2', expected '1'"):
        load_adapter(base, file)
    about = {key: metadata[key] for key in metadata if key != "components"} | {"format": "1"}
    about["checksum"] = checksum(tensors, {})
    safetensors.torch.save_file(tensors, file, about)
    with pytest.raises(InputError, match=r"holds a tensor 'spin\..*', expected only those of the model's layers"):
        load_adapter(base, file)


def test_a_layer_that_was_trained_goes_on_from_what_it_has(base):
    frames = taught(base, 8)
    model, spin = started(base, frames)
    before = [p.clone() for p in spin.parameters()]
    assert not spin.begin(model, batches(model, as_source(taught(base, 8, seed=90)), 1), None)
    assert all(torch.equal(p, q) for p, q in zip(before, spin.parameters()))


def test_coefficients_are_in_units_of_the_energies_that_moments_make(base):
    frames = taught(base, 8)
    units = []
    for factor in (1.0, 0.01):
        for atoms in frames:
            plain = spins.predict(base, atoms, names=("energy",)).energy.item()
            atoms.info["REF_energy"] = plain + factor * (atoms.info["REF_energy"] - plain)
        units.append(started(base, frames)[1].energy.energy_unit.item())
    assert units[1] == pytest.approx(0.01 * units[0], rel=1e-6)


def test_merging_drops_the_spin_layer_only_where_that_is_asked(base):
    model = spins.spin_model(base=base)
    with pytest.raises(InputError, match=r"merge: a plain model cannot hold the spin layer, expected drop_spin"):
        merge(model)
    with pytest.warns(UserWarning, match="the energy changes, to that of zero moments"):
        plain = load(merge(model, drop_spin=True))
    atoms = spins.spin_crystal()
    names = ("energy", "forces", "stress")
    p, q = spins.predict(plain, atoms, names=names), spins.predict(base, atoms, names=names)
    assert all(torch.equal(p.of(name), q.of(name)) for name in names)


def test_the_stock_forward_refuses_a_spin_layer():
    model = spins.spin_model(base=load(tiny_mace(), backend="reference"))
    with pytest.raises(InputError, match="backend is 'reference', but an adaptation adds a term to the energy"):
        spins.predict(model, spins.spin_crystal())


def test_options_name_what_is_wrong():
    with pytest.raises(InputError, match="spin_order is 'all', expected one of pair, many-body"):
        SpinLayer(spin=("Fe",), spin_order="all")
    with pytest.raises(InputError, match="magforces_part is 'some', expected one of all, perpendicular"):
        SpinLayer(spin=("Fe",), magforces_part="some")
    assert SpinLayer(spin=("Ni", "Fe", "Fe")).atomic_numbers == (26, 28)
    with pytest.raises(InputError, match="spin: has Fe, expected elements that the model knows"):
        adapt(load(tiny_mace()), ["spin"], ALL, {"spin": SpinLayer(spin=("Fe",))})
