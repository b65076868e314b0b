"""Laws of the nequip backbone: against nequip itself, its files both ways, what is adapted, and what is refused."""

import os
import pathlib
import pickle
import random
import subprocess
import sys
import zipfile

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from laws.forward import (
    START,
    assert_a_step_repeats,
    assert_forwards_agree,
    assert_no_edges_and_no_structures_work,
    batch_of,
)
from models import ALL, crystal, delta_of, labelled, molecule
from pathtune import FitConfig, InputError, SparseDelta, fit, load, load_adapter, merge, paths, save, sparsify, unfreeze
from pathtune.cli import main
from pathtune.data import from_atoms

pytestmark = pytest.mark.usefixtures("needs_nequip")
BIG = SparseDelta(delta_start="paper", initial_std=0.3, initial_threshold=0.1)
FRAMES = [crystal(), molecule(1)]


@pytest.fixture
def nequips():
    import nequips

    return nequips


def assert_nequip_agrees(nequips, file, model):
    """Energies to 1e-12, forces and stress to 1e-10 of what nequip itself says of a file."""
    for atoms, (energy, forces, stress) in zip(FRAMES, nequips.nequip_says(file, *FRAMES)):
        p = model(model.collate([from_atoms(atoms)]), outputs=ALL)
        assert p.energy.item() == pytest.approx(energy, rel=1e-12)
        assert torch.allclose(p.forces, forces, rtol=1e-10, atol=1e-10)
        assert forces.abs().max() > 1e-3
        if stress is not None:
            assert torch.allclose(p.stress[0], stress, rtol=1e-10, atol=1e-10)


VARIANTS = ("one parity", "both parities, pair potential", "l = 3", "scalars only",
            "neighbours by type, no scales and shifts", "trained Bessel roots, scales and shifts",
            "one scale and shift, deep readout", "preset", "self connection in the first layer")  # fmt: skip


