"""Models that embed the charge and spin of a structure: inputs like any other, from files to the calculator."""

import functools

import pytest
import torch

from laws.forward import force_loss_gradients
from models import ALL, crystal, labelled, molecule, tiny_mace
from pathtune import (
    FitConfig,
    InputError,
    SparseDelta,
    calculator,
    evaluate,
    fit,
    load,
    merge,
    register_label,
    sparsify,  # fmt: skip
    unfreeze,
)
from pathtune.data import Label, LabelKeys, as_source, from_atoms, unregister_label

pytestmark = pytest.mark.usefixtures("needs_mace")
SPECS = {
    "total_charge": {"type": "categorical", "per": "graph", "num_classes": 11, "offset": 5, "emb_dim": 4},
    "total_spin": {"type": "categorical", "per": "graph", "num_classes": 5, "emb_dim": 4},
}


@functools.cache
def stock_of(readout=True):
    return tiny_mace(embedding_specs=SPECS, use_embedding_readout=readout)


def charged(atoms, charge, spin):
    atoms.info.update(total_charge=charge, total_spin=spin)
    return atoms


@pytest.mark.parametrize("readout", [True, False])
def test_energies_forces_and_gradients_equal_the_stock_models(readout):
    reference, ours = (load(stock_of(readout), backend=b, radial_tables=False) for b in ("reference", "cpu"))
    structures = [from_atoms(charged(crystal(), -1, 2)), from_atoms(charged(molecule(1), 2, 1))]
    batch = ours.collate(structures)
    p, q = reference(batch, outputs=ALL), ours(batch, outputs=ALL)
    assert torch.allclose(p.interaction_energy, q.interaction_energy, rtol=1e-12, atol=1e-12)
    assert torch.allclose(p.forces, q.forces, rtol=1e-11, atol=1e-11)
    for a, b in zip(*(force_loss_gradients(unfreeze(m, "full"), batch) for m in (reference, ours))):
        assert (a - b).abs().max() <= 1e-10 * max(a.abs().max().item(), 1e-3) if a.numel() else True


def test_our_total_energy_is_that_of_maces_calculator_for_every_charge():
    from mace.calculators import MACECalculator

    theirs = MACECalculator(models=[stock_of()], device="cpu", default_dtype="float64")
    ours, energies = calculator(load(stock_of())), []
    for charge, spin in ((0, 1), (1, 2), (-2, 3)):
        atoms = molecule(3)
        atoms.info.update(charge=charge, spin=spin)
        atoms.calc = theirs
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = ours
        assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-12)
        assert abs(atoms.get_forces() - forces).max() < 1e-12
        energies.append(energy)
    assert len(set(energies)) == 3


def test_files_a_fit_and_a_merge_keep_the_charges(tmp_path):
    import ase.io

    frames = labelled([charged(molecule(k), k % 3 - 1, 1 + k % 2) for k in range(6)])
    ase.io.write(tmp_path / "a.extxyz", frames)
    source = as_source(tmp_path / "a.extxyz")
    assert [float(s.labels["total_charge"]) for s in source] == [-1, 0, 1, -1, 0, 1]
    model = sparsify(load(stock_of()), SparseDelta(active_share=0.5))
    fit(model, source, source, FitConfig(epochs=1, batch_size=3, check_units=False))
    merged = load(merge(model))
    assert evaluate(merged, source)["energy_mae_mev_atom"] == pytest.approx(
        evaluate(model, source)["energy_mae_mev_atom"], rel=1e-9
    )


def test_keys_of_files_are_chosen_like_those_of_other_labels():
    atoms = molecule(0)
    atoms.info.update(q=3, charge=1)
    assert float(from_atoms(atoms).labels["total_charge"]) == 1
    assert float(from_atoms(atoms, LabelKeys(total_charge_key="q")).labels["total_charge"]) == 3


@pytest.mark.parametrize(("info", "words"), [
    ({}, r"has no total_charge \(total_charge or charge\), expected it, since a ScaleShiftMACE reads it: 0 for a neu"),
    ({"charge": 0}, r"has no total_spin \(total_spin or spin\), .* reads it: the multiplicity 2S \+ 1, 1 for a closed"),
    ({"charge": 6, "spin": 1}, "total_charge is 6, expected a whole number from -5 to 5, which is what this"),
    ({"charge": 0.5, "spin": 1}, "total_charge is 0.5, expected a whole number"),
    ({"charge": "plus", "spin": 1}, "charge is 'plus', expected a number in e"),
])  # fmt: skip
def test_a_missing_or_impossible_charge_is_one_sentence(info, words):
    atoms = labelled([molecule(0)])[0]
    atoms.info.update(info)
    with pytest.raises(InputError, match=f"frame 0: .*{words}"):
        evaluate(load(stock_of()), [atoms])


def test_models_without_the_embedding_do_not_notice_charges():
    frames = labelled([molecule(0)])
    plain = load(tiny_mace())
    before = evaluate(plain, frames)
    assert evaluate(plain, [charged(frames[0], 2, 3)]) == before


def test_an_embedding_of_something_else_is_refused_until_a_label_of_its_name_is_registered():
    specs = {"temperature": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 4}}
    stock = tiny_mace(embedding_specs=specs)
    with pytest.raises(InputError, match=r"embeds 'temperature' of each graph \(embedding_specs\), expected one of"):
        load(stock)
    register_label(Label(name="temperature", per="graph", unit="K", key="temperature", is_input=True))
    try:
        atoms = labelled([molecule(0)])[0]
        hot, cold = (load(stock)(load(stock).collate([from_atoms(atoms)])).energy for _ in atoms.info.update(
            temperature=300.0) or (1, 2))  # fmt: skip
        assert torch.equal(hot, cold)
        atoms.info["temperature"] = 900.0
        assert load(stock)(load(stock).collate([from_atoms(atoms)])).energy != hot
    finally:
        unregister_label("temperature")
