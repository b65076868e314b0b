"""The law of a backbone's own forward: it is its plain one, through the gradients of a loss on forces and stress."""

import dataclasses

import ase
import ase.build
import torch

from models import ALL, crystal, molecule
from pathtune import SparseDelta, sparsify, unfreeze
from pathtune.data import collate, from_atoms
from pathtune.layers import select_layers

START = SparseDelta(delta_start="paper", initial_std=0.1)


def batch_of(model, *atoms):
    """A batch of frames without labels."""
    structures = [from_atoms(a) for a in atoms]
    return collate(structures, model.atomic_numbers, model.backbone.r_max, model.backbone.dtype)


def force_loss_gradients(model, batch):
    """Gradients of a loss on energies, forces and stress to all that is trained."""
    p = model(batch, outputs=ALL, training=True)
    value = (p.interaction_energy**2).sum() + (p.forces**3).sum() + (p.stress**2).sum()
    return torch.autograd.grad(value, model.trainable(), allow_unused=True, materialize_grads=True)


def few_of(model, share):
    """A random share of each layer's reachable weights, so few that no dense gradient is formed."""
    result = {}
    for layer in select_layers(model.backbone.layers):
        reachable = layer.reachable(range(len(model.atomic_numbers)))
        chosen = torch.randperm(reachable.numel())[: max(1, int(share * reachable.numel()))]
        result[layer.name] = reachable[chosen].sort().values
    return result


def assert_forwards_agree(reference, ours, batch):
    """Energies to 1e-12, forces and stress to 1e-11, gradients to 1e-10 for all weights, a sparse delta, one of the
    radial networks, and one of few candidates."""
    p, q = reference(batch, outputs=ALL), ours(batch, outputs=ALL)
    assert p.forces.abs().max() > 1e-3
    assert torch.allclose(p.interaction_energy, q.interaction_energy, rtol=1e-12, atol=1e-12)
    assert torch.allclose(p.forces, q.forces, rtol=1e-11, atol=1e-11)
    assert torch.allclose(p.stress, q.stress, rtol=1e-11, atol=1e-11)
    few = few_of(ours, 0.1)
    for arm in (lambda m: unfreeze(m, "full"), lambda m: sparsify(m, START),
                lambda m: sparsify(m, dataclasses.replace(START, scope=("radial",))),
                lambda m: sparsify(m, START, candidates=few)):  # fmt: skip
        expected, found = (force_loss_gradients(arm(m), batch) for m in (reference, ours))
        assert any(g.abs().max() > 0 for g in expected)
        for a, b in zip(expected, found):
            assert (a - b).abs().max() <= 1e-10 * max(a.abs().max().item(), 1e-3)


def assert_published_weights_agree(reference, ours):
    """A crystal of several elements and a molecule in one batch, in float32."""
    copper = ase.build.bulk("Cu", "fcc", a=3.6, cubic=True)
    copper.rattle(0.1, seed=0)
    copper.numbers[:2] = 79, 8
    batch = batch_of(ours, copper, ase.build.molecule("CH3CH2OH"))
    p, q = reference(batch, outputs=ALL), ours(batch, outputs=ALL)
    assert ((p.interaction_energy - q.interaction_energy) / batch.n_atoms).abs().max() <= 1e-6
    assert (p.forces - q.forces).abs().max() <= 1e-5
    assert (p.stress - q.stress).abs().max() <= 1e-6


def assert_no_edges_and_no_structures_work(reference, ours):
    """Atoms out of reach have no forces, and a batch may be empty."""
    far = ase.Atoms("HO", positions=[[0, 0, 0], [50, 0, 0]])
    p, q = (m(batch_of(m, far), outputs=ALL) for m in (reference, ours))
    assert q.forces.abs().max() == 0
    assert torch.allclose(p.interaction_energy, q.interaction_energy, rtol=0, atol=1e-12)
    assert ours(batch_of(ours)).interaction_energy.shape == (0,)


def assert_a_step_repeats(model):
    """Gradients are the same to the last bit, run after run."""
    batch = batch_of(model, crystal(), molecule(3))
    runs = [force_loss_gradients(model, batch) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))
