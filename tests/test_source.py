"""Laws of sources: where frames come from makes no difference; neighbours are kept within a budget."""

import ase.io
import numpy as np
import pytest
import torch

from models import crystal, labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, choose_share, evaluate, fit, load, read_structures, refit_e0, sparsify
from pathtune.data import Frames, as_source, from_atoms, readers, register_reader, shuffled, source


@pytest.fixture
def frames():
    return labelled([molecule(i, n=4) for i in range(4)])


@pytest.fixture
def forms(frames, tmp_path):
    """The same frames in every form that the verbs take."""
    files = [tmp_path / "all.xyz", tmp_path / "first.xyz", tmp_path / "rest.xyz"]
    for file, part in zip(files, (frames, frames[:1], frames[1:])):
        ase.io.write(file, part, format="extxyz")
    exact = [from_atoms(atoms) for file in files[1:] for atoms in ase.io.read(file, ":")]
    return {"file": files[0], "name": str(files[0]), "files": files[1:], "Atoms": ase.io.read(files[0], ":"),
            "Structures": exact, "Source": Frames(exact)}  # fmt: skip


@pytest.mark.usefixtures("needs_mace")
def test_every_verb_takes_every_form_alike(forms):
    base = load(tiny_mace())
    config = FitConfig(epochs=1, batch_size=2)
    expected = None
    for data in forms.values():
        refitted, report = refit_e0(base, data)
        model = sparsify(refitted)
        history = fit(model, data, data, config)
        share = choose_share(refitted, data, data, config=config, shares=(0.5,)).points[0].losses
        found = (evaluate(model, data), str(report), history.epochs[0]["valid_loss"], share)
        expected = expected or found
        assert found == expected


@pytest.mark.usefixtures("needs_mace")
def test_one_atoms_and_one_structure_are_a_set_of_one(frames):
    base = load(tiny_mace())
    scores = [evaluate(base, data) for data in (frames[0], from_atoms(frames[0]), frames[:1])]
    assert scores[0] == scores[1] == scores[2]
    assert scores[0]["n_structures"] == 1


def test_a_source_knows_its_elements_counts_and_labels(frames):
    del frames[2].info["REF_energy"]
    s = as_source(frames)
    assert s.elements == (1, 6, 8)
    assert s.composition.sum(axis=1).tolist() == [4.0] * 4
    assert s.present["energy"].tolist() == [True, True, False, True]
    assert not s.present["stress"].any()


def test_a_fingerprint_follows_the_content(frames):
    first, again = as_source(frames).fingerprint, as_source(frames).fingerprint
    assert first == again
    assert as_source(frames[::-1]).fingerprint != first
    frames[0].arrays["REF_forces"][0, 0] += 1e-6
    assert as_source(frames).fingerprint != first


def test_neighbours_are_kept_within_the_budget_and_searched_again_beyond_it(monkeypatch):
    structures = [from_atoms(crystal(i)) for i in range(3)]
    searched = []
    original = source.find_graph

    def counted(structure, r_max):
        searched.append(structure)
        return original(structure, r_max)

    monkeypatch.setattr(source, "find_graph", counted)
    sizes = [original(s, 4.0).n_bytes for s in structures]
    kept = Frames(structures, graph_bytes=sizes[0] + sizes[1])
    for _ in range(3):
        graphs = [kept.graph(i, 4.0) for i in range(3)]
    assert len(searched) == 1 + 1 + 3
    assert np.array_equal(graphs[2].sender, original(structures[2], 4.0).sender)
    assert sum(g.n_bytes for g in kept._graphs.values()) <= sizes[0] + sizes[1]


@pytest.mark.usefixtures("needs_mace")
def test_batches_of_a_source_leave_the_structures_as_they_are(frames):
    base = load(tiny_mace())
    structures = [from_atoms(a) for a in frames]
    before = [dict(vars(s)) for s in structures]
    evaluate(base, structures)
    assert all(vars(s).keys() == b.keys() and all(vars(s)[k] is b[k] for k in b) for s, b in zip(structures, before))


@pytest.mark.usefixtures("needs_mace")
def test_every_graph_of_a_batch_has_its_own_head():
    heads = ["a", "b"]
    stock = tiny_mace(heads=heads, atomic_energies=np.arange(6.0).reshape(2, 3), atomic_inter_scale=[1.3, 0.7],
                      atomic_inter_shift=[0.1, -0.2])  # fmt: skip
    for backend in ("reference", "cpu"):
        model = load(stock, backend=backend, head="b")
        structures = [from_atoms(molecule(i)) for i in range(3)]
        for s, head in zip(structures, ("a", None, "b")):
            s.head = head
        p = model(model.collate(structures))
        for i, head in enumerate(("a", "b", "b")):
            alone = from_atoms(molecule(i))
            single = load(stock, backend=backend, head=head)
            q = single(single.collate([alone]))
            assert torch.allclose(p.energy[i], q.energy[0], rtol=0, atol=1e-10)
            assert torch.allclose(p.forces[6 * i : 6 * i + 6], q.forces, rtol=0, atol=1e-10)
        structures[0].head = "c"
        with pytest.raises(InputError, match="head is 'c', expected one of a, b"):
            model.collate(structures)


def test_a_reader_of_a_suffix_serves_every_form_of_a_file(tmp_path, frames, monkeypatch):
    monkeypatch.setattr(readers, "_READERS", {})
    register_reader(".store", lambda file, keys, max_frames, needs_labels: [from_atoms(a) for a in frames])
    assert len(read_structures(tmp_path / "x.store")) == len(as_source([tmp_path / "x.store"])) == 4
    with pytest.raises(InputError, match=r"reader of '.store' is registered already"):
        register_reader(".store", lambda *_: [])


@pytest.mark.parametrize(("data", "words"), [
    (3, "data hold int, expected files, ASE Atoms, or Structures, of one kind"),
    (["a.xyz", molecule()], "data hold Atoms, str, expected"),
    ([molecule()], "atoms: no frame has the energy key 'REF_energy'"),
])  # fmt: skip
def test_other_data_are_named(data, words):
    with pytest.raises(InputError, match=words):
        as_source(data)


def test_a_structure_with_a_wrong_label_is_named():
    s = from_atoms(molecule(n=4), where="mine")
    s.labels["forces"] = np.zeros((3, 3))
    with pytest.raises(InputError, match=r"mine: forces has shape \(3, 3\), expected \(4, 3\)"):
        as_source([s])
    s.labels = {"force": np.zeros((4, 3))}
    with pytest.raises(InputError, match="mine: has the label 'force', expected some of energy, forces, stress"):
        as_source([s])


def test_an_epochs_order_follows_from_seed_and_epoch_and_visits_every_frame_once():
    orders = [shuffled(10, 4, seed, epoch) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert orders[0] == orders[1]
    assert orders[0] not in orders[2:]
    assert [len(chunk) for chunk in orders[0]] == [4, 4, 2]
    assert sorted(i for chunk in orders[0] for i in chunk) == list(range(10))
