"""Laws of a spin layer on a small random MACE in float64; docs/magnetism.md."""

import warnings

import ase
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from models import crystal, molecule, tiny_mace
from pathtune import InputError, SparseDelta, adapt, load, unfreeze
from pathtune.adaptations.spin.graph import radial
from pathtune.data import as_source, from_atoms

pytestmark = pytest.mark.usefixtures("needs_mace")
TURN = Rotation.from_rotvec([0.3, -1.2, 0.7]).as_matrix()
EXACT = {"rtol": 0, "atol": 1e-11}


@pytest.fixture(scope="module", params=["pair", "many-body"])
def model(request, needs_mace):
    import spins

    return spins.spin_model(request.param)


@pytest.fixture(scope="module")
def base(needs_mace):
    return load(tiny_mace())


def predict(model, *atoms, **options):
    import spins

    return spins.predict(model, *atoms, **options)


def atoms_of(seed=0):
    import spins

    return spins.spin_crystal(seed)


def same(p, q):
    """Whether two predictions are equal to the last bit."""
    return all(torch.equal(p.of(name), q.of(name)) for name in p.outputs)


def test_moments_change_energy_forces_and_stress(model, base):
    p, plain = predict(model, atoms_of()), predict(base, atoms_of(), names=("energy", "forces", "stress"))
    for name in plain.outputs:
        assert (p.of(name) - plain.of(name)).abs().max() > 1e-4


def test_time_reversal_keeps_the_energy_and_turns_magforces(model):
    atoms, other = atoms_of(), atoms_of()
    other.arrays["REF_magmom"] *= -1
    p, q = predict(model, atoms), predict(model, other)
    assert torch.equal(p.energy, q.energy)
    assert torch.equal(p.forces, q.forces)
    assert torch.equal(p.of("magforces"), -q.of("magforces"))
    assert p.of("magforces").abs().max() > 1e-2


@pytest.mark.parametrize("spin", [np.eye(3), TURN, -TURN], ids=["not turned", "turned", "turned and reflected"])
@pytest.mark.parametrize("space", [np.eye(3), TURN, -np.eye(3)], ids=["not turned", "turned", "inverted"])
def test_space_and_spins_turn_apart(model, space, spin):
    atoms, turned = atoms_of(), atoms_of()
    turned.set_cell(atoms.cell.array @ space.T)
    turned.positions = atoms.positions @ space.T
    turned.arrays["REF_magmom"] = atoms.arrays["REF_magmom"] @ spin.T
    p, q, R = predict(model, atoms), predict(model, turned), torch.as_tensor(space)
    assert torch.allclose(p.energy, q.energy, **EXACT)
    assert torch.allclose(p.forces @ R.T, q.forces, **EXACT)
    assert torch.allclose(R @ p.stress[0] @ R.T, q.stress[0], **EXACT)
    assert torch.allclose(p.of("magforces") @ torch.as_tensor(spin).T, q.of("magforces"), **EXACT)


def test_no_torque_acts_on_all_spins_together(model):
    atoms = atoms_of()
    torques = torch.linalg.cross(torch.as_tensor(atoms.arrays["REF_magmom"]), predict(model, atoms).of("magforces"))
    assert torques.abs().max() > 1e-2
    assert torques.sum(0).abs().max() < 1e-11


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("order", ["pair", "many-body"])
def test_without_moments_it_is_the_plain_model_to_the_last_bit(order, dtype):
    import spins

    base = load(tiny_mace(dtype))
    model = spins.spin_model(order, base=base)
    frames = [crystal(0), molecule(1), molecule(2, n=1)]
    plain = predict(base, *frames, names=("energy", "forces", "stress"))
    for atoms in frames:
        atoms.arrays["REF_magmom"] = np.zeros((len(atoms), 3))
    found = predict(model, *frames)
    assert all(torch.equal(found.of(name), plain.of(name)) for name in plain.outputs)
    assert found.of("magforces").abs().max() == 0


@pytest.mark.parametrize("order", ["pair", "many-body"])
def test_before_it_starts_it_is_the_plain_model_at_every_moment(base, order):
    import dataclasses

    import spins

    model = adapt(base, ["spin"], (1, 6, 8), {"spin": dataclasses.replace(spins.LAYER, spin_order=order)})
    found, plain = predict(model, atoms_of()), predict(base, atoms_of(), names=("energy", "forces", "stress"))
    assert all(torch.equal(found.of(name), plain.of(name)) for name in plain.outputs)
    assert found.of("magforces").abs().max() == 0


def moved(atoms, array, i, axis, step):
    """A copy with one number of an array moved."""
    other = atoms.copy()
    other.arrays[array][i, axis] += step
    return other


def strained(atoms, strain):
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return other


