"""Laws of adapter files (docs/adapter-format.md)."""

import pytest
import safetensors.torch
import torch

from models import crystal, deltas_of, molecule, tiny_mace
from pathtune import InputError, SparseDelta, load, load_adapter, merge, save_adapter, sparsify
from pathtune.adaptations.sparse.adaptation import SparseEntries
from pathtune.adaptations.sparse.delta import FixedDelta
from pathtune.adaptations.stored import from_canonical, to_canonical
from pathtune.adapter_file import read_adapter
from pathtune.data import collate, from_atoms
from pathtune.layers import select_layers

pytestmark = pytest.mark.usefixtures("needs_mace")
CONFIG = SparseDelta(delta_start="paper", initial_std=0.1, initial_threshold=0.1, threshold="per_path")


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


@pytest.fixture
def saved(base, tmp_path):
    model = sparsify(base, CONFIG, elements=[1, 8])
    model.e0[0] += 0.125
    file = tmp_path / "a.safetensors"
    save_adapter(model, file, {"epochs": 3})
    return model, file


def forces(model, atoms):
    return model(collate([from_atoms(atoms)], model.atomic_numbers, model.backbone.r_max, model.backbone.dtype)).forces


def test_the_round_trip_is_bitwise(base, saved, tmp_path):
    model, file = saved
    loaded = load_adapter(base, file)
    again = tmp_path / "b.safetensors"
    save_adapter(loaded, again, {"epochs": 3})
    (tensors, metadata), (tensors_again, metadata_again) = read_adapter(file), read_adapter(again)
    assert metadata == metadata_again
    assert tensors.keys() == tensors_again.keys()
    assert all(torch.equal(t, tensors_again[name]) for name, t in tensors.items())
    for trained, fixed in zip(deltas_of(model), deltas_of(loaded)):
        delta = trained.delta().detach()
        assert torch.equal(trained.indices[delta != 0], fixed.indices)
        assert torch.equal(delta[delta != 0], fixed.delta())
    assert torch.equal(model.e0, loaded.e0)


def test_a_loaded_adapter_predicts_as_the_trained_model(base, saved):
    model, file = saved
    assert torch.allclose(forces(model, molecule()), forces(load_adapter(base, file), molecule()), rtol=0, atol=1e-12)


def test_only_active_entries_are_stored(saved):
    model, file = saved
    tensors, metadata = read_adapter(file)
    n_stored = sum(t.numel() for name, t in tensors.items() if name.endswith(".weight.values"))
    assert n_stored == model.counts()["active"]
    assert metadata["format"] == "2"
    for name, tensor in tensors.items():
        if name.endswith(".indices"):
            assert (tensor.diff() > 0).all(), name


def test_indices_do_not_depend_on_the_species_table(base):
    for layer in base.backbone.layers:
        indices = layer.reachable([0, 2])
        canonical = to_canonical(layer, indices, (1, 6, 8))
        assert torch.equal(from_canonical(layer, canonical, (1, 6, 8)), indices)


def test_an_adapter_serves_the_reduced_model_too(base, saved):
    """mace reduces the species table to the elements found and rescales by sqrt(N_found / N)."""
    model, file = saved
    stock, keep = base.backbone.stock, [0, 2]
    reduced = tiny_mace(num_elements=2, atomic_numbers=[1, 8], atomic_energies=torch.tensor([-1.0, -3.0]).numpy())
    state = dict(stock.state_dict())
    for layer in select_layers(base.backbone.layers):
        flat, parts = state[layer.parameter], []
        for path in layer.paths:
            block = flat[path.offset : path.offset + path.numel].reshape(path.shape)
            if path.species_axis is not None:
                block = block.index_select(path.species_axis, torch.tensor(keep)) * (2 / 3) ** 0.5
            parts.append(block.reshape(-1))
        state[layer.parameter] = torch.cat(parts)
    own = reduced.state_dict()
    for name, value in state.items():
        if value.shape != own[name].shape:
            value = value[keep] if value.shape[0] == 3 else value[..., keep]
        own[name] = value
    reduced.load_state_dict(own)
    small = load_adapter(load(reduced), file)
    atoms = molecule()
    atoms.numbers[atoms.numbers == 6] = 8
    assert torch.allclose(forces(model, atoms), forces(small, atoms), rtol=0, atol=1e-6)


