"""Laws of reading, neighbours and batches; every kind of bad input is named."""

import lzma

import ase.io
import ase.neighborlist
import numpy as np
import pytest
import torch

from models import crystal, labelled, molecule
from pathtune import InputError, LabelKeys, read_structures
from pathtune.data import check_elements, collate, elements_of, find_graph, from_atoms


def write(path, frames):
    ase.io.write(path, frames, format="extxyz")
    return path


@pytest.mark.parametrize("atoms", [molecule(), crystal(), molecule(n=1)], ids=["molecule", "crystal", "atom"])
def test_edges_are_those_of_ase(atoms):
    structure = from_atoms(atoms)
    i, j, S = ase.neighborlist.neighbor_list("ijS", atoms, 3.5)
    expected = sorted(zip(i.tolist(), j.tolist(), map(tuple, S.tolist())))
    g = find_graph(structure, 3.5)
    found = sorted(zip(g.sender.tolist(), g.receiver.tolist(), map(tuple, g.unit_shifts.astype(int).tolist())))
    assert found == expected
    assert (np.diff(g.receiver) >= 0).all()


def test_a_batch_of_another_cutoff_has_its_own_edges():
    structure = from_atoms(crystal())
    sizes = [collate([structure], (1, 6, 8), r_max, torch.float64).sender.numel() for r_max in (3.0, 4.0, 3.0)]
    assert sizes[0] == sizes[2] < sizes[1]


def test_a_pair_is_an_edge_and_its_reverse():
    structure = from_atoms(crystal())
    g = find_graph(structure, 4.0)
    assert (np.bincount(g.pair) == 2).all()
    first = {}
    for e, p in enumerate(g.pair):
        if p in first:
            a = first[p]
            assert (g.sender[a], g.receiver[a]) == (g.receiver[e], g.sender[e])
            assert (g.unit_shifts[a] == -g.unit_shifts[e]).all()
        first[p] = e


def test_batch_offsets_keep_structures_apart():
    structures = [from_atoms(a) for a in (crystal(), molecule(n=1), molecule(3))]
    batch = collate(structures, [1, 6, 8], 3.5, torch.float64)
    assert torch.equal(batch.node_graph[batch.sender], batch.node_graph[batch.receiver])
    assert batch.n_atoms.tolist() == [5, 1, 6]
    assert (torch.bincount(batch.pair) == 2).all()
    assert (batch.receiver.diff() >= 0).all()


def test_labels_are_read_from_info_arrays_and_xz(tmp_path):
    frames = labelled([crystal(0), crystal(1)], stress=True)
    plain = write(tmp_path / "a.xyz", frames)
    (tmp_path / "a.extxyz.xz").write_bytes(lzma.compress(plain.read_bytes()))
    for file in (plain, tmp_path / "a.extxyz.xz"):
        structures = read_structures(file)
        assert structures[1].energy_ev == pytest.approx(frames[1].info["REF_energy"])
        assert np.allclose(structures[0].forces, frames[0].arrays["REF_forces"], atol=1e-7)
        xx, yy, zz, yz, xz, xy = frames[0].info["REF_stress"]
        assert np.allclose(structures[0].stress, [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], atol=1e-9)


def test_a_missing_stress_is_allowed_frame_by_frame(tmp_path):
    frames = labelled([crystal(0), crystal(1)], stress=True)
    del frames[1].info["REF_stress"]
    batch = collate(read_structures(write(tmp_path / "a.xyz", frames)), [1, 6, 8], 3.5, torch.float64)
    assert batch.labels["stress"].mask.tolist() == [True, False]


def test_keys_can_be_chosen(tmp_path):
    frames = labelled([molecule()])
    frames[0].info["dft"] = frames[0].info.pop("REF_energy")
    assert read_structures(write(tmp_path / "a.xyz", frames), LabelKeys(energy_key="dft"))[0].energy_ev is not None


def broken(change):
    frames = labelled([crystal(0), crystal(1)])
    change(frames[1])
    return frames


BROKEN = {
    "NaN force": (lambda a: a.arrays["REF_forces"].__setitem__((0, 0), np.nan), "frame 1: REF_forces holds NaN"),
    "infinite energy": (lambda a: a.info.__setitem__("REF_energy", np.inf), "frame 1: REF_energy is inf"),
    "absurd force": (lambda a: a.arrays["REF_forces"].__setitem__((0, 0), 5e4), "frame 1: REF_forces reaches 5e"),
    "short stress": (lambda a: a.info.__setitem__("REF_stress", np.zeros(4)), "frame 1: REF_stress has 4 numbers"),
    "stress of a molecule": (
        lambda a: (a.info.__setitem__("REF_stress", np.zeros(6)), a.set_pbc(False)), "frame 1: has a stress"),
    "NaN position": (lambda a: a.positions.__setitem__((0, 0), np.nan), "frame 1: a position is not finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_bad_labels_name_file_and_frame(case, tmp_path):
    change, words = BROKEN[case]
    file = write(tmp_path / "bad.xyz", broken(change))
    with pytest.raises(InputError, match=f"bad.xyz, {words}"):
        read_structures(file)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_structures(tmp_path / "none.xyz")
    (tmp_path / "noise.xyz").write_text("not a structure\n")
    with pytest.raises(InputError, match=r"noise.xyz: not readable"):
        read_structures(tmp_path / "noise.xyz")
    (tmp_path / "noise.xyz.xz").write_bytes(b"not xz")
    with pytest.raises(InputError, match=r"noise.xyz.xz: not readable"):
        read_structures(tmp_path / "noise.xyz.xz")


@pytest.mark.parametrize("key", ["energy_key", "forces_key", "stress_key"])
def test_an_unknown_key_lists_the_present_ones(key, tmp_path):
    file = write(tmp_path / "a.xyz", labelled([crystal()], stress=True))
    with pytest.raises(InputError, match="'nokey'; present: .*REF_"):
        read_structures(file, LabelKeys(**{key: "nokey"}))


def test_missing_forces_are_named(tmp_path):
    frames = labelled([crystal()])
    del frames[0].arrays["REF_forces"]
    with pytest.raises(InputError, match="no frame has the forces key 'REF_forces'"):
        read_structures(write(tmp_path / "a.xyz", frames))


def test_an_element_that_the_model_lacks_is_named():
    structures = [from_atoms(molecule(), where="x.xyz, frame 0")]
    assert elements_of(structures) == (1, 6, 8)
    with pytest.raises(InputError, match="x.xyz, frame 0: contains O"):
        check_elements(structures, [1, 6])


def test_atoms_on_top_of_each_other_are_named():
    atoms = molecule()
    atoms.positions[1] = atoms.positions[0] + 0.01
    with pytest.raises(InputError, match="x: atoms 0 and 1"):
        find_graph(from_atoms(atoms, where="x"), 3.5)
