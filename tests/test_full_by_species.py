"""Laws of full fine-tuning on data that lack some of the model's elements: theirs alone get gradients and memory."""

import pytest
import torch

from models import labelled, molecule, nonlinear, tiny_mace
from pathtune import FitConfig, adapt, fit, load, merge, paths
from pathtune.adaptations import Composition
from pathtune.adaptations.dense import Full
from pathtune.data import from_atoms
from pathtune.ops import SpeciesRows
from pathtune.training.folder import RunFolder
from stopping import killed_at

pytestmark = pytest.mark.usefixtures("needs_mace")
CONFIG = FitConfig(epochs=3, batch_size=2, lr=1e-2)
ELEMENTS = (1, 8)
KINDS = {"with species linears": dict, "with nonlinear blocks": nonlinear}


@pytest.fixture(scope="module", params=KINDS)
def base(request):
    return load(tiny_mace(**KINDS[request.param]()))


def hydroxides(seed, n=4):
    frames = [molecule(seed + i, n=4) for i in range(n)]
    for atoms in frames:
        atoms.numbers[atoms.numbers == 6] = 8
    return [from_atoms(atoms) for atoms in labelled(frames, seed)]


def with_carbon(n=2):
    return [from_atoms(atoms) for atoms in labelled([molecule(70 + i, n=4) for i in range(n)])]


def trained_whole(base):
    """The same arm, every weight of every element a leaf."""
    model = adapt(base, ["full"], ELEMENTS)
    return model.use(Composition([Full(base.backbone.copy())], base.base, ELEMENTS, base.e0))


def trained(model, **more):
    fit(model, hydroxides(0), hydroxides(50), CONFIG, **more)
    return {name: p.detach() for name, p in merge(model).named_parameters()}


def test_it_reaches_what_training_every_element_reaches_and_leaves_the_others_bitwise(base):
    model = adapt(base, ["full"], ELEMENTS)
    assert {name for name, w in model.adaptation.weights({}).items() if isinstance(w, SpeciesRows)}
    found, expected = trained(model), trained(trained_whole(base))
    for name, w in expected.items():
        assert torch.allclose(found[name], w, rtol=0, atol=1e-9), name
    for layer in base.backbone.layers:
        w, own = found[layer.parameter].flatten(), base.backbone.parameters[layer.parameter].flatten()
        assert not torch.equal(w, own), layer.parameter
        others = torch.ones(layer.numel, dtype=torch.bool)
        others[layer.reachable(base.species_of(ELEMENTS))] = False
        assert torch.equal(w[others], own[others]), layer.parameter


def test_gradients_are_those_of_the_whole_weights_at_the_elements_that_occur(base):
    model, whole = adapt(base, ["full"], ELEMENTS), trained_whole(base)
    batch = base.collate(hydroxides(5))
    gradients = []
    for m in (model, whole):
        p = m(batch, training=True)
        value = (p.forces**3).sum() + (p.interaction_energy**2).sum()
        gradients.append(torch.autograd.grad(value, m.trainable(), allow_unused=True))
    rows = model.adaptation.weights({})
    names = [name for name, _ in whole.backbone.stock.named_parameters()]
    for name, found, expected in zip(names, *gradients, strict=True):
        if expected is not None and name in rows:
            expected = expected.flatten()[rows[name].indices]
        assert (found is None) == (expected is None)
        assert found is None or torch.allclose(found, expected, rtol=1e-12, atol=1e-12), name


def test_a_structure_with_another_element_is_predicted_as_by_the_merged_model(base):
    model = adapt(base, ["full"], ELEMENTS)
    trained(model)
    batch = base.collate(with_carbon())
    merged = load(merge(model))
    assert torch.allclose(model(batch).forces, merged(batch).forces, rtol=0, atol=1e-12)
    assert {row.changed > 0 for row in paths(model, ELEMENTS) if row.reachable} == {True}
    trained_ones = sum(p.numel() for p in model.adaptation.trainable())
    assert model.counts()["active"] == trained_ones < sum(p.numel() for p in base.backbone.parameters.values())
    assert model.active_share() == 1


def test_a_run_that_was_stopped_goes_on_bitwise(base, tmp_path):
    expected = trained(adapt(base, ["full"], ELEMENTS))
    folder = RunFolder(tmp_path)
    with killed_at(3):
        trained(adapt(base, ["full"], ELEMENTS), folder=folder)
    found = trained(adapt(base, ["full"], ELEMENTS), folder=folder)
    assert all(torch.equal(found[name], w) for name, w in expected.items())


def test_replayed_structures_train_their_elements_too(base):
    model = adapt(base, ["full"], ELEMENTS)
    config = FitConfig(epochs=2, batch_size=2, lr=1e-2)
    fit(model, hydroxides(0), hydroxides(50), config, replay=with_carbon())
    whole = trained_whole(base)
    fit(whole, hydroxides(0), hydroxides(50), config, replay=with_carbon())
    found, expected = (dict(merge(m).named_parameters()) for m in (model, whole))
    carbon = base.species_of([6])
    for layer in base.backbone.layers:
        assert torch.allclose(found[layer.parameter], expected[layer.parameter], rtol=0, atol=1e-9), layer.parameter
        own = base.backbone.parameters[layer.parameter].flatten()
        its = layer.reachable(carbon)
        assert not torch.equal(found[layer.parameter].flatten()[its], own[its]), layer.parameter


def test_a_model_that_saw_more_species_keeps_what_it_had_learnt(base):
    model = adapt(base, ["full"], ELEMENTS)
    before = trained(model)
    model.adaptation.parts()[0].sees(base.species_of([1, 6]))
    after = {name: p.detach() for name, p in merge(model).named_parameters()}
    assert all(torch.equal(after[name], w) for name, w in before.items())
    assert len(model.trainable()) == len(list(base.backbone.stock.parameters()))
