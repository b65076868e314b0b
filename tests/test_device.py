"""That nothing of a model stays on the CPU when it is elsewhere, tried on torch's meta device: shapes without data."""

import numpy as np
import pytest
import torch
from ase.build import molecule

from pathtune import InputError, SparseDelta, load, sparsify, unfreeze
from pathtune.backbones import _geometry
from pathtune.data import from_atoms
from pathtune.losses import loss
from pathtune.ops import SparseWeights, _operator


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
    model = sparsify(demo, SparseDelta(active_share=0.03), seed=0)
    batch = demo.collate([labelled("CH4"), labelled("NH3")])
    weights = {}
    for delta in model.adapted():
        base = demo.backbone.parameters[delta.layer.parameter].to("meta")
        if delta.target.candidates is None:
            weights[delta.layer.parameter] = base
        else:
            values = delta.values.detach().to("meta").requires_grad_()
            weights[delta.layer.parameter] = SparseWeights(base.flatten(), values, delta.target.candidates)
    assert any(isinstance(w, SparseWeights) for w in weights.values())
    on_meta(demo)
    prediction = demo.predict(weights, batch.to("meta"), needs_stress=False, training=True)
    assert prediction.forces.device.type == "meta"


def test_indices_are_made_on_the_host_and_moved(demo):
    batch = demo.collate([labelled("CH4")])
    edges, moved = (_geometry.edges_of(b, True) for b in (batch, batch.to("meta")))
    assert moved.graph.sender.device.type == moved.vectors.device.type == moved.sign.device.type == "meta"
    assert moved.graph.sender.shape == edges.graph.sender.shape
    groups = _geometry.species_groups(batch.to("meta"), len(demo.atomic_numbers))
    assert groups.order.device.type == "meta"
    assert groups.species == tuple(sorted({demo.atomic_numbers.index(z) for z in (1, 6)}))


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
