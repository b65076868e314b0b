"""Training steps of the demo model with every CUDA kernel emulated: the CPU's losses."""

import ase.build
import numpy as np
import pytest
import schedulefree

import pathtune
from models import deltas_of
from pathtune.data import from_atoms
from pathtune.ops import _kernels
from pathtune.training.options import FitConfig, parameter_groups

N_STEPS = 3


def structures():
    """Water and ammonia out of their equilibrium, with made-up labels."""
    rng = np.random.default_rng(0)
    result = []
    for name in ("H2O", "NH3"):
        atoms = ase.build.molecule(name)
        atoms.rattle(0.1, seed=1)
        atoms.arrays["REF_forces"] = rng.normal(size=(len(atoms), 3))
        atoms.info["REF_energy"] = 0.0
        result.append(from_atoms(atoms))
    return result


@pytest.fixture(scope="module")
def base(needs_mace):
    """The demo model."""
    return pathtune.load("demo", dtype="float64", backend="cpu")


def sparse_model(base, start):
    """With candidates few enough that no linear layer forms its dense gradient."""
    if start == "identity":
        return pathtune.sparsify(base, pathtune.SparseDelta(initial_share=0.1), [1, 7, 8])
    config = pathtune.SparseDelta(delta_start="paper", threshold="per_path", initial_std=0.05, initial_threshold=0.03)
    drawn = pathtune.sparsify(base, pathtune.SparseDelta(initial_share=0.1), [1, 7, 8])
    return pathtune.sparsify(base, config, [1, 7, 8], candidates={d.layer.name: d.indices for d in deltas_of(drawn)})


def train(base, start):
    """The losses of a few steps, the last gradients, and what the model then predicts."""
    model = sparse_model(base, start)
    config = FitConfig(loss="weighted")
    assert all(d.is_sparse == d.is_covered for d in deltas_of(model))
    batch = model.collate(structures())
    losses = []
    (groups,) = parameter_groups(model, config, N_STEPS)
    optimizer = schedulefree.AdamWScheduleFree(groups)
    optimizer.train()
    for _ in range(N_STEPS):
        loss = config.loss_of(model(batch, training=True), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=model.trainable())
        optimizer.step()
        losses.append(loss.item())
    prediction = model(batch)
    gradients = [p.grad for p in model.trainable()]
    return losses, gradients, [prediction.energy.detach(), prediction.forces.detach()]


@pytest.mark.parametrize("start", ["identity", "paper"])
def test_sparse_training_steps_give_the_losses_of_the_cpu(start, base, forward_kernels, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(_kernels, "emulated", None)
        losses, gradients, prediction = train(base, start)
    assert forward_kernels.bytes_moved() == (0, 0)
    found_losses, found_gradients, found_prediction = train(base, start)
    assert min(forward_kernels.bytes_moved()) > 0
    assert len(set(losses)) == N_STEPS
    assert found_losses == pytest.approx(losses, rel=1e-5)
    for found, expected in zip([*found_gradients, *found_prediction], [*gradients, *prediction]):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert any(g.abs().max() > 0 for g in gradients)


def test_a_float32_model_reads_its_radial_tables_with_the_kernels(needs_mace, forward_kernels, monkeypatch):
    model = pathtune.load("demo", dtype="float32", backend="cpu")
    batch = model.collate(structures())
    with monkeypatch.context() as patch:
        patch.setattr(_kernels, "emulated", None)
        expected = model(batch)
    assert model.backbone._forward.tables.shortest_a > 0  # they were made
    forward_kernels.reset()
    found = model(batch)
    assert min(forward_kernels.bytes_moved()) > 0
    assert (found.interaction_energy - expected.interaction_energy).abs().max() <= 1e-5
    assert (found.forces - expected.forces).abs().max() <= 1e-5 * expected.forces.abs().max()