def test_every_variant_is_named_here(nequips):
    assert set(VARIANTS) == set(nequips.VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_equals_nequip_and_its_gradients_those_of_its_modules(variant, nequips, tmp_path):
    file = nequips.nequip_file(tmp_path, **nequips.VARIANTS[variant])
    reference, ours = (load(file, backend=backend) for backend in ("reference", "cpu"))
    assert_nequip_agrees(nequips, file, ours)
    assert_forwards_agree(reference, ours, batch_of(ours, crystal(), molecule(1), molecule(n=1)))


@pytest.mark.parametrize("variant", ["update that adds", "nonlinearity of norms", "cutoffs by type"])
def test_what_the_kernels_do_not_cover_runs_on_nequips_modules(variant, nequips, tmp_path):
    file = nequips.nequip_file(tmp_path, **nequips.STOCK[variant])
    with pytest.warns(UserWarning, match="the cpu backend does not cover .*convnet|per_edge_type_cutoff"):
        model = load(file)
    assert model.backbone.backend == "reference"
    assert_nequip_agrees(nequips, file, model)


def test_averaged_weights_are_the_ones_that_are_loaded(nequips, tmp_path):
    file = nequips.nequip_file(tmp_path, "EMALightningModule")
    assert_nequip_agrees(nequips, file, load(file))


def test_a_tuned_model_is_merged_to_a_checkpoint_that_nequip_loads(nequips, tmp_path):
    base = load(nequips.nequip_file(tmp_path, **nequips.VARIANTS["both parities, pair potential"]))
    frames = labelled([molecule(k) for k in range(3)])
    model = sparsify(base, SparseDelta(active_share=0.5), base.atomic_numbers)
    assert len(fit(model, frames[:2], frames[2:], FitConfig(epochs=1, batch_size=1, check_units=False)).epochs) == 1
    save(merge(model), tmp_path / "merged.ckpt")
    assert not torch.equal(model.e0, base.e0)
    assert_nequip_agrees(nequips, tmp_path / "merged.ckpt", model)
    again = load(tmp_path / "merged.ckpt")
    assert torch.equal(again.e0, model.e0)
    batch = batch_of(base, *FRAMES)
    assert torch.allclose(again(batch).forces, model(batch).forces, rtol=1e-11, atol=1e-11)
    assert not torch.allclose(again(batch).forces, base(batch).forces, atol=1e-4)


def test_one_shift_for_all_types_becomes_one_for_each(nequips, tmp_path):
    file = nequips.nequip_file(tmp_path, **nequips.VARIANTS["one scale and shift, deep readout"])
    model = sparsify(load(file), BIG)
    assert model.e0.tolist() == [-1.5] * 3
    model.set_e0(model.e0 + torch.tensor([0.25, -0.5, 1.0]))
    save(merge(model), tmp_path / "merged.ckpt")
    assert_nequip_agrees(nequips, tmp_path / "merged.ckpt", model)


def test_float32_and_radial_tables_stay_within_their_rounding(nequips, tmp_path):
    file = nequips.nequip_file(tmp_path)
    exact, tabled = load(file), load(file, "float32")
    p, q = (m(batch_of(m, *FRAMES), outputs=ALL) for m in (exact, tabled))
    assert tabled.backbone._forward.tables._known
    assert torch.allclose(p.interaction_energy.float(), q.interaction_energy, rtol=1e-5, atol=1e-5)
    assert torch.allclose(p.forces.float(), q.forces.float(), rtol=1e-4, atol=1e-4)
    merged = load(merge(tabled), "float64")
    assert merged.backbone.dtype == torch.float64
    assert torch.allclose(exact.e0, merged.e0)


def test_no_edges_no_structures_and_the_same_step_again(nequips, tmp_path):
    file = nequips.nequip_file(tmp_path)
    reference, ours = (load(file, backend=backend) for backend in ("reference", "cpu"))
    assert_no_edges_and_no_structures_work(reference, ours)
    assert_a_step_repeats(sparsify(ours, START))


def test_only_weights_that_the_data_reach_are_adapted(nequips, tmp_path):
    base = load(nequips.nequip_file(tmp_path))
    rows = {r.module: r for r in paths(base, elements=[1, 8])}
    row = rows["model.func.type_embed.embed_module"]
    assert (row.weights, row.reachable) == (3 * 6, 2 * 6)
    delta = delta_of(sparsify(base, BIG, elements=[1, 8]), row.module)
    assert set(delta.indices.div(6, rounding_mode="floor").tolist()) == {0, 1}  # O and H
    full = unfreeze(base, "full")
    names = {name for name, p in full.backbone.stock.named_parameters() if p.numel()}
    assert set(full.backbone.parameters) == names
    assert {layer.parameter for layer in base.backbone.layers} == names
    last = next(x for x in base.backbone.layers if x.name == "model.func.layer1_convnet.conv.linear_2")
    assert [path.gates for path in last.paths] == [8, 0, 0]


def test_scratch_starts_from_other_weights_of_the_same_kind(nequips, tmp_path):
    base = load(nequips.nequip_file(tmp_path))
    new = base.backbone.copy()
    new.draw_anew(seed=3)
    assert new.shapes() == base.backbone.shapes()
    assert all(not torch.equal(p, base.backbone.parameters[name]) for name, p in new.parameters.items())


def test_loading_leaves_the_process_as_it_was(nequips, tmp_path):
    file = nequips.nequip_file(tmp_path)
    environment, dtype = dict(os.environ), torch.get_default_dtype()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    load(file)
    assert (dict(os.environ), torch.get_default_dtype()) == (environment, dtype)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states


def test_the_verbs_of_the_command_line_go_through(nequips, tmp_path, capsys):
    model, out = str(nequips.nequip_file(tmp_path)), tmp_path / "merged.ckpt"
    for name, seeds in (("train", range(4)), ("valid", range(4, 6))):
        ase.io.write(tmp_path / f"{name}.extxyz", labelled([molecule(k) for k in seeds]))
    train, valid, run = (str(tmp_path / name) for name in ("train.extxyz", "valid.extxyz", "run"))
    adapter = f"{run}/adapter.safetensors"
    data = ["--train", train, "--valid", valid, "--epochs", "1", "--no-check-units", "--no-report", "--keep-worse"]
    assert main(["fit", "--model", f"nequip:{model}", *data, "--out", run]) == 0
    assert main(["evaluate", "--model", model, "--adapter", adapter, "--data", valid]) == 0
    assert main(["merge", "--model", model, "--adapter", adapter, "--out", str(out)]) == 0
    tuned, merged = load_adapter(load(model), adapter), load(out)
    batch = batch_of(tuned, molecule())
    assert torch.allclose(tuned(batch).forces, merged(batch).forces, rtol=1e-12)
    capsys.readouterr()
    for name, words in (("nequip:none.ckpt", "none.ckpt: no such file, expected a .ckpt or .nequip.zip"),
                        ("nequip.net:mir-group/NequIP-OAM-L:0.1", "names a model to download")):  # fmt: skip
        assert main(["paths", "--model", name]) == 2
        assert words in capsys.readouterr().err


def rewritten(file, **changes):
    """The same checkpoint with another config of the model."""
    content = torch.load(file, weights_only=True)
    content["hyper_parameters"]["model"].update(changes)
    torch.save(content, file)


REFUSED = {
    "another builder": ({"_target_": "os.system"}, "is built by os.system, expected one of nequip's NequIPGNNModel"),
    "a package's model": ({"_target_": "nequip.model.ModelFromPackage"}, "is built by nequip.model.ModelFromPackage"),
    "a modifier": ({"_target_": "nequip.model.modify", "modifiers": [{"modifier": "add_lora"}]},
                   "is modified by add_lora, which is not covered"),
    "another potential": ({"pair_potential": {"_target_": "os.system"}}, "pair_potential is .*, expected ZBL or none"),
    "a hidden call": ({"avg_num_neighbors": {"_target_": "os.system"}}, "asks for os.system to be run"),
    "charges": ({"categorical_graph_field_embed": [{"field": "charge"}]}, "embeds charge of each structure"),
    "other widths": ({"num_features": [9, 5, 3]}, r"is \[\d+\], expected \[\d+\] by its config"),
    "an option of later versions": ({"attention": True}, "nequip cannot build its model .TypeError"),
    "types that are no elements": ({"type_names": ["O", "H", "C1"], "per_type_energy_scales": 1.0,
                                    "per_type_energy_shifts": 1.0}, "has the atom type 'C1', expected chemical"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_covered_is_one_sentence(case, nequips, tmp_path):
    changes, words = REFUSED[case]
    file = nequips.nequip_file(tmp_path)
    rewritten(file, **changes)
    with pytest.raises(InputError, match=f"tiny.ckpt: .*{words}"):
        load(file)


def test_an_allegro_is_refused_as_a_checkpoint_and_as_a_package(nequips, tmp_path):
    pytest.importorskip("allegro", reason="needs the package nequip-allegro")
    file = nequips.nequip_file(tmp_path, config=nequips.ALLEGRO)
    package = nequips.packaged(file, tmp_path / "tiny.nequip.zip")
    for name in (file, package):
        with pytest.raises(InputError, match=rf"{name.name}: is an Allegro .allegro.model.AllegroModel., "):
            load(name)


def test_weights_of_another_trainer_are_refused(nequips, tmp_path):
    file = nequips.nequip_file(tmp_path)
    content = torch.load(file, weights_only=True)
    info = content["hyper_parameters"]["info_dict"]
    info["training_module"]["_target_"] = "nequip.train.ScheduleFreeLightningModule"
    torch.save(content, file)
    with pytest.raises(InputError, match=r"trained by nequip.train.ScheduleFree.*make a package of it"):
        load(file)


class Touch:
    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.file),)


def test_nothing_in_a_checkpoint_is_run(nequips, tmp_path):
    file = nequips.nequip_file(tmp_path)
    content = torch.load(file, weights_only=True)
    torch.save({**content, "callbacks": Touch(tmp_path / "was_run")}, file)
    with pytest.raises(InputError, match="is no whole file of nequip .UnpicklingError"):
        load(file)
    assert not (tmp_path / "was_run").exists()


def test_a_package_is_loaded_and_nothing_in_it_is_run(nequips, tmp_path, monkeypatch):
    file = nequips.nequip_file(tmp_path, "EMALightningModule", **nequips.VARIANTS["both parities, pair potential"])
    package = nequips.packaged(file, tmp_path / "tiny.nequip.zip")
    expected = nequips.nequip_says(package, *FRAMES)
    with monkeypatch.context() as patch:
        patch.setattr(torch.package, "PackageImporter", lambda *a: pytest.fail("the package was run"))
        patch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was loaded"))
        model = load(package)
    for atoms, (energy, forces, _) in zip(FRAMES, expected):
        p = model(model.collate([from_atoms(atoms)]))
        assert p.energy.item() == pytest.approx(energy, rel=1e-12)
        assert torch.allclose(p.forces, forces, rtol=1e-10, atol=1e-10)
    save(merge(sparsify(model, BIG)), tmp_path / "merged.ckpt")
    assert load(tmp_path / "merged.ckpt").backbone.shapes() == model.backbone.shapes()
    planted = tmp_path / "planted.nequip.zip"
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(planted, "w") as new:
        for name in old.namelist():
            is_model = name.endswith("eager_model.pkl")
            new.writestr(name, pickle.dumps(Touch(tmp_path / "was_run")) if is_model else old.read(name))
    with pytest.raises(InputError, match=r"planted.nequip.zip: is no whole file of nequip"):
        load(planted)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.slow
def test_a_model_that_nequip_trained_and_packaged_is_tuned_and_packaged_again(nequips, tmp_path, data_folder):
    """By nequip's own commands: nequip-train, nequip-package build."""
    import lzma

    with lzma.open(data_folder / "rmd17" / "ethanol" / "train.extxyz.xz", "rt") as stream:
        frames = ase.io.read(stream, ":8", format="extxyz")
    for atoms in frames:
        energy, forces = atoms.info.pop("REF_energy"), atoms.arrays.pop("REF_forces")
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    ase.io.write(tmp_path / "frames.xyz", frames)
    (tmp_path / "config.yaml").write_text(nequips.TRAINING)

    def run(name, *arguments):
        command = [sys.executable, "-m", f"nequip.scripts.{name}", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]

    run("train", "-cp", str(tmp_path), "-cn", "config", f"hydra.run.dir={tmp_path}/out")
    run("package", "build", "out/last.ckpt", "model.nequip.zip")
    trained, package = load(tmp_path / "out" / "last.ckpt"), load(tmp_path / "model.nequip.zip")
    batch = batch_of(package, *frames)
    assert torch.equal(trained(batch).forces, package(batch).forces)
    said = torch.cat([forces for _, forces, _ in nequips.nequip_says(tmp_path / "model.nequip.zip", *frames)])
    assert torch.allclose(package(batch).forces, said, rtol=1e-10, atol=1e-10)
    model = sparsify(package, SparseDelta(active_share=0.5), elements=[1, 6, 8])
    labels = labelled([a.copy() for a in frames])
    fit(model, labels[:6], labels[6:], FitConfig(epochs=2, batch_size=3, check_units=False))
    save(merge(model), tmp_path / "merged.ckpt")
    run("package", "build", "merged.ckpt", "merged.nequip.zip")
    again = load(tmp_path / "merged.nequip.zip")
    assert torch.allclose(again(batch).energy, model(batch).energy, rtol=1e-12)
    said = torch.cat([forces for _, forces, _ in nequips.nequip_says(tmp_path / "merged.nequip.zip", *frames)])
    assert torch.allclose(model(batch).forces, said, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(said, package(batch).forces, atol=1e-4)
