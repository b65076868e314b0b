"""Laws of the comparison of labels with predictions: a wrong unit or sign is named, a right one never is."""

import dataclasses

import numpy as np
import pytest

from models import crystal, molecule, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, fit, load, sparsify
from pathtune.conventions import check_conventions, compare_labels, factor_of, least_correlation
from pathtune.data import Frames, collate, from_atoms

pytestmark = pytest.mark.usefixtures("needs_mace")


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def labelled_by(model, atoms, noise=0.3, outputs=("energy", "forces")):
    """Frames with the labels of another model of the same kind: the model's own, disturbed."""
    rng = np.random.default_rng(0)
    frames = [from_atoms(a) for a in atoms]
    for s in frames:
        p = model(collate([s], model.atomic_numbers, model.backbone.r_max, model.backbone.dtype), outputs=outputs)
        s.energy_ev = p.interaction_energy.item() * (1 + 0.1 * rng.normal()) + 7.0 * len(s)
        forces = p.forces.detach().numpy()
        s.forces = forces + noise * forces.std() * rng.normal(size=forces.shape)
        if "stress" in outputs:
            s.stress = p.stress[0].detach().numpy()
    return frames


def molecules(model, n=20):
    return labelled_by(model, [molecule(seed, n=5 + seed % 3) for seed in range(n)])


def crystals(model, n=20):
    atoms = [crystal(seed) for seed in range(n)]
    for i, a in enumerate(atoms):
        a.set_cell(a.cell * (1 + 0.01 * i), scale_atoms=True)
    return labelled_by(model, atoms, outputs=("energy", "forces", "stress"))


def times(frames, **factors):
    return [dataclasses.replace(s, labels={k: v * factors.get(k, 1.0) for k, v in s.labels.items()}) for s in frames]


def test_labels_that_are_right_raise_nothing_and_have_a_factor_near_one(base):
    for frames in (molecules(base), crystals(base)):
        source = Frames(frames)
        check_conventions(base, source)
        for found in compare_labels(base, source):
            assert 0.5 < found.factor < 2
            assert found.correlation > least_correlation(found.n_values)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"forces": 23.06}, "the forces are .* in kcal/mol/A"),
        ({"forces": 1 / 51.42}, "in hartree/bohr"),
        ({"forces": 1 / 25.71}, "in Ry/bohr"),
        ({"forces": -1.0}, "the forces are -.* of the opposite sign, expected eV/A"),
        ({"forces": 51.42}, "converted from hartree/bohr once too often"),
        ({"energy": 96.485}, "the energy is .* in kJ/mol"),
        ({"energy": 1 / 27.2114}, "in hartree"),
        ({"energy": 23.06, "forces": 23.06}, "in kcal/mol.*; the forces are .* in kcal/mol/A"),
    ],
)
def test_a_known_wrong_factor_is_named_before_training(base, factors, words):
    frames = times(molecules(base), **factors)
    before = base.e0.clone()
    with pytest.raises(InputError, match=f"{words}.*--no-check-units"):
        fit(sparsify(base, SparseDelta(), elements=[1, 6, 8]), frames, frames, FitConfig(epochs=1))
    assert before.equal(base.e0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda stress, volume: 160.2 * stress, "the stress is 160.* in GPa"),
        (lambda stress, volume: -1602.0 * stress, "of the opposite sign and in kbar"),
        (lambda stress, volume: -stress, "of the opposite sign"),
        (lambda stress, volume: volume * stress, "multiplied by the volume"),
        (lambda stress, volume: -volume * stress, "a virial, minus stress times volume"),
    ],
)
def test_a_stress_of_another_unit_sign_or_extent_is_named(base, change, words):
    frames = crystals(base)
    for s in frames:
        s.stress = change(s.stress, abs(np.linalg.det(s.cell)))
    with pytest.raises(InputError, match=words):
        check_conventions(base, Frames(frames))


def test_energies_per_atom_and_positions_in_bohr_are_named(base):
    frames = molecules(base)
    per_atom = [dataclasses.replace(s, labels=s.labels | {"energy": s.labels["energy"] / len(s)}) for s in frames]
    with pytest.raises(InputError, match="divided by the number of atoms"):
        check_conventions(base, Frames(per_atom))
    in_bohr = [dataclasses.replace(s, positions=s.positions / 0.529177) for s in frames]
    with pytest.raises(InputError, match=r"multiplied by 0\.5292, as if they were in bohr, expected A"):
        check_conventions(base, Frames(in_bohr))


def test_labels_that_do_not_correlate_are_never_judged(base):
    rng = np.random.default_rng(1)
    frames = molecules(base)
    for s in frames:
        s.forces = 23.06 * rng.normal(size=s.forces.shape)
        s.energy_ev = 96.5 * rng.normal()
    check_conventions(base, Frames(frames))


def test_a_model_that_fails_on_a_few_frames_is_not_taken_for_a_unit(base):
    frames = molecules(base)
    p = [s.forces for s in frames]
    largest = max(range(len(frames)), key=lambda i: float(np.abs(p[i]).mean()))
    for i, s in enumerate(frames):  # all in kcal/mol but for the frames with the largest forces
        s.forces = s.forces * (1.0 if i != largest else 1e3)
    check_conventions(base, Frames(frames))


def test_the_check_can_be_turned_off(base):
    frames = times(molecules(base, 4), forces=-1.0)
    model = sparsify(base, SparseDelta(), elements=[1, 6, 8])
    history = fit(model, frames, frames, FitConfig(epochs=1, check_units=False))
    assert len(history.epochs) == 1


def test_the_factor_is_that_of_least_squares_and_the_correlation_wanted_falls_with_the_number_of_values():
    x = np.array([1.0, 2.0, -1.0])
    assert factor_of(3 * x, x) == pytest.approx((3.0, 1.0))
    assert factor_of(x, 0 * x) == (0.0, 0.0)
    wanted = [least_correlation(n) for n in (2, 5, 50, 5000)]
    assert wanted[0] == np.inf
    assert wanted == sorted(wanted, reverse=True)
    assert wanted[-1] > 0.5
