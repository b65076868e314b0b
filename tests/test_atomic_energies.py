"""Laws of E0 that are asked for: values, or the energies of isolated atoms in the data."""

import json
import tomllib

import pytest
import torch
from ase.io import write

from models import labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, fit, load, sparsify
from pathtune.atomic_energies import settle_e0
from pathtune.cli import main
from pathtune.data import Frames, from_atoms, isolated_frames
from pathtune.options import from_mapping, to_toml
from pathtune.training.methods import describe, read_config, read_metrics

pytestmark = pytest.mark.usefixtures("needs_mace")
VALUES = {"H": -1.5, "C": -2.5, "O": -3.5}
PAIRS = tuple(f"{element}={value}" for element, value in VALUES.items())


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def molecules(n=6):
    return labelled([molecule(seed, n=6) for seed in range(n)])


def atoms_alone(**energies):
    frames = labelled([molecule(0, n=1) for _ in energies])
    for atom, (element, energy) in zip(frames, energies.items()):
        atom.symbols[:] = element
        atom.info.update(config_type="IsolatedAtom", REF_energy=energy)
    return frames


def source(*frames):
    return Frames([from_atoms(a, where=f"x.xyz, frame {i}") for i, a in enumerate(frames)])


def e0_of(model):
    return dict(zip(model.atomic_numbers, model.e0.tolist()))


def test_values_and_isolated_atoms_are_the_same_e0_and_isolated_atoms_are_not_trained_on(base):
    frames = molecules()
    given, as_given, same = settle_e0(base, source(*frames), PAIRS)
    found, of_atoms, rest = settle_e0(base, source(*atoms_alone(**VALUES), *frames), ("isolated",))
    assert torch.equal(given.e0, found.e0)
    assert {z: e0_of(found)[z] for z in (1, 6, 8)} == {1: -1.5, 6: -2.5, 8: -3.5}
    assert (len(same), len(rest)) == (6, 6)
    assert rest.fingerprint == same.fingerprint
    assert not isolated_frames(rest)
    assert (as_given.origin, of_atoms.origin, of_atoms.n_left_out) == ("given", "isolated", 3)
    assert as_given.e0_ev == of_atoms.e0_ev == VALUES
    assert as_given.rms_after_mev_atom == of_atoms.rms_after_mev_atom >= as_given.rms_refit_mev_atom
    shifts = {symbol: value - e0_of(base)[z] for z, (symbol, value) in zip((1, 6, 8), VALUES.items())}
    assert as_given.shift_ev == pytest.approx(shifts)


def test_a_training_keeps_the_e0_that_were_asked(base):
    for e0, data in ((PAIRS, molecules()), (("isolated",), [*molecules(), *atoms_alone(**VALUES)])):
        model = sparsify(base, SparseDelta(), [1, 6, 8])
        config = FitConfig(epochs=1, lr=1e-3, e0=e0, check_units=False)
        history = fit(model, source(*data), source(*molecules(2)), config)
        assert {z: e0_of(model)[z] for z in (1, 6, 8)} == {1: -1.5, 6: -2.5, 8: -3.5}
        assert history.e0_fit.e0_ev == VALUES
        assert history.last_e0_fit is None


def test_a_table_pairs_and_a_config_file_mean_the_same():
    as_pairs, as_table = FitConfig(e0=PAIRS), FitConfig(e0=VALUES)
    assert as_pairs == as_table == from_mapping(FitConfig, {"e0": VALUES}, "x")
    again = tomllib.loads(to_toml(fit=as_table))["fit"]
    assert again["e0"] == list(PAIRS)
    assert from_mapping(FitConfig, again, "x") == as_pairs
    assert FitConfig(config_type_weights={"bulk": 0.5}).type_weights == {"bulk": 0.5}


