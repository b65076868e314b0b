"""Laws of units: labels and lengths given in others become eV and A when they are read, and it is said."""

import json

import ase.io
import ase.units
import numpy as np
import pytest
import torch
from ase.units import Bohr, GPa, Hartree, kcal, mol

from models import crystal, labelled, molecule, tiny_mace
from pathtune import InputError, LabelKeys, evaluate, load
from pathtune.cli import main
from pathtune.data import Label, as_source, register_label, unregister_label
from pathtune.data.store import prepare
from pathtune.data.units import NAMES, unit_of
from test_conventions import molecules, times

pytestmark = pytest.mark.usefixtures("needs_mace")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("kcal/mol/A", kcal / mol),
        ("kcal mol^-1 A^-1", kcal / mol),
        ("Ha / Bohr", Hartree / Bohr),
        ("hartree/bohr**3", Hartree / Bohr**3),
        ("kbar", 0.1 * GPa),
        ("kJ/mol/nm", ase.units.kJ / mol / ase.units.nm),
        ("Å", 1.0),
        ("1", 1.0),
    ],
)
def test_a_product_of_names_is_what_the_constants_of_ase_make_of_it(text, value):
    assert unit_of(text).value == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("text", ["", "/", "*", "eV/", "eV//A", "eV/A^99", "furlong", "eV A!", "2 eV", "MeV", "é"])
def test_what_is_no_unit_is_none(text):
    assert unit_of(text) is None


def test_every_name_is_a_unit():
    assert all(unit_of(name).value == value for name, (value, _) in NAMES.items())


@pytest.mark.parametrize(
    ("units", "words"),
    [
        (("energy",), "units has 'energy', expected NAME=UNIT such as energy=kcal/mol, each NAME once"),
        (("energy=eV", "energy=Ry"), "units has 'energy=Ry', expected .* each NAME once"),
        (("foo=eV",), "units names 'foo', expected one of length, virials, energy, forces"),
        (("energy=GPa",), "units, energy: 'GPa' cannot become eV, expected a unit of the same dimensions"),
        (("forces=eV/atom",), "cannot become eV/A"),
        (("energy=kcal/mole",), "units, energy: 'kcal/mole' is no unit, expected names .* kcal"),
    ],
)
def test_a_unit_that_a_label_cannot_have_is_one_sentence(units, words):
    with pytest.raises(InputError, match=words):
        LabelKeys(units=units)


def test_a_registered_label_is_converted_from_any_unit_of_its_dimensions():
    register_label(Label(name="dipole", per="graph", shape=(3,), unit="e A", key="REF_dipole"))
    try:
        assert LabelKeys(units=("dipole=e bohr",)).conversions()["dipole"][0] == pytest.approx(Bohr)
    finally:
        unregister_label("dipole")


def in_other_units(atoms):
    """A copy with its labels, positions and cell in atomic units, energies per atom in kcal/mol."""
    result = atoms.copy()
    result.set_cell(atoms.cell / Bohr)
    result.positions = atoms.positions / Bohr
    result.info["REF_energy"] = atoms.info["REF_energy"] * mol / kcal / len(atoms)
    result.arrays["REF_forces"] = atoms.arrays["REF_forces"] * Bohr / Hartree
    result.info["REF_stress"] = atoms.info["REF_stress"] / (0.1 * GPa)
    return result


UNITS = ("energy=kcal/mol/atom", "forces=hartree/bohr", "stress=kbar", "length=bohr")


def test_labels_positions_and_cells_become_those_of_ev_and_angstrom():
    frames = labelled([crystal(i) for i in range(2)], stress=True)
    for mine, theirs in zip(as_source(frames), as_source([in_other_units(a) for a in frames], LabelKeys(units=UNITS))):
        assert np.allclose(mine.positions, theirs.positions, rtol=1e-12)
        assert np.allclose(mine.cell, theirs.cell, rtol=1e-12)
        assert all(np.allclose(mine.labels[k], theirs.labels[k], rtol=1e-10) for k in ("energy", "forces", "stress"))


def test_the_largest_force_is_judged_after_it_was_converted():
    frames = labelled([molecule(0, n=3)])
    frames[0].arrays["REF_forces"][0] = 30_000.0
    assert as_source(frames, LabelKeys(units=("forces=meV/A",))).read(0).forces.max() == pytest.approx(30.0)
    with pytest.raises(InputError, match="reaches 3e"):
        as_source(frames)


