"""That nothing of a model stays on the CPU when it is elsewhere, tried on torch's meta device: shapes without data."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from models import deltas_of
from pathtune import InputError, SparseDelta, load, sparsify, unfreeze
from pathtune.backbones import _geometry
from pathtune.data import Request, from_atoms
from pathtune.losses import loss
from pathtune.ops import SparseWeights, _core, _operator, group_by_species, species_linear
from pathtune.tables.species_linear import species_linear_table


def labelled(name):
    structure = from_atoms(molecule(name), where=name)
    structure.energy_ev, structure.forces = 0.0, np.zeros((len(structure), 3))
    return structure


@pytest.fixture
def demo(needs_mace):
    return load("demo")


@pytest.fixture
def meta(monkeypatch):
    """The operators' registered forms, whose fakes serve meta tensors: kernels have no data there."""
    monkeypatch.setattr(_operator, "_is_traced", lambda: True)


def on_meta(model):
    # As a move to CUDA does by itself, a move to meta is to keep the Parameters the same objects.
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.backbone.stock.to("meta")
        return model.to("meta")
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.parametrize("arm", ["full", "readout"])
def test_a_training_step_leaves_nothing_on_the_cpu(arm, demo, meta):
    model = on_meta(unfreeze(demo, arm))
    batch = model.collate([labelled("CH4"), labelled("NH3")])
    assert batch.positions.device.type == "meta"
    value = loss(model(batch, training=True), batch)
    parameters = model.trainable()
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    assert {g.device.type for g in gradients if g is not None} == {"meta"}
    assert any(g is not None for g in gradients)


def test_sparse_weights_leave_nothing_on_the_cpu(demo, meta):
    """The operators with sparse weights; their delta node ends in a kernel and is not part of this."""
    model = sparsify(demo, SparseDelta(active_share=0.03, initial_share=0.1), seed=0)
    batch = demo.collate([labelled("CH4"), labelled("NH3")])
    weights = {}
    for delta in deltas_of(model):
        base = demo.backbone.parameters[delta.layer.parameter].to("meta")
        if delta.target.candidates is None:
            weights[delta.layer.parameter] = base
        else:
            values = delta.values.detach().to("meta").requires_grad_()
            weights[delta.layer.parameter] = SparseWeights(base.flatten(), values, delta.target.candidates)
    assert any(isinstance(w, SparseWeights) for w in weights.values())
    on_meta(demo)
    prediction = demo.predict(weights, batch.to("meta"), Request(training=True))
    assert prediction.forces.device.type == "meta"


def test_indices_are_made_on_the_host_and_moved(demo):
    batch = demo.collate([labelled("CH4")])
    edges, moved = (_geometry.edges_of(b, True) for b in (batch, batch.to("meta")))
    assert moved.graph.sender.device.type == moved.vectors.device.type == moved.index.sign.device.type == "meta"
    assert moved.graph.sender.shape == edges.graph.sender.shape
    assert {name: t.shape for name, t in vars(moved.index.ends).items()} == {
        name: t.shape for name, t in vars(edges.index.ends).items()
    }
    assert all(t.device.type == "meta" for t in vars(moved.index.ends).values())
    groups = _geometry.species_groups(batch.to("meta"), len(demo.atomic_numbers))
    assert groups.order.device.type == "meta"
    assert groups.species == tuple(sorted({demo.atomic_numbers.index(z) for z in (1, 6)}))


def test_what_tables_ask_of_a_batch_is_read_on_the_host(demo):
    batch = demo.collate([labelled("CH4"), labelled("NH3")])
    n_species, moved = len(demo.atomic_numbers), batch.to("meta")
    edges, elsewhere = (_geometry.edges_of(b, True) for b in (batch, moved))
    key, pairs = _geometry.pairs_of_species(moved, elsewhere.index, n_species)
    assert key.device.type == "meta"
    assert pairs == _geometry.pairs_of_species(batch, edges.index, n_species)[1]
    lengths = edges.vectors.norm(dim=1)
    assert _geometry.shortest_edge(moved, lengths.to("meta")) == pytest.approx(_geometry.shortest_edge(batch, lengths))


def test_radial_tables_leave_nothing_on_the_cpu(demo, meta):
    """Tables of a model that has values, read by rows that have none."""
    forward = demo.backbone._forward
    batch = demo.collate([labelled("CH4"), labelled("NH3")]).to("meta")
    edges = _geometry.edges_of(batch, forward.by_pair)
    lengths = edges.vectors.norm(dim=1)
    frozen = {name: p.requires_grad_(False) for name, p in forward.parameters.items()}
    tabled = forward.tables.at(lengths, edges, batch, frozen)
    w = tabled("w0")
    (slope,) = torch.autograd.grad(w.sum(), edges.vectors)
    assert w.device.type == slope.device.type == "meta"
    assert w.shape == (lengths.numel(), forward.layers[0].conv.weight_numel)


@pytest.mark.parametrize(("device", "words"), [
    ("tpu", "device is 'tpu', expected cpu, cuda or cuda:N"),
    ("meta", "device is 'meta', expected cpu, cuda or cuda:N"),
])  # fmt: skip
def test_an_unknown_device_is_refused_by_name(device, words):
    with pytest.raises(InputError, match=words):
        load("demo", device=device)


def test_a_missing_cuda_device_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"device is 'cuda', but torch .* sees no usable CUDA device"):
        load("demo", device="cuda")


def test_the_cpu_backend_on_a_cuda_device_is_refused():
    with pytest.raises(InputError, match="device is 'cuda', but backend is 'cpu'"):
        load("demo", backend="cpu", device="cuda")


def test_a_build_says_why_it_has_no_device_and_imports_all_the_same():
    reason = _core.cuda_status()
    if not any(name.endswith("_f32") for name in dir(_core.cuda)):
        assert reason == "pathtune was built without CUDA"
    elif not torch.cuda.is_available():
        assert reason.startswith("no usable CUDA device: ")


def test_tensors_on_two_devices_are_refused_by_name():
    x, weights = torch.zeros(3, 4), torch.zeros(8, device="meta")
    groups = group_by_species(torch.zeros(3, dtype=torch.int64), 1)
    table = species_linear_table([(4, Scalar())], [(2, Scalar())], 1, [(0, 0, 1.0)])
    with pytest.raises(TypeError, match="species_linear: weights is on meta, but x is on cpu"):
        species_linear(x, weights, groups, table)


class Scalar:
    l, p = 0, 1
