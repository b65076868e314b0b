"""ASE with a spin layer: moments in, magforces and moments out, relaxed where that is asked."""

import numpy as np
import pytest
import torch

import spins
from models import tiny_mace
from pathtune import InputError, calculator, load

pytestmark = pytest.mark.usefixtures("needs_mace")


def atoms_with(model, moments=None, **options):
    atoms = spins.spin_crystal()
    own = atoms.arrays.pop("REF_magmom")
    atoms.set_initial_magnetic_moments(own if moments is None else moments)
    atoms.calc = calculator(model, **options)
    return atoms


def stable_model(dtype=torch.float64):
    """A layer whose energy has a minimum: -|m|^2 + |m|^4 on each atom, and some exchange."""
    model = spins.spin_model(base=load(tiny_mace(dtype)))
    with torch.no_grad():
        for p in spins.spin_of(model).parameters():
            p.zero_()
        spins.spin_of(model).energy.site_constants[:] = torch.tensor([-1.0, 1.0, 0.1])
        spins.spin_of(model).energy.pair_constants[:, 0] = 0.05
    return model


def test_it_gives_what_the_model_gives_for_the_initial_moments():
    model = spins.spin_model()
    atoms = atoms_with(model)
    p = spins.predict(model, spins.spin_crystal())
    assert atoms.get_potential_energy() == pytest.approx(p.energy.item(), rel=1e-14)
    assert atoms.calc.results["magforces"] == pytest.approx(p.of("magforces").detach().numpy(), rel=1e-12)
    assert np.array_equal(atoms.get_magnetic_moments(), atoms.get_initial_magnetic_moments())
    assert atoms.calc.get_property("magforces", atoms).shape == (5, 3)


def test_other_moments_are_computed_again_and_equal_ones_are_not():
    atoms = atoms_with(spins.spin_model())
    before = atoms.get_potential_energy()
    calls = []
    calculate = atoms.calc.calculate
    atoms.calc.calculate = lambda *a, **k: (calls.append(1), calculate(*a, **k))
    assert atoms.get_potential_energy() == before
    assert not calls
    atoms.set_initial_magnetic_moments(2 * atoms.get_initial_magnetic_moments())
    assert atoms.get_potential_energy() != before
    assert len(calls) == 1


def test_one_moment_for_each_atom_is_along_z_and_comes_back_so():
    model = spins.spin_model()
    along = np.linspace(-1, 1, 5)
    atoms = atoms_with(model, along)
    other = atoms_with(model, np.outer(along, [0, 0, 1.0]))
    assert atoms.get_potential_energy() == other.get_potential_energy()
    assert np.array_equal(atoms.get_magnetic_moments(), along)
    assert other.get_magnetic_moments().shape == (5, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_relaxed_moments_are_a_minimum(dtype):
    model = stable_model(dtype)
    atoms = atoms_with(model, relax_moments=True, moment_tolerance=1e-5)
    start = spins.predict(model, spins.spin_crystal()).energy.item()
    energy = atoms.get_potential_energy()
    assert energy < start - 0.1
    limit = 1e-5 if dtype == torch.float64 else 1e-4
    assert np.abs(atoms.calc.results["magforces"]).max() < limit
    found = atoms.get_magnetic_moments()
    listed = atoms.numbers != 1
    assert np.allclose(found[~listed], atoms.get_initial_magnetic_moments()[~listed], rtol=1e-6, atol=0)
    again = spins.spin_crystal()
    again.arrays["REF_magmom"] = found
    assert spins.predict(model, again).energy.item() == pytest.approx(energy, rel=1e-12)
    for seed in range(3):
        again.arrays["REF_magmom"] = found + 0.05 * np.random.default_rng(seed).normal(size=found.shape)
        assert spins.predict(model, again).energy.item() > energy - 1e-5


def test_what_cannot_be_computed_is_one_sentence():
    model = spins.spin_model()
    atoms = atoms_with(model)
    del atoms.arrays["initial_magmoms"]
    with pytest.raises(InputError, match="atoms: have no initial magnetic moments, expected them, since the spin"):
        atoms.get_potential_energy()
    with pytest.raises(InputError, match="initial_magmoms holds NaN or infinity, expected finite magmom in mu_B"):
        atoms_with(model, np.full((5, 3), np.nan)).get_potential_energy()
    with pytest.raises(InputError, match="relax_moments is asked of a model that reads no moments, expected one with"):
        calculator(load(tiny_mace()), relax_moments=True)
    with pytest.raises(InputError, match="moment_tolerance is 0, expected a number above 0, in eV/mu_B"):
        calculator(model, relax_moments=True, moment_tolerance=0)
    falling = stable_model()
    with torch.no_grad():
        spins.spin_of(falling).energy.site_constants[:] = torch.tensor([-1.0, -1.0, 0.0])
    with pytest.raises(InputError, match="a moment reaches 20 mu_B, expected a minimum of the energy below"):
        atoms_with(falling, relax_moments=True).get_potential_energy()
