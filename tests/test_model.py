"""Laws of an adapted potential, on a small random MACE in float64."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from models import ALL, crystal, delta_of, molecule, tiny_mace
from pathtune import InputError, SparseDelta, load, merge, paths, sparsify, unfreeze
from pathtune.data import collate, from_atoms

pytestmark = pytest.mark.usefixtures("needs_mace")
BACKENDS = ["reference", "cpu"]


@pytest.fixture(params=BACKENDS)
def adapted(request):
    """A model whose delta is large enough to matter."""
    base = load(tiny_mace(), backend=request.param)
    return sparsify(base, SparseDelta(delta_start="paper", initial_std=0.3, initial_threshold=0.1))


def predict(model, *atoms, stress=True, training=False):
    structures = [from_atoms(a) for a in atoms]
    batch = collate(structures, model.atomic_numbers, model.backbone.r_max, model.backbone.dtype)
    return model(batch, outputs=ALL if stress else None, training=training)


def test_the_delta_changes_the_model(adapted):
    base = load(tiny_mace())
    assert (predict(adapted, molecule()).forces - predict(base, molecule()).forces).abs().max() > 1e-3


@pytest.mark.parametrize("improper", [False, True])
def test_rotating_and_reflecting_the_structure_rotates_the_answer(adapted, improper):
    R = Rotation.from_rotvec([0.3, -1.2, 0.7]).as_matrix() * (-1 if improper else 1)
    atoms, turned = crystal(), crystal()
    turned.set_cell(atoms.cell.array @ R.T)
    turned.positions = atoms.positions @ R.T
    p, q, R = predict(adapted, atoms), predict(adapted, turned), torch.as_tensor(R)
    assert torch.allclose(p.energy, q.energy, rtol=0, atol=1e-10)
    assert torch.allclose(p.forces @ R.T, q.forces, rtol=0, atol=1e-10)
    assert torch.allclose(R @ p.stress[0] @ R.T, q.stress[0], rtol=0, atol=1e-10)


def test_translating_the_structure_changes_nothing(adapted):
    atoms, moved = crystal(), crystal()
    moved.positions += [0.4, -1.0, 2.2]
    p, q = predict(adapted, atoms), predict(adapted, moved)
    assert torch.allclose(p.energy, q.energy, rtol=0, atol=1e-10)
    assert torch.allclose(p.forces, q.forces, rtol=0, atol=1e-10)


def test_permuting_atoms_permutes_forces(adapted):
    order = np.random.default_rng(0).permutation(5)
    p, q = predict(adapted, crystal()), predict(adapted, crystal()[order])
    assert torch.allclose(p.energy, q.energy, rtol=0, atol=1e-10)
    assert torch.allclose(p.forces[order], q.forces, rtol=0, atol=1e-10)


def test_structures_of_a_batch_do_not_see_each_other(adapted):
    together = predict(adapted, crystal(0), molecule(1), molecule(2, n=1))
    apart = [predict(adapted, a) for a in (crystal(0), molecule(1), molecule(2, n=1))]
    assert torch.allclose(together.energy, torch.cat([p.energy for p in apart]), rtol=0, atol=1e-10)
    assert torch.allclose(together.forces, torch.cat([p.forces for p in apart]), rtol=0, atol=1e-10)


def test_forces_and_stress_are_derivatives_of_the_energy(adapted):
    atoms, h = crystal(), 1e-5
    p = predict(adapted, atoms)
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[2, 1] += sign * h
        energies.append(predict(adapted, moved).energy.item())
    assert -(energies[0] - energies[1]) / (2 * h) == pytest.approx(p.forces[2, 1].item(), abs=1e-7)
    strain = np.array([[0.0, 0.5, 0], [0.5, 1.0, 0], [0, 0, 0]])
    energies = []
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ (np.eye(3) + sign * h * strain), scale_atoms=True)
        energies.append(predict(adapted, strained).energy.item())
    expected = (p.stress[0].detach().numpy() * strain).sum() * atoms.get_volume()
    assert (energies[0] - energies[1]) / (2 * h) == pytest.approx(expected, abs=1e-7)


def test_the_gradient_of_a_force_loss_without_double_backward(adapted):
    """-d/de grad_theta E(x + e v), v = dL/dF, by central differences."""
    atoms, h = molecule(), 1e-4
    parameters = adapted.trainable()
    prediction = predict(adapted, atoms, stress=False, training=True)
    target = torch.randn_like(prediction.forces)
    found = torch.autograd.grad((prediction.forces * target).sum(), parameters, allow_unused=True)
    sides = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * h * target.numpy()
        energy = predict(adapted, moved, stress=False, training=True).interaction_energy.sum()
        sides.append(torch.autograd.grad(energy, parameters, allow_unused=True))
    for f, plus, minus in zip(found, *sides):
        if plus is not None:
            expected = -(plus - minus) / (2 * h)
            assert torch.allclose(f if f is not None else torch.zeros_like(plus), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "energy_tolerance", "force_tolerance"),
                         [(torch.float64, 1e-10, 1e-10), (torch.float32, 1e-6, 1e-5)])  # fmt: skip
@pytest.mark.parametrize("backend", BACKENDS)
def test_merged_equals_adapted(dtype, energy_tolerance, force_tolerance, backend):
    model = sparsify(load(tiny_mace(dtype), backend=backend), SparseDelta(delta_start="paper", initial_std=0.1))
    model.e0 += 0.25
    merged = load(merge(model), backend=backend)
    p, q = predict(model, crystal(), molecule()), predict(merged, crystal(), molecule())
    n_atoms = torch.tensor([5, 6])
    assert ((p.interaction_energy - q.interaction_energy) / n_atoms).abs().max() <= energy_tolerance
    assert (p.forces - q.forces).abs().max() <= force_tolerance
    assert torch.allclose(p.energy, q.energy, rtol=0, atol=1e-5)


def test_a_merged_model_is_stock_and_agrees_when_called_as_stock():
    from mace.calculators import MACECalculator

    model = sparsify(load(tiny_mace()), SparseDelta(delta_start="paper", initial_std=0.1))
    merged = merge(model)
    assert type(merged).__module__.startswith("mace.")
    atoms = crystal()
    atoms.calc = MACECalculator(models=merged, device="cpu", default_dtype="float64")
    p = predict(model, atoms)
    assert atoms.get_potential_energy() == pytest.approx(p.energy.item(), abs=1e-9)
    assert np.abs(atoms.get_forces() - p.forces.detach().numpy()).max() < 1e-9
    assert np.abs(atoms.get_stress(voigt=False) - p.stress[0].detach().numpy()).max() < 1e-9


def test_sparsify_and_unfreeze_leave_the_base_as_it_is():
    stock = tiny_mace()
    before = {k: v.clone() for k, v in stock.state_dict().items()}
    base = load(stock)
    held = {k: v.clone() for k, v in base.backbone.stock.state_dict().items()}
    for model in (sparsify(base), unfreeze(base, "full")):
        optimizer = torch.optim.SGD(model.trainable(), lr=1.0)
        predict(model, molecule(), training=True).forces.pow(2).sum().backward(inputs=model.trainable())
        optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in stock.state_dict().items())
    assert all(torch.equal(held[k], v) for k, v in base.backbone.stock.state_dict().items())
    assert all(p.requires_grad for p in stock.parameters() if p.numel() and p.is_floating_point())


def test_a_plain_mace_without_scale_and_shift_works():
    from mace import modules

    model = load(tiny_mace(cls=modules.MACE))
    p = predict(model, crystal())
    assert torch.isfinite(p.forces).all()
    assert p.e0_energy.item() != 0


def test_entries_of_other_elements_get_no_delta():
    model = sparsify(load(tiny_mace()), elements=[1, 8])
    skip = delta_of(model, "interactions.1.skip_tp")
    other = set(skip.layer.reachable([1]).tolist())
    assert not other & set(skip.indices.tolist())
    counts = model.counts()
    assert counts["reachable_weights"] < counts["adapted_weights"] < counts["all_weights"]
    linear = [row for row in paths(model, [1, 8]) if row.kind not in ("contraction", "radial")]
    assert sum(row.reachable for row in linear) == counts["reachable_weights"]


def test_the_same_seed_gives_the_same_delta():
    base = load(tiny_mace())
    a, b, c = (sparsify(base, SparseDelta(initial_share=0.25), seed=seed) for seed in (1, 1, 2))
    first = [delta_of(m, "interactions.1.skip_tp").indices for m in (a, b, c)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


@pytest.mark.parametrize(("call", "words"), [
    (lambda m: sparsify(m, SparseDelta(targets=("nothing*",))), "nothing.*interactions.0.linear_up"),
    (lambda m: sparsify(m, elements=[1, 92]), "92"),
    (lambda m: sparsify(sparsify(m)), "already carries"),
    (lambda m: unfreeze(m, "everything"), "everything"),
])  # fmt: skip
def test_wrong_requests_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call(load(tiny_mace()))
