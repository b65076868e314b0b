"""Laws of low rank in its forms and scopes, and of the arm that starts from fresh weights."""

import pytest
import torch

from models import labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, adapt, fit, load, load_adapter, merge, save_adapter
from pathtune.adaptations.low_rank import LowRankOptions
from pathtune.data import as_source, from_atoms
from pathtune.training.folder import RunFolder
from pathtune.training.run import RunOptions, adapt_as
from stopping import killed_at

pytestmark = pytest.mark.usefixtures("needs_mace")
FORMS = {
    "mace": (["lora"], LowRankOptions(rank=2, lora_form="mace")),
    "mace, radial": (["lora"], LowRankOptions(rank=2, lora_form="mace", lora_scope=("linear", "radial"))),
    "all scopes": (["lora"], LowRankOptions(rank=2, lora_scope=("linear", "contraction", "radial"))),
    "sparse + low rank": (["sparse", "lora"], LowRankOptions(rank=1)),
    "scratch": (["scratch"], None),
}
CONFIG = FitConfig(epochs=2, batch_size=2, checkpoint_minutes=1e-9, check_units=False)
forms = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def structures(seed, n=4):
    return [from_atoms(atoms) for atoms in labelled([molecule(seed + i, n=4) for i in range(n)], seed)]


def adapted(base, form, seed=0):
    kinds, options = FORMS[form]
    return adapt(base, kinds, (1, 6, 8), {} if options is None else {"lora": options}, seed)


def parameters(module):
    return {name: p.detach() for name, p in module.named_parameters()}


@forms
def test_a_form_trains_merges_to_a_plain_model_is_stored_and_resumes_bitwise(base, tmp_path, form):
    model, batch = adapted(base, form), base.collate(structures(9))
    assert torch.equal(model(batch).forces, base(batch).forces) == (form != "scratch")
    fit(model, structures(0), structures(50), CONFIG)
    found = model(batch)
    assert not torch.equal(found.forces, base(batch).forces)
    merged = load(merge(model))(batch)
    assert torch.allclose(merged.forces, found.forces, rtol=0, atol=1e-12)
    if model.adaptation.is_stored:
        save_adapter(model, tmp_path / "a.safetensors")
        loaded = load_adapter(base, tmp_path / "a.safetensors")
        assert loaded.counts() == model.counts()
        assert torch.equal(loaded(batch).forces, merged.forces)
    folder = RunFolder(tmp_path / "run")
    folder.folder.mkdir()
    with killed_at(3):
        fit(adapted(base, form), structures(0), structures(50), CONFIG, folder=folder)
    resumed = adapted(base, form)
    fit(resumed, structures(0), structures(50), CONFIG, folder=folder)
    assert all(torch.equal(a, b) for a, b in zip(model.trainable(), resumed.trainable(), strict=True))


def test_the_form_of_mace_torch_merges_to_its_weights_with_as_many_values(base):
    import copy

    from mace.modules.lora import LoRAO3Linear, inject_lora, merge_lora_weights

    model = adapt(base, ["lora"], (1, 6, 8), {"lora": LowRankOptions(rank=2, alpha=3.0, lora_form="mace")})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.trainable():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    stock = copy.deepcopy(base.backbone.stock)
    inject_lora(stock, rank=2, alpha=3.0, wrap_dense=False)
    wrapped = {name: m for name, m in stock.named_modules() if isinstance(m, LoRAO3Linear)}
    lora = model.adaptation.parts()[0]
    with torch.no_grad():
        for block, a, b in zip(lora.blocks, lora.values("a"), lora.values("b")):
            theirs = wrapped[block.layer.name]
            instruction = theirs.base.instructions[block.index]
            at_a, middle, _ = theirs._A_by_i_in[instruction.i_in]
            at_b, _ = theirs._B_by_in_out[middle, instruction.i_out]
            theirs._extract_weight_blocks(theirs.lora_A)[at_a].copy_(a)
            theirs._extract_weight_blocks(theirs.lora_B)[at_b].copy_(b)
    assert {block.layer.name for block in lora.blocks} == set(wrapped)
    n_values = sum(m.lora_A.weight.numel() + m.lora_B.weight.numel() for m in wrapped.values())
    assert model.counts()["active"] == n_values < adapted(base, "all scopes").counts()["active"]
    expected, found = parameters(merge_lora_weights(stock)), parameters(merge(model))
    for name, w in expected.items():
        assert torch.allclose(found[name], w, rtol=0, atol=1e-12), name
    name = "interactions.0.linear.weight"
    assert not torch.equal(found[name], base.backbone.parameters[name])


def test_a_wider_scope_changes_contractions_of_the_elements_and_radial_matrices(base):
    kinds, options = FORMS["all scopes"]
    model = adapt(base, kinds, (1, 8), {"lora": options})
    with torch.no_grad():
        for p in model.trainable():
            p += 0.1
    own, merged = parameters(base.backbone.stock), parameters(merge(model))
    for layer in base.backbone.layers:
        is_changed = merged[layer.parameter] != own[layer.parameter]
        reachable = torch.zeros_like(is_changed).flatten()
        reachable[layer.reachable([0, 2])] = True
        assert torch.equal(is_changed.flatten(), reachable), layer.name


def test_fresh_weights_follow_the_seed_and_have_the_spread_that_mace_torch_gives(base):
    first, again, other = (adapted(base, "scratch", seed).backbone.parameters for seed in (5, 5, 6))
    fresh = parameters(tiny_mace(seed=7))
    for name, w in base.backbone.parameters.items():
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name], w)
        if w.numel() >= 64:
            assert 0.7 < float(first[name].detach().std() / fresh[name].std()) < 1.4, name


def test_e0_of_a_fresh_model_are_refitted_to_it(base):
    train = as_source(structures(0))
    options = {"run": RunOptions(arm=("scratch",)), "fit": FitConfig(epochs=1)}
    batch = base.collate(structures(0))
    errors = {}
    for refit in (True, False):
        config = FitConfig(epochs=1, refit_e0=refit)
        model = adapt_as(base, train, {**options, "fit": config})
        errors[refit] = float((model(batch).energy.detach() - batch.labels["energy"].value).square().mean())
    assert errors[True] < errors[False]


def test_fresh_weights_of_a_module_that_is_not_known_are_refused(base):
    copied = load(tiny_mace())
    copied.base.stock.mystery = torch.nn.Bilinear(1, 1, 1)
    copied.base.parameters |= {"mystery.weight": copied.base.stock.mystery.weight}
    with pytest.raises(InputError, match=r"scratch: mystery.weight of the model belongs to a Bilinear, whose start"):
        copied.base.draw_anew(0)


def test_a_scope_that_a_model_has_not_is_named():
    base = load(tiny_mace())
    base.base.layers = tuple(layer for layer in base.base.layers if layer.scope != "contraction")
    with pytest.raises(InputError, match="scope: the model has no layer of scope contraction, expected some of linear"):
        adapt(base, ["lora"], (1, 6, 8), {"lora": LowRankOptions(lora_scope=("contraction",))})


def test_no_structures_and_replayed_ones_of_foreign_elements_are_named(base):
    with pytest.raises(InputError, match="data hold no structures, expected at least one"):
        fit(adapted(base, "mace"), [], structures(50), CONFIG)
    foreign = structures(60)
    foreign[0].atomic_numbers[0] = 26
    with pytest.raises(InputError, match="contains Fe, which the model does not know"):
        fit(adapted(base, "mace"), structures(0), structures(50), CONFIG, replay=foreign)
