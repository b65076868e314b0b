"""Laws of stores: what is read is what was prepared; every bad record is named; nothing damaged is used."""

import importlib.util
import json
import lzma
import shutil

import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from models import crystal, labelled, molecule
from pathtune import InputError, LabelKeys, read_structures
from pathtune.backbones._packages import import_mace
from pathtune.cli import main
from pathtune.data import as_source
from pathtune.data.store import Store, inputs, prepare, preparing
from pathtune.data.store.manifest import INDEX


@pytest.fixture
def frames():
    found = labelled([molecule(i, n=3 + i % 4) for i in range(7)])
    found += labelled([crystal(i) for i in range(3)], stress=True)
    found[1].info["config_type"] = "warm"
    del found[2].arrays["REF_forces"]
    return found


@pytest.fixture
def file(frames, tmp_path):
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    return tmp_path / "a.xyz"


def assert_same(store, structures, where=True):
    assert len(store) == len(structures)
    for i, expected in enumerate(structures):
        found = store.read(i)
        for name in ("atomic_numbers", "positions", "cell", "pbc"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))
        assert found.labels.keys() == expected.labels.keys()
        assert all(np.array_equal(found.labels[k], v) for k, v in expected.labels.items())
        assert all(found.labels[k].shape == v.shape for k, v in expected.labels.items())
        assert (found.config_type, found.head, found.weight) == (expected.config_type, expected.head, expected.weight)
        assert not where or found.where == expected.where


@pytest.mark.parametrize(("piece", "jobs"), [(4, 1), (3, 2), (4096, 1)])
def test_a_store_holds_what_the_file_holds(file, tmp_path, monkeypatch, piece, jobs):
    monkeypatch.setattr(inputs, "PIECE", piece)
    done = prepare([str(file)], tmp_path / "s", jobs=jobs)
    assert (done.n_structures, done.bad) == (10, ())
    store, memory = as_source(tmp_path / "s"), as_source(file)
    assert_same(store, read_structures(file))
    assert store.elements == memory.elements
    assert np.array_equal(store.composition, memory.composition)
    assert all(np.array_equal(store.present[name], memory.present[name]) for name in memory.present)
    assert store.n_edges.tolist() == [len(memory.graph(i, 5.0).sender) for i in range(10)]
    with pytest.raises(InputError, match="holds a finished store"):
        prepare([str(file)], tmp_path / "s")


