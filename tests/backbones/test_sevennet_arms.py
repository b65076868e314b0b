"""The arms beside the sparse delta on SevenNets: they train, store and merge as on MACE."""

import pytest
import torch

from models import labelled, molecule
from pathtune import FitConfig, SparseDelta, adapt, fit, load, load_adapter, merge, save_adapter
from pathtune.data import from_atoms
from sevennets import VARIANTS, tiny_sevennet

pytestmark = pytest.mark.usefixtures("needs_sevenn")


@pytest.mark.parametrize("kinds", [("lora",), ("modulation",), ("sparse", "lora")], ids="+".join)
@pytest.mark.parametrize("variant", ["SevenNet-0", "MF-0", "species-indexed self connection"])
def test_an_arm_starts_as_the_base_trains_and_goes_through_file_and_merging_bitwise(tmp_path, variant, kinds):
    head = "b" if variant == "MF-0" else None
    base = load(tiny_sevennet(**VARIANTS[variant]), head=head)
    model = adapt(base, kinds, [1, 8], {"delta": SparseDelta(active_share=0.05)})
    frames = [molecule(i, n=4) for i in range(4)]
    for atoms in frames:
        atoms.numbers[atoms.numbers == 6] = 8
    structures = [from_atoms(atoms) for atoms in labelled(frames)]
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
