"""Structures that no calculation can mean are refused in a sentence before anything is searched or computed."""

import lzma

import ase
import ase.build
import numpy as np
import pytest
import torch

from models import molecule, tiny_mace
from pathtune import InputError, Structure, calculator, load, read_structures
from pathtune.data import as_source, from_atoms, neighbours, readers
from pathtune.data.neighbours import MANY, find_graph
from pathtune.data.store import prepare


def atoms(positions, cell=None, pbc=False):
    return ase.Atoms(f"C{len(positions)}", positions, cell=cell, pbc=pbc)


PAIR = [[0, 0, 0], [0, 0, 1.2]]
REFUSED = {
    "atom 2 lies 1e+10 A from the others": atoms([*PAIR, [0, 0, 1e10]]),
    "a position is not finite": atoms([[0, 0, 0], [0, 0, np.nan]]),
    "a lattice vector is not finite": atoms(PAIR, [np.inf, 5, 5], True),
    "a lattice vector has 1e+200 A": atoms(PAIR, [1e200, 5, 5], True),
    "periodic along a with a lattice vector of 0 A": atoms(PAIR, None, True),
    "periodic along c with a lattice vector of 0 A": atoms(PAIR, [5, 5, 0], True),
    "the cell is flat, 0 A along a": atoms(PAIR, [[5, 0, 0], [10, 0, 0], [0, 0, 5]], True),
    "has 16 atoms per A^3": atoms(PAIR, [0.5, 0.5, 0.5], True),
}


@pytest.mark.parametrize("said", REFUSED)
def test_an_impossible_structure_is_refused_wherever_it_comes_from(said):
    bad = REFUSED[said]
    with pytest.raises(InputError) as error:
        from_atoms(bad, where="x")
    assert said in str(error.value)
    assert "expected" in str(error.value)


def test_slabs_wires_and_molecules_in_a_box_are_accepted():
    slab = ase.build.fcc111("Cu", (2, 2, 3), vacuum=None)
    slab.pbc = (True, True, False)
    for good in (slab, atoms(PAIR, [20, 20, 20], True), atoms(PAIR, [0, 0, 5], (False, False, True))):
        assert len(find_graph(from_atoms(good), 5.0).sender) > 0


def test_many_atoms_on_one_spot_are_named_before_their_pairs_are_listed():
    s = from_atoms(atoms(np.zeros((MANY + 1, 3))))
    with pytest.raises(InputError, match="0 A apart"):
        find_graph(s, 5.0)


SHAPES = {
    "a plane of 2,000 A": (atoms([*PAIR, [2e3, 2e3, 0]]), 2),
    "a line of 900,000 A": (atoms([*PAIR, [9e5, 0, 0]]), 2),
    "a wide thin cell": (atoms([*PAIR, [1e3, 1e3, 0]], [2e3, 2e3, 4.0], True), 10),
}


@pytest.mark.parametrize("name", SHAPES)
def test_few_atoms_far_apart_do_not_kill_the_search_for_neighbours(name):
    a, n_edges = SHAPES[name]
    assert len(find_graph(from_atoms(a), 4.5).sender) == n_edges


@pytest.mark.parametrize("seed", range(12))
def test_both_searches_find_the_same_neighbours_in_the_same_order(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(3, 8, 3)) @ (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)))
    a = atoms(rng.uniform(-1, 2, (9, 3)) @ cell, cell, rng.integers(0, 2, 3).astype(bool))
    monkeypatch.setattr(neighbours, "SMALLEST_A", 0.0)
    found = [find_graph(from_atoms(a), 5.0)]
    monkeypatch.setattr(neighbours, "_is_compact", lambda *_: False)
    found.append(find_graph(from_atoms(a), 5.0))
    assert seed == 10 or len(found[0].sender) > 0
    for field in ("sender", "receiver", "unit_shifts", "pair"):
        assert np.array_equal(getattr(found[0], field), getattr(found[1], field))


def test_more_columns_announced_than_there_are_words_are_named(tmp_path):
    file = tmp_path / "x.extxyz"
    file.write_text('1\nProperties="species:S:1:pos:R:1000000000"\nH 0 0 0\n')
    with pytest.raises(InputError, match="frame 0: Properties announces 1000000001 columns, but line 3 has 4"):
        read_structures(file, needs_labels=False)


