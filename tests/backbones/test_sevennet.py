"""Laws of the SevenNet backbone: what is adapted, merged, saved, deployed, and what is refused."""

import os
import subprocess
import sys

import ase
import ase.build
import pytest
import torch

from models import ALL, crystal, delta_of, deltas_of, labelled, molecule
from pathtune import (
    FitConfig,
    InputError,
    SparseDelta,
    calculator,
    fit,
    load,
    load_adapter,
    merge,
    paths,
    refit_e0,
    save,
    save_adapter,
    sparsify,
    unfreeze,
)
from pathtune.backbones._packages import UNSAFE, import_sevenn
from pathtune.data import collate, from_atoms
from sevennets import MODAL, VARIANTS, tiny_sevennet

pytestmark = pytest.mark.usefixtures("needs_sevenn")
BIG = SparseDelta(delta_start="paper", initial_std=0.3, initial_threshold=0.1)
SMALL = SparseDelta(delta_start="paper", initial_std=0.02)


def load_tiny(variant="SevenNet-0", head=None, **options):
    return load(tiny_sevennet(**VARIANTS[variant]), head=head, **options)


def predict(model, *atoms):
    structures = [from_atoms(a) for a in atoms]
    batch = collate(structures, model.atomic_numbers, model.backbone.r_max, model.backbone.dtype)
    return model(batch, outputs=ALL)


def stock_calculator(file, **options):
    from sevenn.calculator import SevenNetCalculator

    with pytest.warns(UserWarning, match="No tensor product accelerator"):
        return SevenNetCalculator(str(file), device="cpu", **options)


def gold():
    atoms = ase.build.bulk("Au", "fcc", a=4.1, cubic=True)
    atoms.rattle(0.1, seed=0)
    return atoms


@pytest.fixture(scope="module")
def sevennet_0(request):
    request.getfixturevalue("needs_sevenn")
    return load("sevennet:7net-0")


@pytest.mark.parametrize(("name", "modal"), [("7net-0", None), ("7net-mf-0", "PBE")])
def test_the_merged_checkpoint_gives_the_same_numbers_in_sevenns_calculator(name, modal, tmp_path):
    base = load(f"sevennet:{name}", head=modal)
    base, _ = refit_e0(base, [from_atoms(labelled([gold()])[0])])
    model = sparsify(base, SMALL, elements=[79])
    file = tmp_path / "merged.pth"
    save(merge(model), file)
    stock, ours, again = stock_calculator(file, modal=modal), calculator(model), calculator(load(file, head=modal))
    energies, atoms = [], gold()
    for atoms.calc in (stock, ours, again):
        energies.append(atoms.get_potential_energy())
    assert energies == pytest.approx([energies[1]] * 3, abs=4e-6)  # 1e-6 eV/atom
    for other in (stock, again):
        assert abs(other.results["forces"] - ours.results["forces"]).max() <= 1e-5
        assert abs(other.results["stress"] - ours.results["stress"]).max() <= 1e-6
    before = calculator(base)
    atoms.calc = before
    assert abs(atoms.get_forces() - ours.results["forces"]).max() > 1e-3  # the delta matters; the base is untouched


@pytest.mark.filterwarnings("ignore:pathtune. the modalities of this SevenNet share")
@pytest.mark.parametrize("variant", VARIANTS)
def test_merging_and_saving_keeps_energies_forces_and_e0(variant, tmp_path):
    head = "b" if VARIANTS[variant].get("use_modality") else None
    model = sparsify(load_tiny(variant, head), BIG)
    model.e0 += torch.tensor([0.25, -0.5, 1.0])
    save(merge(model), tmp_path / "merged.pth")
    again = load(tmp_path / "merged.pth", head=head, dtype="float64")
    p, q = predict(model, crystal(), molecule()), predict(again, crystal(), molecule())
    # the file is float32
    assert torch.allclose(p.energy, q.energy, rtol=0, atol=1e-4)
    assert torch.allclose(p.forces, q.forces, rtol=0, atol=1e-4)
    assert torch.allclose(model.e0, again.e0, rtol=0, atol=1e-6)


