"""The arms beside the sparse delta on SevenNets: they train, store and merge as on MACE."""

import pytest
import torch

from models import crystal, labelled, molecule
from pathtune import FitConfig, SparseDelta, adapt, fit, load, load_adapter, merge, save_adapter
from pathtune.adaptations.pull import PullOptions
from pathtune.adapter_tools import extract
from pathtune.data import from_atoms
from sevennets import VARIANTS, tiny_sevennet

pytestmark = pytest.mark.usefixtures("needs_sevenn")


def of_hydrogen_and_oxygen():
    frames = [molecule(i, n=4) for i in range(4)]
    for atoms in frames:
        atoms.numbers[atoms.numbers == 6] = 8
    return [from_atoms(atoms) for atoms in labelled(frames)]


@pytest.mark.parametrize("kinds", [("lora",), ("modulation",), ("sparse", "lora")], ids="+".join)
@pytest.mark.parametrize("variant", ["SevenNet-0", "MF-0", "species-indexed self connection"])
def test_an_arm_starts_as_the_base_trains_and_goes_through_file_and_merging_bitwise(tmp_path, variant, kinds):
    head = "b" if variant == "MF-0" else None
    base = load(tiny_sevennet(**VARIANTS[variant]), head=head)
    options = {"delta": SparseDelta(active_share=0.05, scope=("linear", "radial"))}
    model = adapt(base, kinds, [1, 8], options)
    structures = of_hydrogen_and_oxygen()
    batch = base.collate(structures)
    assert torch.equal(model(batch).forces, base(batch).forces)
    fit(model, structures, structures, FitConfig(epochs=2, batch_size=2))
    assert not torch.equal(model(batch).forces, base(batch).forces)
    save_adapter(model, tmp_path / "a.safetensors")
    loaded = load_adapter(base, tmp_path / "a.safetensors")
    assert torch.equal(loaded(batch).forces, load(merge(model), head=head)(batch).forces)
    merged = merge(model).state_dict()
    for layer in base.backbone.layers:
        has_changed = (merged[layer.parameter] != base.backbone.parameters[layer.parameter]).nonzero().flatten()
        assert torch.isin(has_changed, layer.reachable(base.species_of([1, 8]))).all(), layer.name


@pytest.mark.parametrize("variant", ["SevenNet-0", "MF-0", "species-indexed self connection"])
def test_in_the_kronecker_basis_what_the_data_do_not_reach_stays_bitwise(variant):
    head = "b" if variant == "MF-0" else None
    base = load(tiny_sevennet(**VARIANTS[variant]), head=head)
    model = adapt(base, ["kron"], [1, 8])
    structures = of_hydrogen_and_oxygen()
    batch = base.collate(structures)
    assert torch.equal(model(batch).forces, base(batch).forces)
    fit(model, structures, structures, FitConfig(epochs=2, batch_size=2))
    merged = merge(model)
    assert torch.allclose(model(batch).forces, load(merged, head=head)(batch).forces, rtol=1e-5, atol=1e-6)
    for layer in base.backbone.layers:
        own = base.backbone.parameters[layer.parameter]
        has_changed = (merged.state_dict()[layer.parameter] != own).flatten().nonzero().flatten()
        assert has_changed.numel(), layer.name
        assert torch.isin(has_changed, layer.reachable(base.species_of([1, 8]))).all(), layer.name


@pytest.mark.parametrize("variant", ["SevenNet-0", "species-indexed self connection"])
def test_a_sevennet_starts_from_fresh_weights_and_merges_to_a_plain_model(variant):
    base = load(tiny_sevennet(**VARIANTS[variant]))
    model = adapt(base, ["scratch"], [1, 8], seed=5)
    fresh, own = model.backbone.parameters, base.backbone.parameters
    bessel = "edge_embedding.basis_function.coeffs"
    assert all(torch.equal(fresh[name], w) == (name == bessel) for name, w in own.items())
    structures = [from_atoms(atoms) for atoms in labelled([molecule(i, n=4) for i in range(4)])]
    for s in structures:
        s.atomic_numbers[s.atomic_numbers == 6] = 8
    fit(model, structures, structures, FitConfig(epochs=1, batch_size=2, check_units=False))
    batch = base.collate(structures)
    assert torch.allclose(model(batch).forces, load(merge(model))(batch).forces, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", ["SevenNet-0", "MF-0", "one scale and shift"])
def test_an_extracted_adapter_merges_to_the_tuned_model_bitwise(tmp_path, variant):
    head = "b" if variant == "MF-0" else None
    base = load(tiny_sevennet(**VARIANTS[variant]), head=head)
    full = adapt(base, ["full"])
    structures = [from_atoms(atoms) for atoms in labelled([molecule(i, n=4) for i in range(4)])]
    fit(full, structures, structures, FitConfig(epochs=2, batch_size=2))
    tuned = merge(full)
    save_adapter(extract(base, load(tuned, head=head)), tmp_path / "a.safetensors")
    loaded = load_adapter(base, tmp_path / "a.safetensors")
    expected, found = tuned.state_dict(), merge(loaded).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(w, found[name]) for name, w in expected.items())
    batch = base.collate(structures)
    assert torch.equal(loaded(batch).forces, load(tuned, head=head)(batch).forces)


@pytest.mark.parametrize("kinds", [("full",), ("sparse", "lora")], ids="+".join)
def test_a_pull_and_replay_hold_a_sevennet_near_its_base(kinds):
    base = load(tiny_sevennet())
    structures = [from_atoms(atoms) for atoms in labelled([molecule(i, n=4) for i in range(4)])]
    known = [from_atoms(atoms) for atoms in (crystal(5), molecule(7, n=5))]
    batch = base.collate(known)
    moved = []
    for strength, weight in ((0.0, 0.0), (1e4, 100.0)):
        pull = PullOptions(pull="ewc", pull_strength=strength)
        model = adapt(base, [*kinds, "pull"], [1, 6, 8], {"pull": pull})
        config = FitConfig(epochs=4, batch_size=2, lr=1e-3, replay_weight=weight)
        fit(model, structures, structures, config, replay=known)
        moved.append(float((model(batch).forces - base(batch).forces).detach().abs().mean()))
    assert moved[0] > moved[1] > 0
