"""Laws of what users bring: several files, globs, slices, and the files of other programs without our keys."""

import json

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from models import crystal, labelled, molecule, tiny_mace
from pathtune import InputError, LabelKeys
from pathtune.cli import main
from pathtune.data import Frames, as_source, from_atoms, split_off


@pytest.fixture
def files(tmp_path):
    """Two files of three and four frames; their energies tell them apart."""
    for name, n in (("a", 3), ("b", 4)):
        frames = labelled([molecule(seed, n=4) for seed in range(n)])
        for i, atoms in enumerate(frames):
            atoms.info["REF_energy"] = float(i if name == "a" else 10 + i)
        ase.io.write(tmp_path / f"{name}.xyz", frames, format="extxyz")
    return tmp_path


def energies(source):
    return [source.read(i).energy_ev for i in range(len(source))]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.xyz", "b.xyz"], [0, 1, 2, 10, 11, 12, 13]),
        ("*.xyz", [0, 1, 2, 10, 11, 12, 13]),
        ("*.xyz@:2", [0, 1, 10, 11]),
        ("b.xyz@::2", [10, 12]),
        ("b.xyz@-1", [13]),
        (["b.xyz@1:3", "a.xyz@0"], [11, 12, 0]),
    ],
)
def test_globs_and_slices_are_those_of_ase(files, names, expected):
    data = [str(files / n) for n in names] if isinstance(names, list) else str(files / names)
    assert energies(as_source(data)) == expected
    assert energies(as_source(data, max_frames=2)) == expected[:2]


def test_a_glob_that_finds_nothing_is_named(files):
    with pytest.raises(InputError, match=r"none\*\.xyz: matches no file"):
        as_source(str(files / "none*.xyz"))
    with pytest.raises(InputError, match=r"none\.xyz: no such file"):
        as_source(str(files / "none.xyz@:3"))


def test_a_folder_is_the_files_of_structures_in_it(files):
    (files / "below").mkdir()
    (files / "b.xyz").rename(files / "below" / "b.xyz")
    (files / "README.md").write_text("words")
    (files / ".hidden.xyz").write_text("nonsense")
    assert energies(as_source(files)) == [0, 1, 2, 10, 11, 12, 13]
    assert energies(as_source(f"{files}@:2")) == [0, 1, 10, 11]
    assert energies(as_source([files / "below", files / "a.xyz"], max_frames=5)) == [10, 11, 12, 13, 0]
    (files / "notes").write_text("words")
    with pytest.raises(InputError, match="notes: not readable as structures"):
        as_source(files)


def test_a_folder_without_structures_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="is a folder without files of structures, expected some"):
        as_source(tmp_path)


def calculated(n=3):
    """Crystals whose labels are results of a calculator, as ASE reads them of VASP's files."""
    frames = [crystal(seed) for seed in range(n)]
    for i, atoms in enumerate(frames):
        results = {"energy": -5.0 - i, "forces": np.full((len(atoms), 3), 0.1 * i), "stress": np.arange(6) * 1e-3}
        atoms.calc = SinglePointCalculator(atoms, **results)
    return frames


@pytest.mark.parametrize("suffix", ["traj", "db", "extxyz"])
def test_labels_of_a_calculator_are_taken_where_there_are_no_others_and_it_is_said(suffix, tmp_path):
    file = tmp_path / f"vasp.{suffix}"
    if suffix == "db":
        with ase.db.connect(file) as database:
            for atoms in calculated():
                database.write(atoms)
    else:
        ase.io.write(file, calculated())
    source = as_source(file)
    assert energies(source) == [-5.0, -6.0, -7.0]
    assert np.allclose(source.read(2).forces, 0.2)
    assert source.read(0).stress[0, 1] == pytest.approx(5e-3)
    assert source.notes == (
        f"{file}: using energy, forces, stress from the calculator's results, "
        "since no frame has REF_energy or REF_forces",
    )


def test_labels_that_were_asked_for_are_never_replaced(tmp_path):
    frames = calculated()
    for atoms in frames:
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = 1.0, np.zeros((len(atoms), 3))
    source = as_source(frames)
    assert energies(source) == [1.0] * 3
    assert source.read(0).stress is None
    assert source.notes == (
        "atoms: 'stress' is not used; --stress-key stress trains on it (eV/A^3, positive is tensile)",
    )
    with pytest.raises(InputError, match="no frame has the energy key 'dft'"):
        as_source(calculated(), LabelKeys(energy_key="dft"))


def test_virials_charges_and_spins_that_are_not_read_are_said_once():
    frames = labelled([molecule(seed, n=4) for seed in range(3)])
    frames[0].info.update(virial=np.eye(3), total_charge=1, total_spin=1)
    frames[1].info.update(virial=np.eye(3), total_charge=-1, total_spin=1)
    assert as_source(frames).notes == (
        "atoms: 'virial' is not used; --virials-key virial trains on it (eV, minus stress times volume)",
        "atoms: 2 of 3 frames have a total_charge, which only models with an embedding of it read: "
        "others take them as neutral",
    )


def test_a_split_follows_from_the_seed_covers_all_and_leaves_isolated_atoms_to_training():
    frames = [from_atoms(a) for a in labelled([molecule(seed, n=4) for seed in range(10)])]
    frames[4].config_type = "IsolatedAtom"
    train, valid = split_off(Frames(frames), 0.3, 0)
    assert sorted(train + valid) == list(range(10))
    assert len(valid) == 3
    assert 4 in train
    assert split_off(Frames(frames), 0.3, 0) == (train, valid)
    assert any(split_off(Frames(frames), 0.3, seed) != (train, valid) for seed in (1, 2))
    for fraction in (0.0, 1.0, 0.99):
        with pytest.raises(InputError, match="valid_fraction is"):
            split_off(Frames(frames), fraction, 0)


@pytest.mark.usefixtures("needs_mace")
def test_a_run_without_validation_structures_splits_them_off_and_records_how(files, tmp_path, capsys):
    torch.save(tiny_mace(), tmp_path / "tiny.model")
    command = ["fit", "--model", str(tmp_path / "tiny.model"), "--train", str(files / "a.xyz"), str(files / "b.xyz"),
               "--epochs", "1", "--keep-worse", "--no-report", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(command) == 2
    assert "--valid is missing, expected a file, or --valid-fraction" in capsys.readouterr().err
    assert main([*command, "--valid-fraction", "0.3"]) == 0
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert (len(split["train"]), len(split["valid"]), split["seed"]) == (5, 2, 0)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["n_structures"] == {"train": 5, "valid": 2}
    assert main([*command, "--valid-fraction", "0.3", "--valid", str(files / "a.xyz")]) == 2
    assert "both given" in capsys.readouterr().err