def test_a_merged_model_is_deployed_for_lammps(tmp_path):
    """The TorchScript file that LAMMPS' e3gnn loads, called as pair_e3gnn.cpp calls it."""
    from sevenn.scripts.deploy import deploy

    model = sparsify(load("sevennet:7net-0"), SMALL, elements=[79])
    save(merge(model), tmp_path / "merged.pth")
    with pytest.warns(UserWarning, match="No tensor product accelerator"):
        deploy(tmp_path / "merged.pth", str(tmp_path / "lammps.pt"))
    deployed = torch.jit.load(str(tmp_path / "lammps.pt"))
    batch = collate([from_atoms(gold())], model.atomic_numbers, model.backbone.r_max, torch.float32)
    stock_input = model.backbone._stock_input(batch)
    vectors = stock_input["edge_vec"].requires_grad_()
    data = {"x": batch.species, "edge_index": stock_input["edge_index"], "edge_vec": vectors,
            "num_atoms": torch.tensor([4]), "nlocal": torch.tensor([4])}  # fmt: skip
    energy = deployed(data)["inferred_total_energy"].squeeze()
    (slope,) = torch.autograd.grad(energy, vectors)
    source, target = stock_input["edge_index"]
    forces = torch.zeros(4, 3).index_add(0, source, slope).index_add(0, target, -slope)
    p = predict(model, gold())
    assert energy.item() == pytest.approx(p.energy.item(), abs=4e-6)
    assert (forces - p.forces).abs().max() <= 1e-5


def test_training_lowers_the_loss_and_e0_is_refitted(tmp_path):
    teacher = sparsify(load_tiny(), BIG, seed=1)
    frames = [crystal(i) for i in range(4)]
    for atoms in frames:
        atoms.calc = calculator(teacher)
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = atoms.get_potential_energy() + 5.0, atoms.get_forces()
        atoms.info["REF_stress"] = atoms.get_stress()
        atoms.calc = None
    structures = [from_atoms(a) for a in frames]
    for model in (sparsify(load_tiny()), unfreeze(load_tiny(), "full")):
        history = fit(model, structures, structures, FitConfig(epochs=8, batch_size=2, stress_weight=10.0))
        assert history.e0_fit.rms_after_mev_atom < history.e0_fit.rms_before_mev_atom
        assert history.epochs[-1]["valid_loss"] < 0.8 * history.epochs[0]["valid_loss"]


def test_an_adapter_goes_round_and_belongs_to_its_base_and_modality(tmp_path):
    base = load_tiny("MF-0", "b")
    model = sparsify(base, BIG, elements=[1, 8])
    save_adapter(model, tmp_path / "a.safetensors")
    loaded = load_adapter(base, tmp_path / "a.safetensors")
    assert torch.equal(predict(model, molecule()).forces, predict(loaded, molecule()).forces)
    with pytest.raises(InputError, match="a SevenNet of modality b, but the model is a SevenNet of modality a"):
        load_adapter(load_tiny("MF-0", "a"), tmp_path / "a.safetensors")
    other = load(tiny_sevennet(**MODAL, seed=1), head="b")
    with pytest.raises(InputError, match="was made for another model"):
        load_adapter(other, tmp_path / "a.safetensors")


def test_only_weights_that_the_data_reach_are_adapted(sevennet_0):
    rows = {(r.module, r.path): r for r in paths(sevennet_0, elements=[29, 79])}
    embedding = rows["onehot_to_feature_x.linear", "0e -> 0e"]
    assert (embedding.weights, embedding.reachable) == (89 * 128, 2 * 128)
    linear = [r.weights for r in rows.values() if r.scope == "linear"]
    assert sum(linear) == 11392 + 28672 + 3 * 33792 + 16384 + 16384 + 4 * 21504 + 40960 + \
        3 * 86016 + 28672 + 8192 + 64  # fmt: skip
    model = sparsify(sevennet_0, BIG, elements=[29, 79])
    rows = delta_of(model, "onehot_to_feature_x.linear").indices.div(128, rounding_mode="floor")
    assert set(rows.tolist()) == {sevennet_0.atomic_numbers.index(z) for z in (29, 79)}
    counts = model.counts()
    assert counts["all_weights"] == 842_623
    radial = [layer for layer in sevennet_0.backbone.layers if layer.scope == "radial"]
    assert all(sevennet_0.backbone.parameters[layer.parameter].numel() == layer.numel for layer in radial)
    assert counts["adapted_weights"] + sum(layer.numel for layer in radial) < counts["all_weights"]
    assert counts["adapted_weights"] - counts["reachable_weights"] == 87 * 128


def test_weights_of_other_modalities_are_not_reached():
    model = sparsify(load_tiny("MF-0", "b"), BIG)
    batch = collate([from_atoms(crystal())], model.atomic_numbers, model.backbone.r_max, torch.float64)
    other = unfreeze(load_tiny("MF-0", "b"), "full")
    loss = other(batch, training=True).forces.pow(2).sum()
    gradients = torch.autograd.grad(loss, [other.backbone.parameters[d.layer.parameter] for d in deltas_of(model)])
    for delta, gradient in zip(deltas_of(model), gradients):
        touched = torch.zeros_like(gradient, dtype=torch.bool)
        touched[delta.indices] = True
        assert (gradient[~touched] == 0).all()
    unreachable = sum(p.numel for layer in model.backbone.layers for p in layer.paths if not p.is_reachable)
    assert unreachable == sum(d.layer.numel - d.indices.numel() for d in deltas_of(model))
    assert unreachable > 0


