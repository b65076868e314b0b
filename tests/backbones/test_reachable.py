"""Reachable is what the gradient of a loss on such data can change: species, heads, agnostic products."""

import functools

import numpy as np
import pytest
import torch

from models import ALL, crystal, labelled, molecule, nonlinear, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, evaluate, fit, load, merge, paths, refit_e0, sparsify, unfreeze
from pathtune.data import as_source, from_atoms, heads_of
from pathtune.layers import select_layers

pytestmark = [
    pytest.mark.usefixtures("needs_mace"),
    pytest.mark.filterwarnings("ignore:pathtune. the cpu backend does not cover"),
]
TWO_HEADS = {"heads": ["a", "b"], "atomic_energies": np.arange(6.0).reshape(2, 3), "atomic_inter_scale": [1.3, 0.7],
             "atomic_inter_shift": [0.1, -0.2]}  # fmt: skip
SCOPES = ("linear", "contraction", "radial")


def readout(name):
    from mace import modules

    return getattr(modules, name)


MODELS = {
    "one head": dict,
    "two heads": lambda: dict(TWO_HEADS),
    "two heads, readout with biases": lambda: {**TWO_HEADS, "readout_cls": readout("NonLinearBiasReadoutBlock")},
    "nonlinear blocks": nonlinear,
    "nonlinear blocks, two heads": lambda: nonlinear(**TWO_HEADS),
}


def changed_by_data(model, frames):
    """Which weights of each layer a loss on these frames has a gradient at."""
    full = unfreeze(model, "full")
    batch = full.collate([from_atoms(a) for a in frames])
    p = full(batch, outputs=ALL, training=True)
    value = (p.interaction_energy**2).sum() + (p.forces**3).sum()
    layers = select_layers(full.backbone.layers, scope=SCOPES)
    weights = [full.backbone.parameters[layer.parameter] for layer in layers]
    gradients = torch.autograd.grad(value, weights, allow_unused=True)
    return {layer.name: torch.zeros(layer.numel) if g is None else g.flatten() for layer, g in zip(layers, gradients)}


@functools.cache
def model_of(kind):
    """Made once for all tests: nothing here changes it."""
    return load(tiny_mace(max_ell=1, radial_MLP=[6], **MODELS[kind]()))


@pytest.mark.parametrize(("kind", "heads"), [
    ("one head", "a"), ("nonlinear blocks", "a"), ("two heads", "a"), ("two heads", "ab"),
    ("two heads, readout with biases", "b"), ("nonlinear blocks, two heads", "b"),
])  # fmt: skip
def test_exactly_the_reachable_weights_have_a_gradient(kind, heads):
    model = model_of(kind)
    named = heads if len(model.backbone.heads) == 2 else (None,)
    frames = []
    for head in named:
        for atoms in (crystal(1), molecule(2)):
            atoms.numbers[atoms.numbers == 8] = 6  # no oxygen
            frames.append(atoms)
            if head:
                atoms.info["head"] = head
    species = model.species_of([1, 6])
    indices = [model.head_index(head, "here") for head in named]
    for name, gradient in changed_by_data(model, frames).items():
        layer = next(layer for layer in model.backbone.layers if layer.name == name)
        expected = torch.zeros(layer.numel, dtype=torch.bool)
        expected[layer.reachable(species, indices)] = True
        changed = gradient != 0
        assert not bool((changed & ~expected).any()), f"{name} changes beyond what counts as reachable"
        if layer.scope == "linear":  # a contraction of zero couplings and a radial row may have none
            assert bool((changed == expected).all()), f"{name} has reachable weights without a gradient"


def test_embeddings_of_the_species_are_reachable_for_those_of_the_data_only():
    model = model_of("nonlinear blocks")
    rows = {row.module: row for row in paths(model, [1, 6])}
    for name in ("node_embedding.linear", "interactions.1.source_embedding", "interactions.1.target_embedding"):
        assert rows[name].reachable * 3 == rows[name].weights * 2, name


def test_scope_contraction_has_the_agnostic_products_with_all_of_their_weights_reachable():
    model = model_of("nonlinear blocks")
    mine = select_layers(model.backbone.layers, scope=("contraction",))
    n = sum(p.numel() for name, p in model.backbone.parameters.items() if ".symmetric_contractions." in name)
    assert sum(layer.numel for layer in mine) == n > 0
    assert sum(layer.reachable([0]).numel() for layer in mine) == n


def test_a_single_species_is_not_taken_for_an_agnostic_product():
    stock = tiny_mace(num_elements=1, atomic_numbers=[6], atomic_energies=np.array([-1.0]))
    layers = select_layers(load(stock).backbone.layers, scope=("contraction",))
    assert {path.species_axis for layer in layers for path in layer.paths} == {0}


def test_a_fit_changes_the_readouts_of_the_heads_that_the_data_name_and_no_others():
    stock = model_of("two heads").backbone.stock
    frames = labelled([molecule(k) for k in range(6)])
    for head in ("b", None):
        for k, atoms in enumerate(frames):
            atoms.info["head"] = head or "ab"[k % 2]
        source = as_source(frames)
        assert heads_of(source) == (("b",) if head else ("a", "b"))
        base = load(stock, head="b")
        model = sparsify(base, SparseDelta(active_share=1.0), base.atomic_numbers, heads=heads_of(source))
        fit(model, frames[:4], frames[4:], FitConfig(epochs=1, batch_size=2, check_units=False))
        before, after = stock.state_dict(), merge(model).state_dict()
        for name in ("readouts.0.linear.weight", "readouts.1.linear_1.weight", "readouts.1.linear_2.weight"):
            columns = (before[name] != after[name]).reshape(-1, 2, 4 if "_1" in name else 1)
            assert bool(columns[:, 1].any()), name
            assert bool(columns[:, 0].any()) is (head is None), name


def test_energies_of_other_heads_do_not_move_e0():
    frames = labelled([molecule(k) for k in range(8)])
    for k, atoms in enumerate(frames):
        atoms.info["head"] = "ab"[k % 2]
        atoms.info["REF_energy"] += 100.0 * (k % 2)
    model = load(model_of("two heads").backbone.stock, head="a")
    assert torch.equal(refit_e0(model, frames)[0].e0, refit_e0(model, frames[0::2])[0].e0)


def test_a_head_that_the_model_lacks_is_named_and_a_model_without_heads_takes_any():
    atoms = labelled([molecule(0)])[0]
    atoms.info["head"] = "c"
    with pytest.raises(InputError, match="head is 'c', expected one of a, b"):
        evaluate(model_of("two heads"), [atoms])
    with pytest.raises(InputError, match="heads: head is 'c', expected one of a, b"):
        sparsify(model_of("two heads"), heads=["c"])
    assert evaluate(model_of("one head"), [atoms])["n_structures"] == 1


def test_a_batch_of_mixed_heads_leaves_the_atomic_energies_of_the_base():
    model = load(model_of("two heads").backbone.stock, head="a")
    before = model.backbone.atomic_energies().clone()
    structures = [from_atoms(molecule(1)), from_atoms(molecule(2))]
    structures[0].head, structures[1].head = "a", "b"
    other = model.with_e0(model.e0 + 9)
    assert other(other.collate(structures)).e0_energy.shape == (2,)
    assert torch.equal(model.backbone.atomic_energies(), before)