def test_packed_files_globs_folders_and_databases_give_the_same_store(file, frames, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b.xyz.xz").write_bytes(lzma.compress(file.read_bytes()))
    (folder / "README.md").write_text("no structures")
    with ase.db.connect(tmp_path / "c.db") as rows:
        for atoms in ase.io.read(file, ":"):
            rows.write(atoms, data={k: v for k, v in {**atoms.info, **atoms.arrays}.items() if "REF" in k})
    expected = read_structures(file)
    for k, name in enumerate([folder, folder / "*.xz"]):
        prepare([str(name)], tmp_path / f"s{k}", jobs=1)
        assert_same(Store(tmp_path / f"s{k}"), expected, where=False)
    slices = as_source(f"{tmp_path / 's0'}@2:5")
    assert_same(slices, [expected[i] for i in (2, 3, 4)], where=False)
    assert slices.fingerprint != as_source(tmp_path / "s0", max_frames=3).fingerprint
    assert len(as_source([tmp_path / "s0"], max_frames=3)) == 3


@pytest.mark.parametrize("suffix", [".db", ".aselmdb"])
def test_an_ase_database_gives_its_calculators_labels(frames, tmp_path, suffix):
    if suffix == ".aselmdb" and importlib.util.find_spec("ase_db_backends") is None:
        pytest.skip("needs the package ase-db-backends")
    file = tmp_path / f"c{suffix}"
    with ase.db.connect(file) as rows:
        for k, atoms in enumerate(frames[3:7]):
            atoms.calc = SinglePointCalculator(atoms, energy=float(k), forces=np.full((len(atoms), 3), k))
            rows.write(atoms)
    done = prepare([str(file)], tmp_path / "s", jobs=1)
    assert "using energy, forces from the calculator's results" in done.notes[0]
    assert [Store(tmp_path / "s").read(k).energy_ev for k in range(4)] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.usefixtures("needs_mace")
def test_the_hdf5_of_mace_prepare_data_is_read_with_its_weights_and_missing_labels(frames, tmp_path):
    import_mace()
    import h5py  # which mace-torch brings
    from mace import data

    specification = data.utils.KeySpecification(
        info_keys={"energy": "REF_energy", "stress": "REF_stress"}, arrays_keys={"forces": "REF_forces"})  # fmt: skip
    frames[0].info["config_weight"] = 2.5
    configurations = data.config_from_atoms_list(frames, specification)
    with h5py.File(tmp_path / "m.h5", "w") as stream:
        data.save_configurations_as_HDF5(configurations, 0, stream)
    prepare([str(tmp_path / "m.h5")], tmp_path / "s", jobs=1)
    store = Store(tmp_path / "s")
    for i, atoms in enumerate(frames):
        found = store.read(i)
        assert found.energy_ev == atoms.info["REF_energy"]
        assert np.array_equal(found.positions, atoms.positions)
        assert ("forces" in found.labels) == ("REF_forces" in atoms.arrays)
        assert ("stress" in found.labels) == ("REF_stress" in atoms.info)
        assert found.weight == (2.5 if i == 0 else 1.0)
    assert store.read(1).config_type == "warm"


def test_every_bad_record_is_named_and_skip_bad_keeps_the_list(file, frames, tmp_path, capsys):
    frames[3].info["REF_energy"] = float("nan")
    frames[5].positions[1] = frames[5].positions[0] + 0.01
    del frames[6].info["REF_energy"], frames[6].arrays["REF_forces"]
    ase.io.write(file, frames, format="extxyz")
    text = file.read_text().splitlines()
    text[-1] = text[-1].replace("0.", "x.", 1)  # the last frame
    file.write_text("\n".join([*text, "7", "and nothing"]) + "\n")
    out = tmp_path / "s"
    assert main(["prepare", str(file), "--out", str(out), "--jobs", "1"]) == 2
    said = capsys.readouterr().err.splitlines()
    expected = ["frame 3: REF_energy is nan, expected a finite energy", "frame 5: atoms 0 and 1 are 0.0173 A",
                "frame 6: has neither REF_energy nor REF_forces", "frame 9: not readable as a structure",
                "frame 10: line 66 announces 7 atoms, but 0 lines follow"]  # fmt: skip
    for line, words in zip(said[:5], expected, strict=True):
        assert line.startswith(f"{file}, {words}")
    assert "5 of 11 records are bad" in said[-1]
    assert not (out / "store.json").exists()
    with pytest.raises(InputError, match="is an unfinished store, expected the same pathtune prepare"):
        as_source(out)
    assert main(["prepare", str(file), "--out", str(out), "--jobs", "1", "--skip-bad"]) == 0
    assert "6 structures" in capsys.readouterr().out
    assert (out / "bad.txt").read_text().splitlines() == said[:5]
    assert [Store(out).read(i).where for i in (3, 5)] == [f"{file}, frame 4", f"{file}, frame 8"]


def test_an_interrupted_prepare_goes_on_and_makes_no_piece_twice(file, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "PIECE", 3)
    original, made = preparing.write_piece, []

    def killed(job, number, piece, keys):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(number)
        original(job, number, piece, keys)

    monkeypatch.setattr(preparing, "write_piece", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare([str(file)], tmp_path / "s", jobs=1)
    monkeypatch.setattr(preparing, "write_piece", lambda *a: (made.append(a[1]), original(*a)))
    prepare([str(file)], tmp_path / "s", jobs=1)
    assert made == [0, 1, 2, 3]
    assert_same(Store(tmp_path / "s"), read_structures(file))


def test_a_file_that_changed_meanwhile_is_prepared_anew(file, frames, tmp_path):
    frames[3].info["REF_energy"] = float("nan")
    ase.io.write(file, frames, format="extxyz")
    assert len(prepare([str(file)], tmp_path / "s", jobs=1).bad) == 1
    frames[3].info["REF_energy"] = 1.0
    ase.io.write(file, frames, format="extxyz")
    assert prepare([str(file)], tmp_path / "s", jobs=1).n_structures == 10
    assert Store(tmp_path / "s").read(3).energy_ev == 1.0


def test_damage_is_named_with_shard_and_range(file, tmp_path, capsys):
    prepare([str(file)], tmp_path / "s", jobs=1)
    shard = tmp_path / "s" / "shards" / "000000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-40] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"000000.safetensors: structures 0 to 9 are damaged"):
        as_source(tmp_path / "s").read(4)
    assert main(["prepare", "--info", str(tmp_path / "s"), "--verify"]) == 2
    assert "000000.safetensors: is missing or damaged" in capsys.readouterr().err
    shard.write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"000000.safetensors: has [0-9,]+ bytes, expected [0-9,]+: the shard"):
        as_source(tmp_path / "s").read(4)
    shard.unlink()
    with pytest.raises(InputError, match=r"000000.safetensors: cannot be read \(No such file"):
        as_source(tmp_path / "s").read(4)
    index = tmp_path / "s" / "index" / "n_atoms.npy"
    index.write_bytes(index.read_bytes()[:-1])
    with pytest.raises(InputError, match="n_atoms.npy: is damaged"):
        as_source(tmp_path / "s")


def test_stores_that_do_not_fit_are_refused_in_a_sentence(file, tmp_path):
    prepare([str(file)], tmp_path / "s", r_max=4.0, jobs=1)
    with pytest.raises(InputError, match=r"prepared with --r-max 4, but the cutoff of the model is 3.5 A"):
        Store(tmp_path / "s").check_cutoff(3.5)
    with pytest.raises(InputError, match="prepared with energy_key 'REF_energy', not 'dft'"):
        as_source(tmp_path / "s", LabelKeys(energy_key="dft"))
    manifest = json.loads((tmp_path / "s" / "store.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "s", other)
    (other / "store.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(InputError, match="the store is of version 2, expected 1"):
        as_source(other)
    wrong = {"units": 1.5, "virials_key": None, "n": manifest["n"] + 1, "shards": []}
    for key, words in (("units", "units is 1.5, expected a list"), ("virials_key", "virials_key is None"),
                       ("n", "in its shards"), ("shards", "but 0 in its shards")):  # fmt: skip
        (other / "store.json").write_text(json.dumps(manifest | {key: wrong[key]}))
        with pytest.raises(InputError, match=words):
            as_source(other)
    shutil.rmtree(other / "index")
    other.joinpath("index").mkdir()
    (other / "store.json").write_text(json.dumps(manifest))
    for name in INDEX:
        (other / "index" / f"{name}.npy").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is a device, expected a file"):
        as_source(other)
    (other / "store.json").write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        as_source(other)


@pytest.mark.parametrize(("arguments", "words"), [
    (["nowhere.xyz"], "nowhere.xyz: no such file"),
    ([], "FILES are missing"),
    (["*.nothing"], "matches no file"),
    (["{file}", "--jobs", "0"], "jobs is 0, expected at least 1"),
    (["{file}", "--r-max", "-1"], "r_max is -1.0, expected a cutoff"),
    (["{file}", "--energy-key", "dft"], "no structure has the energy key 'dft'; present: "),
])  # fmt: skip
def test_wrong_arguments_are_one_sentence(file, tmp_path, capsys, arguments, words):
    arguments = [a.format(file=file) for a in arguments]
    assert main(["prepare", *arguments, "--out", str(tmp_path / "s")]) == 2
    assert words in capsys.readouterr().err


def test_a_store_without_forces_is_refused_for_training_but_not_where_labels_are_not_needed(file, frames, tmp_path):
    for atoms in frames:
        atoms.arrays.pop("REF_forces", None)
    ase.io.write(file, frames, format="extxyz")
    with pytest.raises(InputError, match="no structure has the forces key 'REF_forces'"):
        prepare([str(file)], tmp_path / "s", jobs=1)
    prepare([str(file)], tmp_path / "t", jobs=1, needs_labels=False)
    with pytest.raises(InputError, match="holds energy, stress, but no forces, expected it for a training"):
        as_source(tmp_path / "t")
    assert len(as_source(tmp_path / "t", needs_labels=False)) == 10


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"n": "2"}', b'{"n": 2, "bad": [], "notes": [], "present": []}'])
def test_damaged_notes_of_an_interrupted_store_are_made_again(tmp_path, content):
    import ase.io

    ase.io.write(tmp_path / "a.xyz", labelled([molecule(i, n=3) for i in range(3)]), format="extxyz")
    expected = prepare([str(tmp_path / "a.xyz")], tmp_path / "whole", jobs=1).n_structures
    prepare([str(tmp_path / "a.xyz")], tmp_path / "store", jobs=1)
    (tmp_path / "store" / "store.json").unlink()
    plan = tmp_path / "store" / "prepare.json"
    plan.write_bytes(content)
    assert prepare([str(tmp_path / "a.xyz")], tmp_path / "store", jobs=1).n_structures == expected
    (tmp_path / "store" / "store.json").unlink()
    for record in (tmp_path / "store" / "shards").glob("*.json"):
        record.write_bytes(content)
    plan.write_bytes(b"")
    assert prepare([str(tmp_path / "a.xyz")], tmp_path / "store", jobs=1).n_structures == expected