def test_forces_stress_and_magforces_are_derivatives_of_the_energy(model):
    atoms, h = atoms_of(), 1e-5
    p = predict(model, atoms)

    def slope(change):
        one, other = (predict(model, change(sign * h)).energy.item() for sign in (1, -1))
        return (one - other) / (2 * h)

    for i, axis in ((0, 2), (2, 1), (4, 0)):
        for array, name in (("positions", "forces"), ("REF_magmom", "magforces")):
            found = slope(lambda step: moved(atoms, array, i, axis, step))  # noqa: B023
            assert -found == pytest.approx(p.of(name)[i, axis].item(), abs=1e-7)
    strain = np.array([[0.0, 0.5, 0], [0.5, 1.0, 0], [0, 0, 0]])
    expected = (p.stress[0].detach().numpy() * strain).sum() * atoms.get_volume()
    assert slope(lambda step: strained(atoms, step * strain)) == pytest.approx(expected, abs=1e-6)


def test_a_loss_on_magforces_and_forces_has_the_right_gradient(model):
    """Finite differences in the parameters: the second derivatives that training needs."""
    import spins

    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model.trainable()]

    def loss():
        p = predict(model, atoms_of(), training=True)
        return p.of("magforces").square().sum() + p.forces.square().sum()

    gradients = torch.autograd.grad(loss(), model.trainable())
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, directions))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(model.trainable(), directions):
                p.add_(d, alpha=sign * 1e-6)
        values.append(loss().item())
        with torch.no_grad():
            for p, d in zip(model.trainable(), directions):
                p.sub_(d, alpha=sign * 1e-6)
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected, rel=1e-5)
    assert spins.spin_of(model).energy.pair_constants.grad is None


def test_mixed_second_derivatives_are_symmetric(model):
    """dF/dm = dT/dr, by differences of both."""
    atoms, h = atoms_of(), 1e-5

    def difference(array, i, axis, name):
        one, other = (predict(model, moved(atoms, array, i, axis, sign * h)).of(name) for sign in (1, -1))
        return (one - other) / (2 * h)

    spinning = [i for i, z in enumerate(atoms.numbers) if z != 1]
    i, j = spinning[0], spinning[-1]
    one = difference("REF_magmom", i, 0, "forces")[j, 1]
    other = difference("positions", j, 1, "magforces")[i, 0]
    assert one.item() == pytest.approx(other.item(), abs=1e-7)
    assert abs(one.item()) > 1e-6


