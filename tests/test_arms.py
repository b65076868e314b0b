"""Laws of the arms beside the sparse delta: low rank, modulation, and what full fine-tuning leaves alone."""

import copy
import re

import pytest
import torch

from models import labelled, molecule, reordered, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, adapt, fit, load, load_adapter, merge, save_adapter
from pathtune.adaptations.dense import FullOptions
from pathtune.adaptations.low_rank import LowRankOptions
from pathtune.adaptations.modulation import ModulationOptions
from pathtune.adapter_file import read_adapter
from pathtune.data import from_atoms
from pathtune.training.folder import RunFolder
from stopping import killed_at

pytestmark = pytest.mark.usefixtures("needs_mace")
SPARSE = {"delta": SparseDelta(active_share=0.05)}
MIXED = [("sparse", "lora"), ("lora", "sparse"), ("sparse", "modulation"), ("sparse", "pull")]
ARMS = [("lora",), ("modulation",), *MIXED]
arms = pytest.mark.parametrize("kinds", ARMS, ids="+".join)
CONFIG = FitConfig(epochs=3, batch_size=2)


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def structures(seed, n=4):
    return [from_atoms(atoms) for atoms in labelled([molecule(seed + i, n=4) for i in range(n)], seed)]


def oxides():
    frames = [molecule(i, n=4) for i in range(4)]
    for atoms in frames:
        atoms.numbers[atoms.numbers == 6] = 8
    return [from_atoms(atoms) for atoms in labelled(frames)]


def adapted(base, kinds, elements=(1, 6, 8), **options):
    return adapt(base, kinds, elements, SPARSE | options)