@pytest.mark.parametrize("e0", [
    (), ("H",), ("H=",), ("H=a",), ("Xx=1",), ("X=1",), ("H=1", "H=1"), ("H=nan",), ("H=inf",), ("isolated", "H=1"),
    ("average",), {"H": "b"}, {1: -1.0},
])  # fmt: skip
def test_what_is_no_e0_is_one_sentence(e0):
    with pytest.raises(InputError, match="e0 (has .*|is empty), expected isolated, or ELEMENT=ENERGY in eV"):
        FitConfig(e0=e0)


def two_atoms(frame):
    frame = frame.copy()
    frame.info["config_type"] = "IsolatedAtom"
    return frame


def without_energy():
    (atom,) = atoms_alone(H=1.0)
    del atom.info["REF_energy"]
    return atom


@pytest.mark.parametrize(("e0", "alone", "words"), [
    (PAIRS[:2], [], "e0 names H C, but not O, expected each element of the training data"),
    ((*PAIRS, "N=1"), [], "e0 names N, which no training structure has, expected only H C O"),
    (("H=-1e3", *PAIRS[1:]), [], r"x.xyz, frame \d: with the E0 that are asked the energy is .* eV/atom off"),
    (("isolated",), [], "frames of config_type IsolatedAtom are there for no element, but not H C O"),
    (("isolated",), atoms_alone(H=1.0, O=1.0), "are there for H O, but not C"),
    (("isolated",), [two_atoms(molecule(0, n=2))], "frame 6: is of config_type IsolatedAtom but has 2 atoms"),
    (("isolated",), [without_energy()], "frame 6: is of config_type IsolatedAtom but has no energy"),
    (("isolated",), [*atoms_alone(H=1.0), *atoms_alone(H=2.0)],
     "frame 7: is an isolated H of 2 eV, another frame's has 1, expected one energy"),
])  # fmt: skip
def test_e0_that_do_not_fit_the_data_are_one_sentence(base, e0, alone, words):
    with pytest.raises(InputError, match=words):
        settle_e0(base, source(*molecules(), *alone), e0)


def test_the_same_isolated_atom_twice_is_one_and_nothing_else_to_train_on_is_refused(base):
    twice = [*atoms_alone(**VALUES), *atoms_alone(**VALUES)]
    assert settle_e0(base, source(*molecules(), *twice), ("isolated",))[1].n_left_out == 6
    with pytest.raises(InputError, match="all training structures are isolated atoms"):
        settle_e0(base, source(*twice), ("isolated",))


def test_data_without_energies_take_e0_too(base):
    frames = molecules()
    for atoms in frames:
        del atoms.info["REF_energy"]
    model, found, _ = settle_e0(base, source(*frames), PAIRS)
    assert e0_of(model)[8] == -3.5
    assert found.n_used == 0


def test_a_run_records_where_its_e0_came_from(tmp_path, capsys):
    train = tmp_path / "train.xyz"
    write(train, [*atoms_alone(**VALUES), *molecules(8)], format="extxyz")
    model = tmp_path / "tiny.model"
    torch.save(tiny_mace(torch.float32), model)
    for e0, words in ((["isolated"], "those of the isolated atoms in the data"), ([*PAIRS], "were given")):
        out = tmp_path / e0[0]
        part = "@3:" if e0 != ["isolated"] else ""
        arguments = ["fit", "--model", model, "--train", f"{train}{part}", "--valid-fraction", "0.25", "--epochs", "1"]
        more = ["--out", str(out), "--keep-worse", "--no-check-units", "--no-report", "--json"]
        assert main([*map(str, arguments), *more, "--e0", *e0]) == 0
        metrics = json.loads(capsys.readouterr().out)
        assert metrics["n_structures"] == {"train": 6, "valid": 2}
        assert metrics["e0_fit"]["e0_ev"] == VALUES
        assert tomllib.loads((out / "config.toml").read_text())["fit"]["e0"] == e0
        text = describe(read_metrics(out / "metrics.json"), read_config(out / "config.toml"))
        assert f"{words} (H -1.5 eV, C -2.5 eV, O -3.5 eV)" in text