def test_energy_forces_and_magforces_are_smooth_at_the_cutoff(model):
    def at(distance):
        atoms = ase.Atoms("CO", positions=[[0, 0, 0], [distance, 0.0, 0.0]])
        atoms.arrays["REF_magmom"] = np.array([[0.0, 0.3, 1.0], [0.0, 1.0, 0.5]])
        return predict(model, atoms, names=("energy", "forces", "magforces"))

    before, after = at(3.0 - 1e-4), at(3.0 + 1e-4)
    between = at(3.0)
    for name in ("energy", "forces", "magforces"):
        curvature = before.of(name) - 2 * between.of(name) + after.of(name)
        assert curvature.abs().max() < 1e-6
    x = torch.linspace(2.0, 3.0, 11, dtype=torch.float64).requires_grad_()
    values = radial(x, 3.0, 4)
    (first,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert values[-1].abs().max() == 0
    assert max(abs(first[-1].item()), abs(second[-1].item())) < 1e-11


def test_the_energy_is_smooth_where_a_moment_vanishes(model):
    """Along a line through m_i = 0: magforces have no kink."""
    i = int(np.flatnonzero(atoms_of().numbers != 1)[0])

    def at(length):
        atoms = atoms_of()
        atoms.arrays["REF_magmom"][i] = np.array([0.6, 0.0, 0.8]) * length
        return predict(model, atoms).of("magforces")

    step = 1e-4
    assert torch.isfinite(at(0.0)).all()
    assert (at(step) - 2 * at(0.0) + at(-step)).abs().max() < 1e-6


def test_permuting_atoms_permutes_magforces_and_structures_do_not_see_each_other(model):
    atoms = atoms_of()
    order = np.random.default_rng(0).permutation(len(atoms))
    p, q = predict(model, atoms), predict(model, atoms[order])
    assert torch.allclose(p.energy, q.energy, **EXACT)
    assert torch.allclose(p.of("magforces")[order], q.of("magforces"), **EXACT)
    both = predict(model, atoms_of(3), atoms)
    assert torch.allclose(both.energy[1:], p.energy, **EXACT)
    assert torch.allclose(both.of("magforces")[-len(atoms) :], p.of("magforces"), **EXACT)


def test_a_supercell_has_twice_the_energy(model):
    atoms = atoms_of()
    one, two = (predict(model, a).energy.item() for a in (atoms, atoms.repeat((1, 1, 2))))
    assert two == pytest.approx(2 * one)


def test_a_moment_on_an_element_that_is_not_listed_counts_nothing(model):
    atoms = ase.Atoms("CHO", positions=[[0, 0, 0], [1.1, 0, 0], [0, 1.3, 0.4]])
    atoms.arrays["REF_magmom"] = np.eye(3)
    p = predict(model, atoms, names=("energy", "forces", "magforces"))
    atoms.arrays["REF_magmom"][1] *= 5.0
    assert same(p, predict(model, atoms, names=("energy", "forces", "magforces")))
    assert p.of("magforces")[1].abs().max() == 0


def test_edges_with_rows_of_their_own_give_the_same_energy():
    """A MACE whose radial functions tell an edge from its reverse has a row for each of them."""
    import spins

    one, other = load(tiny_mace()), load(tiny_mace())
    other.backbone._forward.by_pair = False
    other.backbone._forward.tables = None
    for order in ("pair", "many-body"):
        p, q = (predict(spins.spin_model(order, base=b), atoms_of()) for b in (one, other))
        for name in spins.NAMES:
            assert torch.allclose(p.of(name), q.of(name), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kinds", [("sparse", "spin"), ("full", "spin"), ("spin", "sparse")], ids="+".join)
def test_it_composes_with_every_arm(base, kinds):
    import spins

    model = spins.spin_model(kinds=kinds, base=base, delta=SparseDelta(active_share=0.2))
    alone = spins.spin_model(base=base)
    assert same(predict(model, atoms_of()), predict(alone, atoms_of()))
    p = predict(model, atoms_of(), training=True)
    loss = p.of("magforces").square().sum() + p.forces.square().sum()
    gradients = torch.autograd.grad(loss, model.trainable())
    assert all(torch.isfinite(g).all() for g in gradients)
    assert "magforces" in model.outputs


@pytest.mark.parametrize(("change", "words"), [
    (lambda a: a.arrays.pop("REF_magmom"),
     r"frame 0: has magforces but no magmom \(REF_magmom\), expected it, since an adaptation of kind 'spin' reads it"),
    (lambda a: [a.arrays.pop("REF_magmom"), a.arrays.pop("REF_magforces")],
     r"frame 0: has no magmom \(REF_magmom\), expected it, since"),
    (lambda a: a.set_array("REF_magmom", np.full((5, 3), np.nan)),
     "REF_magmom holds NaN or infinity, expected finite magmom in mu_B"),
    (lambda a: [a.arrays.pop("REF_magmom"), a.set_array("REF_magmom", np.zeros((5, 2)))],
     r"REF_magmom has shape \(5, 2\), expected \(5, 3\)"),
    (lambda a: a.set_array("REF_magmom", np.full((5, 3), 30.0)), "REF_magmom reaches 30 mu_B, expected at most 20"),
    (lambda a: a.set_array("REF_magforces", np.full((5, 3), np.inf)), "REF_magforces holds NaN or infinity"),
])  # fmt: skip
def test_wrong_or_missing_moments_are_one_sentence(base, change, words):
    import spins

    model, atoms = spins.spin_model(base=base), spins.spin_frames(1)[0]
    change(atoms)
    with pytest.raises(InputError, match=words) as error:
        model.batch(as_source([atoms]), [0])
    assert str(error.value).count("expected") == 1


def test_one_number_for_each_atom_is_a_moment_along_z(model):
    atoms = atoms_of()
    along = np.random.default_rng(0).normal(size=len(atoms))
    atoms.arrays["REF_magmom"] = np.stack([0 * along, 0 * along, along], axis=1)
    p = predict(model, atoms)
    del atoms.arrays["REF_magmom"]
    atoms.arrays["REF_magmom"] = along
    assert same(p, predict(model, atoms))
    structure = from_atoms(atoms)
    structure.labels["magmom"] = along
    assert as_source([structure]).read(0).labels["magmom"].shape == (len(atoms), 3)


def test_plain_models_do_not_notice_moments_and_magforces_in_the_data(base):
    import spins

    frames = spins.spin_frames(2)
    model = unfreeze(base, "readout")
    batch = model.batch(as_source(frames), [0, 1])
    assert set(batch.labels) == {"energy", "forces", "stress"}
    assert "magforces" not in base.outputs
    assert base.inputs == ()
    from pathtune import FitConfig, fit

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(model, frames, frames, FitConfig(epochs=1))
    assert set(history.epochs[0]["valid_parts"]) == {"energy", "forces"}
    with pytest.raises(InputError, match="output 'magforces' is asked of a ScaleShiftMACE, expected some of energy"):
        base(batch, outputs=["magforces"])
