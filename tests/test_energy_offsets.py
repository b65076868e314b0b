"""Energies of some config_types on a scale of their own: the offset is found, taken from the labels, and said."""

import json

import ase.io
import numpy as np
import pytest
import torch

import pathtune
from models import crystal, labelled, tiny_mace
from pathtune import FitConfig, InputError, fit, load, refit_e0, sparsify
from pathtune.cli import main
from pathtune.data import Frames, as_source, from_atoms, subset
from pathtune.data.source import Shifted
from pathtune.energy_offsets import find_offsets, with_offsets

pytestmark = pytest.mark.usefixtures("needs_mace")
OFFSETS = {"b": 0.3, "c": -0.05}  # eV/atom


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def frames(base, seed=0, n=12):
    """Labels that are the model's own, with other E0, and offsets by config_type."""
    found = labelled([crystal(seed + i, n=4 + i % 3) for i in range(n)], seed)
    for i, atoms in enumerate(found):
        atoms.info["config_type"] = "abc"[i % 3]
        structure = from_atoms(atoms)
        energy = float(base(base.collate([structure]), outputs=("energy",)).energy)
        shift = 0.7 * np.sum(atoms.numbers == 6) - 0.2 * np.sum(atoms.numbers == 8)
        atoms.info["REF_energy"] = energy + shift + OFFSETS.get("abc"[i % 3], 0.0) * len(atoms)
    return found


def test_the_offsets_that_were_planted_are_found_beside_e0(base):
    train = as_source(frames(base))
    found = find_offsets(base, train, ["b", "c"])
    assert found == pytest.approx(OFFSETS, abs=1e-9)
    sets, offsets = with_offsets(base, {"train": train, "replay": train}, ("b", "c"))
    assert offsets == found
    assert sets["replay"] is train
    refitted, fitted = refit_e0(base, sets["train"])
    assert fitted.rms_after_mev_atom == pytest.approx(0, abs=1e-6)
    assert refit_e0(base, train)[1].rms_after_mev_atom > 50
    assert fitted.shift_ev["C"] == pytest.approx(0.7)
    assert fitted.shift_ev["O"] == pytest.approx(-0.2)
    assert torch.equal(refitted.e0[0], base.e0[0] + fitted.shift_ev["H"])


def test_a_shifted_source_is_its_source_with_other_energies(base):
    source = Frames([from_atoms(a) for a in frames(base)])
    shifted = Shifted(source, {"b": 0.3})
    for i in range(len(source)):
        mine, theirs = shifted.read(i), source.read(i)
        offset = 0.3 * len(mine) if theirs.config_type == "b" else 0.0
        assert float(mine.labels["energy"]) == pytest.approx(float(theirs.labels["energy"]) - offset, abs=1e-12)
        assert mine.labels["forces"] is theirs.labels["forces"]
    assert shifted.fingerprint != source.fingerprint == Frames(list(source)).fingerprint
    assert shifted.config_types == source.config_types
    assert shifted.elements == source.elements
    some = subset(shifted, [4, 1])
    assert [s.config_type for s in map(some.read, range(2))] == ["b", "b"]
    assert float(some.read(0).labels["energy"]) == float(shifted.read(4).labels["energy"])
    with pytest.raises(AttributeError):
        _ = shifted.n_edges


@pytest.mark.parametrize(("names", "words"), [
    (("d",), "energy_offsets names 'd', which no training structure with an energy has, expected some of a, b, c"),
    (("a", "b", "c"), "names every config_type of the training data \\(a, b, c\\), expected to leave one"),
])  # fmt: skip
def test_what_cannot_be_found_is_one_sentence(base, names, words):
    with pytest.raises(InputError, match=words):
        fit(sparsify(base), frames(base), frames(base), FitConfig(energy_offsets=names, check_units=False))


def test_compositions_that_tell_nothing_are_one_sentence(base):
    own = [a for a in frames(base, n=24) if a.info["config_type"] == "a"]
    for atoms in own[:4]:
        atoms.info["config_type"], atoms.numbers[:] = "b", 1
    for atoms in own[4:]:
        atoms.numbers[:] = 8
    with pytest.raises(InputError, match="names b, whose compositions do not tell an offset from E0"):
        find_offsets(base, as_source(own), ["b"])


def test_the_command_line_finds_takes_and_says_them(base, tmp_path, capsys):
    torch.save(tiny_mace(), tmp_path / "tiny.model")
    for name, seed in (("train", 0), ("valid", 40)):
        ase.io.write(tmp_path / f"{name}.xyz", frames(base, seed), format="extxyz")
    words = ["fit", "--model", str(tmp_path / "tiny.model"), "--train", str(tmp_path / "train.xyz"), "--valid",
             str(tmp_path / "valid.xyz"), "--epochs", "1", "--no-report", "--no-check-units",
             "--keep-worse"]  # fmt: skip
    assert main([*words, "--out", str(tmp_path / "with"), "--energy-offsets", "b", "c"]) == 0
    assert "energy offsets taken from the labels (meV/atom): b +300.0, c -50.0" in capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "without")]) == 0
    found, plain = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("with", "without"))
    assert found["energy_offsets_ev_atom"] == pytest.approx(OFFSETS, abs=1e-6)
    assert plain["energy_offsets_ev_atom"] == {}
    assert found["valid_before"]["energy_mae_mev_atom"] < 1e-3 < 50 < plain["valid_before"]["energy_mae_mev_atom"]
    assert main(["describe", str(tmp_path / "with")]) == 0
    assert "taken from the energies of some config_types: +300.0 meV/atom from b" in capsys.readouterr().out


def test_python_returns_them_and_a_sweep_takes_them(base):
    train, valid = frames(base), frames(base, 40)
    config = FitConfig(energy_offsets=("b", "c"), epochs=1, check_units=False)
    history = fit(sparsify(base), train, valid, config)
    assert history.energy_offsets == pytest.approx(OFFSETS, abs=1e-9)
    plain = fit(sparsify(base), train, valid, FitConfig(epochs=1, check_units=False))
    mine, theirs = (h.epochs[0]["valid_parts"]["energy"] for h in (history, plain))
    assert mine < 0.1 * theirs
    assert pathtune.choose_share(base, train, valid, config=config, shares=(0.5,)).share == 0.5