def test_virials_are_read_as_stresses_where_there_is_no_stress():
    frames = labelled([crystal(i) for i in range(3)], stress=True)
    expected = [s.stress for s in as_source(frames)]
    volumes = [a.get_volume() for a in frames]
    for a, s, v in zip(frames[:2], expected, volumes):
        del a.info["REF_stress"]
        a.info["virial"] = (-v * s).ravel()
    frames[2].info["virial"] = np.zeros(9)  # the stress counts
    found = [s.stress for s in as_source(frames, LabelKeys(virials_key="virial"))]
    assert np.allclose(found, expected, rtol=1e-12)
    frames[0].info["virial"] = frames[0].info["virial"] / Hartree
    frames[0].set_cell(frames[0].cell / Bohr, scale_atoms=True)
    keys = LabelKeys(virials_key="virial", units=("virials=hartree", "length=bohr"))
    assert np.allclose(as_source(frames[:1], keys).read(0).stress, expected[0], rtol=1e-12)


def test_virials_of_a_molecule_and_a_key_that_no_frame_has_are_named():
    frames = labelled([molecule(0, n=3)])
    with pytest.raises(InputError, match="no frame has the virials key 'virial'; present: REF_energy"):
        as_source(frames, LabelKeys(virials_key="virial"))
    frames[0].info["virial"] = np.zeros(9)
    with pytest.raises(InputError, match=r"has virials \(virial\) but is not periodic in three directions"):
        as_source(frames, LabelKeys(virials_key="virial"))
    with pytest.raises(InputError, match="key 'REF_stress' names two labels, stress and virials"):
        LabelKeys(virials_key="REF_stress")


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"forces": 23.06}, "give --units forces=kcal/mol/A, or go on with --no-check-units"),
        ({"energy": 1 / 27.2114, "forces": 1 / 51.42}, "give --units energy=hartree forces=hartree/bohr, or"),
        ({"forces": -1.0}, "correct the labels, or"),
    ],
)
def test_the_check_before_training_names_the_flag_that_helps(factors, words):
    from pathtune.conventions import check_conventions
    from pathtune.data import Frames

    base = load(tiny_mace())
    with pytest.raises(InputError, match=words):
        check_conventions(base, Frames(times(molecules(base), **factors)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, crystals in eV and A, and the same in other units."""
    folder = tmp_path_factory.mktemp("units")
    torch.save(tiny_mace(torch.float64), folder / "m.model")
    frames = labelled([crystal(i) for i in range(4)], stress=True)
    for name, some in (("own", frames), ("other", [in_other_units(a) for a in frames])):
        ase.io.write(folder / f"{name}.xyz", some, format="extxyz")
    return folder


def test_a_run_in_other_units_is_that_in_ev_and_says_so(world, tmp_path, capsys):
    found = []
    for name, units in (("own", []), ("other", ["--units", *UNITS])):
        files = ["--train", f"{world}/{name}.xyz", "--valid", f"{world}/{name}.xyz", "--out", str(tmp_path / name)]
        more = ["--epochs", "1", "--no-check-units", "--keep-worse", "--no-report", *units]
        assert main(["fit", "--model", str(world / "m.model"), *files, *more]) == 0
        found.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    assert found[1]["valid"]["forces_mae_mev_a"] == pytest.approx(found[0]["valid"]["forces_mae_mev_a"], rel=1e-4)
    assert found[1]["units"] == list(UNITS)
    assert "read as energy=kcal/mol/atom, forces=hartree/bohr, stress=kbar, length=bohr" in capsys.readouterr().err
    assert main(["describe", str(tmp_path / "other")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Converted when read: energy from kcal/mol/atom, forces from hartree/bohr" in said


def test_evaluate_takes_units_and_a_store_keeps_what_it_converted(world, tmp_path, capsys):
    model, keys = load(str(world / "m.model")), LabelKeys(units=UNITS)
    expected = evaluate(model, str(world / "own.xyz"))["energy_mae_mev_atom"]
    assert evaluate(model, str(world / "other.xyz"), keys)["energy_mae_mev_atom"] == pytest.approx(expected, rel=1e-4)
    store = tmp_path / "store"
    assert main(["prepare", str(world / "other.xyz"), "--out", str(store), "--jobs", "1", "--units", *UNITS]) == 0
    for asked in (None, keys):
        assert evaluate(model, str(store), asked)["energy_mae_mev_atom"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="was prepared with energy=kcal/mol/atom .*, not energy=Ry, expected the same"):
        as_source(store, LabelKeys(units=("energy=Ry",)))
    with pytest.raises(InputError, match="was not prepared with the virials_key 'virial'"):
        as_source(store, LabelKeys(virials_key="virial"))
    prepare([str(world / "own.xyz")], tmp_path / "own", jobs=1)
    with pytest.raises(InputError, match="was prepared with no other units, not energy=Ry"):
        as_source(tmp_path / "own", LabelKeys(units=("energy=Ry",)))