def moved(model, std=0.3):
    """The model with random values in what it trains."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.trainable():
            p += std * torch.randn(p.shape, dtype=p.dtype, generator=generator)
    return model


def weights_of(module):
    return {name: p.detach() for name, p in module.named_parameters()}


@arms
def test_an_arm_starts_as_the_base_trains_and_goes_through_file_and_merging_bitwise(base, tmp_path, kinds):
    model = adapted(base, kinds)
    batch = base.collate(structures(9))
    assert torch.equal(model(batch).forces, base(batch).forces)
    history = fit(model, structures(0), structures(50), CONFIG)
    found = model(batch)
    assert history.epochs[-1]["active"] > 0
    assert not torch.equal(found.forces, base(batch).forces)
    save_adapter(model, tmp_path / "a.safetensors")
    loaded = load_adapter(base, tmp_path / "a.safetensors")
    assert loaded.counts() == model.counts()
    assert torch.equal(loaded(batch).forces, load(merge(model))(batch).forces)
    assert torch.allclose(loaded(batch).forces, found.forces, rtol=0, atol=1e-12)
    save_adapter(loaded, tmp_path / "again.safetensors")
    first, again = (read_adapter(tmp_path / f"{name}.safetensors")[0] for name in ("a", "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


@arms
def test_a_killed_run_of_an_arm_resumes_bitwise(base, tmp_path, kinds):
    config = FitConfig(epochs=3, batch_size=2, checkpoint_minutes=1e-9)
    expected = adapted(base, kinds)
    fit(expected, structures(0), structures(50), config)
    folder = RunFolder(tmp_path / "run")
    folder.folder.mkdir()
    with killed_at(3):
        fit(adapted(base, kinds), structures(0), structures(50), config, folder=folder)
    resumed = adapted(base, kinds)
    fit(resumed, structures(0), structures(50), config, folder=folder)
    pairs = zip(expected.trainable(), resumed.trainable(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", ["lora", "modulation"])
def test_weights_of_an_element_that_does_not_occur_stay_the_bases(base, kind):
    merged = weights_of(merge(moved(adapted(base, [kind], elements=[1, 8]))))
    own = weights_of(base.backbone.stock)
    for layer in base.backbone.layers:
        if layer.scope != "linear":
            continue
        has_changed = merged[layer.parameter] != own[layer.parameter]
        reachable = torch.zeros_like(has_changed)
        reachable[layer.reachable([0, 2])] = True
        assert torch.equal(has_changed, reachable), layer.name


@pytest.mark.parametrize("kind", ["lora", "modulation"])
def test_an_adapter_of_an_arm_serves_a_model_that_knows_its_species_in_another_order(tmp_path, kind):
    """The same model with its species table turned round, and one element more."""
    base = load(tiny_mace())
    other = load(reordered(base.backbone.stock))
    model = moved(adapted(base, [kind], elements=[1, 8]))
    save_adapter(model, tmp_path / "a.safetensors")
    loaded = load_adapter(other, tmp_path / "a.safetensors")
    atoms = molecule(4)
    atoms.numbers[atoms.numbers == 6] = 8
    frames = [from_atoms(atoms)]
    found = loaded(other.collate(frames)).forces
    assert torch.allclose(found, model(base.collate(frames)).forces, rtol=0, atol=1e-10)
    assert not torch.allclose(found, other(other.collate(frames)).forces, rtol=0, atol=1e-3)


def test_low_rank_merged_here_is_mace_torchs_merged_with_the_same_factors(base):
    from mace.modules.lora import LoRAO3Linear, inject_lora, merge_lora_weights

    options = LowRankOptions(rank=3, alpha=2.0)
    model = adapted(base, ["lora"], lora=options)
    stock = copy.deepcopy(base.backbone.stock)
    inject_lora(stock, rank=3, alpha=2.0, wrap_dense=False)
    wrapped = {name: m for name, m in stock.named_modules() if isinstance(m, LoRAO3Linear)}
    lora = model.adaptation.parts()[0]
    for theirs in wrapped.values():  # paths of one irrep to one output share B there
        torch.nn.init.normal_(theirs.lora_B.weight)
    with torch.no_grad():
        for block, a, b in zip(lora.blocks, lora.values("a"), lora.values("b")):
            if block.layer.name in wrapped:
                theirs = wrapped[block.layer.name]
                instruction = theirs.base.instructions[block.index]
                at_a, middle, _ = theirs._A_by_i_in[instruction.i_in]
                at_b, _ = theirs._B_by_in_out[middle, instruction.i_out]
                theirs._extract_weight_blocks(theirs.lora_A)[at_a].copy_(a)
                b.copy_(theirs._extract_weight_blocks(theirs.lora_B)[at_b])
    assert len(wrapped) >= 8
    expected, found = weights_of(merge_lora_weights(stock)), weights_of(merge(model))
    assert expected.keys() == found.keys()
    for name, w in expected.items():
        assert torch.allclose(found[name], w, rtol=0, atol=1e-12), name
        if name.removesuffix(".weight") in wrapped:
            assert not torch.equal(w, base.backbone.parameters[name])


@pytest.mark.parametrize("rank", [1, 3])
def test_the_product_of_low_rank_has_that_rank_or_the_paths_own(base, rank):
    model = moved(adapted(base, ["lora"], lora=LowRankOptions(rank=rank)))
    lora = model.adaptation.parts()[0]
    for block, a, b in zip(lora.blocks, lora.values("a"), lora.values("b")):
        found = torch.linalg.matrix_rank(a @ b)
        assert (found == min(rank, *block.shape[-2:])).all(), block.name


def test_modulation_multiplies_the_weights_of_a_channel_by_one_factor(base):
    model = moved(adapted(base, ["modulation"]))
    changed = model.effective_weights()
    for block, g in zip(model.adaptation.parts()[0].blocks, model.adaptation.parts()[0].values("g")):
        species = torch.tensor(block.species)
        own, new = (block.weights_of(w, species) for w in (base.backbone.parameters[block.layer.parameter],
                                                           changed[block.layer.parameter]))  # fmt: skip
        factor = 1 + (g.unsqueeze(1) if own.dim() == 3 else g)
        assert torch.allclose(new, own * factor, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "is_trained"),
    [
        ({"freeze": ("node_embedding.*", "*s.0.*")}, lambda name: ".0." not in name and "node_emb" not in name),
        ({"full_targets": ("*.linear*", "products.*"), "freeze": ("products.0.*",)},
         lambda name: (".linear" in name or "products" in name) and "products.0." not in name),
    ],
    ids=["all but the first interaction", "chosen ones"],
)  # fmt: skip
def test_full_fine_tuning_changes_what_the_patterns_name_and_nothing_else(base, options, is_trained):
    model = adapted(base, ["full"], full=FullOptions(**options))
    fit(model, structures(0), structures(50), CONFIG)
    own, merged = weights_of(base.backbone.stock), weights_of(merge(model))
    for name, w in merged.items():
        assert torch.equal(w, own[name]) or is_trained(name), name
    names = [name for name, p in model.backbone.parameters.items() if p.requires_grad]
    assert names == [name for name in own if is_trained(name)]
    assert model.counts()["active"] == sum(own[name].numel() for name in names)


def test_what_no_arm_can_be_asked_is_said_in_one_sentence(base, tmp_path):
    with pytest.raises(InputError, match="rank is 0, expected a number above 0"):
        LowRankOptions(rank=0)
    with pytest.raises(InputError, match="rank is 5, expected at most 4, the most that a path of the model has"):
        adapted(base, ["lora"], lora=LowRankOptions(rank=5))
    with pytest.raises(InputError, match="alpha is -1.0, expected a number above 0"):
        LowRankOptions(alpha=-1.0)
    with pytest.raises(InputError, match="'nothing' matches no layer"):
        adapted(base, ["modulation"], modulation=ModulationOptions(modulation_targets=("nothing",)))


def test_a_sparse_delta_of_share_1_is_dense_on_every_reachable_weight(base):
    model = adapted(base, ["sparse"], elements=[1, 8], delta=SparseDelta(active_share=1))
    fit(model, oxides(), oxides(), CONFIG)
    counts = model.counts()
    changed = sum(d.values.numel() for d in model.adaptation.parts()[0].deltas)
    assert counts["reachable_weights"] == changed < counts["adapted_weights"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze": ("nothing.*",)}, "freeze: 'nothing.*' matches no parameter; the model has node_embedding"),
        ({"full_targets": ("readout",)}, "full_targets: 'readout' matches no parameter"),
        ({"freeze": ("*",)}, "freeze is '*', which leaves nothing to train"),
    ],
)
def test_patterns_that_train_nothing_are_named(base, options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        adapted(base, ["full"], full=FullOptions(**options))