@pytest.mark.parametrize("line", [
    'Properties=species:S:1:pos:R:3 x=1 Properties="species:S:1:pos:R:1000000000"',
    '"Properties"={species:S:1:pos:R:1000000000}',
])  # fmt: skip
def test_columns_announced_twice_or_in_other_quotes_make_no_room_either(tmp_path, line):
    (tmp_path / "a.xyz").write_text(f"1\n{line}\nC 0 0 0\n")
    with pytest.raises(InputError, match="Properties announces 1000000001 columns"):
        read_structures(tmp_path / "a.xyz")
    done = prepare([str(tmp_path / "a.xyz")], tmp_path / "store", jobs=1)
    assert "Properties announces 1000000001 columns" in done.bad[0]


def test_a_message_that_quotes_something_endless_is_bounded(tmp_path):
    (tmp_path / "a.xyz").write_text(f"1\nProperties=species:S:1:pos:R:3 {'9' * 5000}=1\nC 0 0 0\n")
    with pytest.raises(InputError, match="no frame has the energy key 'REF_energy'; present: ") as found:
        read_structures(tmp_path / "a.xyz")
    assert len(str(found.value)) < 600
    assert len(str(InputError("x" * 10_000))) < 2000


@pytest.mark.parametrize("n_atoms", [10**12, 3, -1])
def test_a_count_of_atoms_that_the_lines_belie_is_named(tmp_path, n_atoms):
    file = tmp_path / "x.extxyz"
    file.write_text(f"1\n\nH 0 0 0\n{n_atoms}\n\nH 0 0 0\n")
    with pytest.raises(InputError, match=rf"frame 1: line 4 announces {n_atoms} atoms, but 1 lines follow"):
        read_structures(file, needs_labels=False)


@pytest.mark.parametrize("name", ["x", "x.xyz"])
def test_a_count_of_hundreds_of_digits_ends_at_once_in_a_short_sentence(tmp_path, name):
    file = tmp_path / name
    file.write_text(f"{'9' * 400}\nProperties=species:S:1:pos:R:3\nH 0 0 0\n")
    with pytest.raises(InputError, match="announces 9+ atoms"):
        read_structures(file, needs_labels=False)
    file.write_text(f"1\nProperties=species:S:1:pos:R:3\nH {'x' * 5000} 0 0\n")
    with pytest.raises(InputError) as error:
        read_structures(file, needs_labels=False)
    assert len(str(error.value)) < 1000


def test_a_packed_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LARGEST_UNPACKED", 1000)
    file = tmp_path / "x.extxyz.xz"
    file.write_bytes(lzma.compress(b"1\n\nH 0 0 0\n" * 200))
    with pytest.raises(InputError, match="unpacks to more than 1,000 bytes"):
        read_structures(file, needs_labels=False)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(InputError, match="expected"):
        read_structures(name)


@pytest.mark.usefixtures("needs_mace")
def test_forces_do_not_depend_on_where_the_atoms_are_also_in_float32():
    model = load(tiny_mace().float())
    near, far = (from_atoms(molecule(0, n=5)) for _ in range(2))
    far.positions = near.positions + 1e4
    forces = [model(model.collate([s])).forces.detach() for s in (near, far)]
    assert torch.allclose(*forces, atol=1e-5 * float(forces[0].abs().max()))


@pytest.mark.usefixtures("needs_mace")
def test_the_calculator_ignores_labels_and_names_an_exploded_atom():
    a = molecule(0, n=4)
    a.info["REF_energy"] = "not a number"
    a.arrays["REF_forces"] = np.full((len(a), 3), np.nan)
    a.calc = calculator(load(tiny_mace()))
    assert np.isfinite(a.get_forces()).all()
    a.positions[0] = 1e12
    with pytest.raises(InputError, match="atom 0 lies"):
        a.get_forces()


def test_a_structure_made_by_hand_is_checked_too():
    s = Structure("mine", np.array([6, 6]), np.array([[0, 0, 0], [0, 0, 1e9]]), np.zeros((3, 3)), np.zeros(3, bool))
    with pytest.raises(InputError, match="mine: atom"):
        as_source([s])