def test_full_fine_tuning_trains_what_sevenn_trains(sevennet_0):
    import_sevenn()
    from sevenn.util import load_checkpoint

    stock = load_checkpoint("7net-0").build_model()
    full = unfreeze(sevennet_0, "full")
    assert [n for n, p in stock.named_parameters() if p.requires_grad] == [
        n for n, p in full.backbone.stock.named_parameters() if p.requires_grad
    ]
    assert sum(p.numel() for p in full.trainable()) == 842_440
    assert sum(p.numel() for p in unfreeze(sevennet_0, "readout").trainable()) == 8192 + 64


@pytest.mark.parametrize(("source", "words"), [
    ("sevennet:7net-9", r"sevennet:7net-9: no such file, and not a model that sevenn knows \(7net-0, 7net-0_22may"),
    ("sevennet:7net-mf-0", "sevennet:7net-mf-0: has the modalities R2SCAN, PBE, but none is named"),
    ("sevennet:7net-mf-0:pbe", "has the modalities R2SCAN, PBE, but 'pbe' is none of them"),
    ("sevennet:7net-0:PBE", "sevennet:7net-0:PBE: has no modalities, but 'PBE' is asked for"),
])  # fmt: skip
def test_unknown_names_and_modalities_are_named(source, words):
    with pytest.raises(InputError, match=words):
        load(source)


def test_foreign_and_newer_files_are_named(sevennet_0, tmp_path):
    file = tmp_path / "x.pth"
    torch.save({"model_state_dict": {}}, file)
    with pytest.raises(InputError, match="x.pth: not a SevenNet checkpoint"):
        load(file)
    newer = merge(sevennet_0)
    save(newer, file)
    checkpoint = torch.load(file, weights_only=False)  # of our own making
    checkpoint["config"]["version"] = "9.0.0"
    torch.save(checkpoint, file)
    with pytest.raises(InputError, match="x.pth: was written by sevenn 9.0.0, but 0.13"):
        load(file)
    del newer.pathtune_config
    with pytest.raises(InputError, match="made of a module, not of a checkpoint"):
        save(newer, file)


def test_an_element_that_sevennet_lacks_is_named(sevennet_0):
    polonium = ase.Atoms("Po", calculator=calculator(sevennet_0))
    with pytest.raises(InputError, match="contains Po, which the model does not know"):
        polonium.get_potential_energy()
    with pytest.raises(InputError, match=r"elements \[84\] are unknown"):
        sparsify(sevennet_0, elements=[84])


def test_importing_sevenn_leaves_torch_load_safe():
    code = f"import os, pathtune; pathtune.load('sevennet:7net-0'); assert {UNSAFE!r} not in os.environ"
    environment = {k: v for k, v in os.environ.items() if k != UNSAFE}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("name", ["7net-omat", "7net-mf-ompa", "7net-omni", "7net-omni-i8", "7net-omni-i12"])
def test_names_beyond_the_wheel_are_found_by_sevenns_own_loader(name, tmp_path, monkeypatch):
    import sevenn.util

    asked = []
    monkeypatch.setattr(sevenn.util, "download_checkpoint", lambda path, url: asked.append((path, url)) or broken())
    monkeypatch.setattr("os.path.exists", lambda path: False)

    def broken():
        raise OSError("no network")

    with pytest.raises(InputError, match=f"sevennet:{name}.*: sevenn's download failed .no network.; name a ch"):
        load(f"sevennet:{name}:mpa" if "omat" not in name else f"sevennet:{name}")
    assert asked[0][1].startswith("https://")
    assert name.removeprefix("7net-").replace("-", "_") in asked[0][1]


@pytest.mark.parametrize("shift", [[-1.0, -2.0, -3.0], -1.5])
def test_a_merge_says_that_a_shift_shared_by_modalities_moves_all_of_them(shift):
    stock = tiny_sevennet(**{**VARIANTS["shares between modalities"], "shift": shift})
    model = load(stock, head="b")
    merge(model)  # nothing moves
    model.set_e0(model.e0 + 1.0)
    with pytest.warns(UserWarning, match="the E0 of b move the energies of a too"):
        moved = load(merge(model), head="a")
    assert torch.allclose(moved.e0, load(stock, head="a").e0 + 1.0)