def test_the_merged_model_is_another_base(saved):
    model, file = saved
    with pytest.raises(InputError, match=r"a.safetensors: was made for another model: .* has rms"):
        load_adapter(load(merge(model)), file)


def test_an_adapter_of_another_cutoff_is_named(saved):
    _, file = saved
    with pytest.raises(InputError, match=r"a.safetensors: was made for a cutoff of 3.5 A, but the model has 4 A"):
        load_adapter(load(tiny_mace(r_max=4.0)), file)


def test_a_truncated_altered_or_foreign_file_is_named(base, saved, tmp_path):
    _, file = saved
    whole = file.read_bytes()
    for n in (0, 5, 100, len(whole) - 1):
        file.write_bytes(whole[:n])
        with pytest.raises(InputError, match="a.safetensors: not a readable adapter"):
            load_adapter(base, file)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="checksum"):
        load_adapter(base, file)
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="adapter format None, expected '1'"):
        load_adapter(base, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no such file"):
        load_adapter(base, tmp_path / "none.safetensors")


def test_a_loaded_adapter_does_not_change_when_its_file_is_written_over(base, saved):
    _, file = saved
    loaded = load_adapter(base, file)
    before = [d.values.clone() for d in deltas_of(loaded)]
    with open(file, "r+b") as stream:
        stream.write(b"x" * file.stat().st_size)
    assert all(torch.equal(d.values, b) for d, b in zip(deltas_of(loaded), before))


def test_numbers_that_are_not_finite_are_not_saved(base, saved, tmp_path):
    model, _ = saved
    with torch.no_grad():
        deltas_of(model)[0].values[0] = torch.nan
    with pytest.raises(InputError, match=r"nan.safetensors: .sparse.* holds a number that is not finite"):
        save_adapter(model, tmp_path / "nan.safetensors")
    assert not (tmp_path / "nan.safetensors").exists()


def test_another_model_or_element_set_is_refused(saved):
    _, file = saved
    with pytest.raises(InputError, match="was made for another model"):
        load_adapter(load(tiny_mace(seed=1)), file)
    with pytest.raises(InputError, match="other weight shapes"):
        load_adapter(load(tiny_mace(num_bessel=5)), file)
    with pytest.raises(InputError, match=r"\[8\]"):
        load_adapter(load(tiny_mace(atomic_numbers=[1, 6, 7])), file)


def test_a_model_without_deltas_has_nothing_to_save(base, tmp_path):
    with pytest.raises(InputError, match="no adapter to save"):
        save_adapter(base, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_adapter_of_650000_weights_at_3_percent_is_under_200_kb(tmp_path):
    from e3nn import o3

    numbers = [1, 6, 7, 8, 9, 15, 16, 17, 35, 53]
    base = load(tiny_mace(torch.float32, hidden_irreps=o3.Irreps("112x0e+112x1o"), num_elements=10,
                          atomic_numbers=numbers, atomic_energies=torch.zeros(10).numpy()))  # fmt: skip
    model = sparsify(base)
    entries = []
    for layer in model.adaptation.layers():
        indices = torch.randperm(layer.numel)[: round(0.03 * layer.numel)].sort().values
        entries.append(FixedDelta(layer, indices, torch.randn(indices.numel()), torch.zeros(1)))
    model.use(SparseEntries(entries))
    counts = model.counts()
    assert counts["adapted_weights"] > 650_000
    assert counts["active"] == pytest.approx(0.03 * counts["adapted_weights"], rel=1e-3)
    save_adapter(model, tmp_path / "big.safetensors")
    assert (tmp_path / "big.safetensors").stat().st_size < 200_000


def test_crystals_too(base, saved):
    model, file = saved
    assert torch.allclose(forces(model, crystal()), forces(load_adapter(base, file), crystal()), rtol=0, atol=1e-12)
