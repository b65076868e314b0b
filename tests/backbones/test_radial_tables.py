"""Frozen radial networks from tables, against the networks themselves."""

import pathlib

import ase
import pytest
import torch

import pathtune
from laws.forward import assert_a_step_repeats, batch_of, force_loss_gradients
from models import ALL, crystal, molecule, tiny_mace
from pathtune import SparseDelta, load, merge, sparsify, unfreeze
from pathtune.backbones import _radial_tables
from pathtune.backbones._packages import import_mace
from pathtune.backbones._radial_tables import RadialTables

ENERGY_EV_ATOM, FORCE_EV_A = 1e-7, 1e-6  # what a table may change, measured in float64


def density_and_repulsion():
    mace = import_mace()
    return {"distance_transform": "Agnesi", "pair_repulsion": True,
            "interaction_cls_first": mace.modules.RealAgnosticDensityInteractionBlock,
            "interaction_cls": mace.modules.RealAgnosticDensityResidualInteractionBlock}  # fmt: skip


MODELS = {
    "mace": lambda dtype: tiny_mace(dtype),
    "mace, density, Agnesi, ZBL": lambda dtype: tiny_mace(dtype, **density_and_repulsion()),
    "mace, soft transform": lambda dtype: tiny_mace(dtype, distance_transform="Soft"),
    "mace, cutoff outside": lambda dtype: tiny_mace(dtype, apply_cutoff=False),
    "sevennet, XPLOR": lambda dtype: tiny_sevennet(dtype),
    "sevennet, polynomial cutoff": lambda dtype: tiny_sevennet(
        dtype, cutoff_function={"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6}),
}  # fmt: skip


def tiny_sevennet(dtype, **changes):
    from sevennets import tiny_sevennet

    return tiny_sevennet(dtype, **changes)


@pytest.fixture(params=MODELS)
def build(request):
    request.getfixturevalue("needs_sevenn" if request.param.startswith("sevennet") else "needs_mace")
    return MODELS[request.param]


def tables_of(model):
    return model.backbone._forward.tables


def in_float64(model):
    """Tables for a float64 model, which by itself keeps its networks."""
    single = load(model.backbone.stock, dtype="float32", backend="cpu")
    tables = tables_of(single)
    make, n_species, by_species = tables._make, tables.n_species, tables.by_species
    model.backbone._forward.tables = RadialTables(make, {}, n_species, by_species, torch.float64)
    return model


def test_tables_keep_energies_forces_and_gradients_in_float64_arithmetic(build):
    stock = build(torch.float64)
    network, tabled = load(stock, backend="cpu"), in_float64(load(stock, backend="cpu"))
    batch = batch_of(network, crystal(), molecule(1), molecule(2))
    p, q = network(batch, outputs=ALL), tabled(batch, outputs=ALL)
    assert tables_of(network) is None
    assert not tables_of(tabled).is_off
    assert not torch.equal(p.forces, q.forces)  # it was a table
    assert ((p.interaction_energy - q.interaction_energy) / batch.n_atoms).abs().max() < ENERGY_EV_ATOM
    assert (p.forces - q.forces).abs().max() < FORCE_EV_A
    assert torch.allclose(p.stress, q.stress, rtol=0, atol=1e-6)
    delta = SparseDelta(delta_start="paper", initial_std=0.1)
    for a, b in zip(*(force_loss_gradients(sparsify(m, delta), batch) for m in (network, tabled))):
        assert (a - b).abs().max() <= 1e-6 * max(a.abs().max().item(), 1e-3)


def test_forces_from_tables_are_the_slopes_of_energies_from_tables(build):
    """Along a line that crosses many knots, to the rounding of float64."""
    model = in_float64(load(build(torch.float64), backend="cpu"))
    atoms, step = molecule(1), 1e-5

    def predict(x):
        moved = atoms.copy()
        moved.positions[0] += [x, 0.3 * x, 0.0]
        p = model(batch_of(model, moved))
        return float(p.interaction_energy), float(p.forces[0] @ torch.tensor([1.0, 0.3, 0.0]).double())

    for x in torch.linspace(0, 0.2, 25).tolist():
        slope = (predict(x + step)[0] - predict(x - step)[0]) / (2 * step)
        assert slope == pytest.approx(-predict(x)[1], abs=1e-6)


def test_float32_models_use_tables_where_the_radial_network_is_frozen(build):
    stock = build(torch.float32)
    model, off = load(stock, backend="cpu"), load(stock, backend="cpu", radial_tables=False)
    batch = batch_of(model, crystal(), molecule(1))
    p, q = model(batch), off(batch)
    assert tables_of(model).shortest_a > 0  # made
    assert (p.interaction_energy - q.interaction_energy).abs().max() <= 2e-6 * q.interaction_energy.abs().max()
    assert (p.forces - q.forces).abs().max() <= 1e-5 * q.forces.abs().max()
    assert tables_of(off) is None


def test_a_trained_radial_network_is_not_read_from_tables(build):
    stock = build(torch.float32)
    full, off = (unfreeze(load(stock, backend="cpu", radial_tables=is_on), "full") for is_on in (True, False))
    batch = batch_of(full, crystal(), molecule(1))
    for a, b in zip(*(force_loss_gradients(model, batch) for model in (full, off))):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("needs_mace")
def test_an_adapter_of_radial_weights_is_not_read_from_tables():
    model = sparsify(load(tiny_mace(torch.float32), backend="cpu"), SparseDelta(scope=("radial",), delta_start="paper"))
    batch = batch_of(model, molecule(1))
    assert all(g.abs().max() > 0 for g in force_loss_gradients(model, batch) if g.numel() > 1)
    assert not tables_of(model)._known


def test_tables_follow_a_change_of_the_weights(build):
    model = load(build(torch.float32), backend="cpu")
    batch = batch_of(model, molecule(1))
    before = model(batch).interaction_energy
    forward = model.backbone._forward
    name = next(n for n in sorted(forward.tables.watched) if forward.parameters[n].dim() == 2)
    with torch.no_grad():
        forward.parameters[name].mul_(1.5)
    changed = load(model.backbone.stock, backend="cpu")(batch).interaction_energy
    assert torch.equal(model(batch).interaction_energy, changed)
    assert not torch.equal(before, changed)


def test_what_was_seen_before_changes_nothing(build):
    """A resumed run meets the pairs of species in another order."""
    stock = build(torch.float32)
    one, other = load(stock, backend="cpu"), load(stock, backend="cpu")
    first, second = batch_of(one, molecule(1)), batch_of(one, ase.Atoms("OH", [[0, 0, 0], [1.0, 0, 0]]))
    one(second)
    assert torch.equal(one(first).forces, other(first).forces)


def test_a_very_short_edge_is_left_to_the_network(build):
    stock = build(torch.float32)
    model, off = load(stock, backend="cpu"), load(stock, backend="cpu", radial_tables=False)
    batch = batch_of(model, ase.Atoms("OH", [[0, 0, 0], [0.2, 0, 0]]))
    assert torch.equal(model(batch).forces, off(batch).forces)


def test_too_many_tables_are_the_network_again(build, monkeypatch):
    monkeypatch.setattr(_radial_tables, "MOST_BYTES", 100)
    stock = build(torch.float32)
    model, off = load(stock, backend="cpu"), load(stock, backend="cpu", radial_tables=False)
    batch = batch_of(model, molecule(1))
    assert torch.equal(model(batch).forces, off(batch).forces)
    assert tables_of(model).is_off


def test_the_merged_model_equals_the_adapted_one(build):
    model = sparsify(load(build(torch.float32), backend="cpu"), SparseDelta(delta_start="paper", initial_std=0.1))
    batch = batch_of(model, crystal(), molecule(1))
    p = model(batch)
    for backend in ("cpu", "reference"):  # tables, and the stock networks
        q = load(merge(model), backend=backend)(batch)
        assert (p.interaction_energy - q.interaction_energy).abs().max() <= 3e-6 * q.interaction_energy.abs().max()
        assert (p.forces - q.forces).abs().max() <= 1e-5 * q.forces.abs().max()


def test_the_same_step_repeats_bitwise(build, tmp_path: pathlib.Path):
    model = sparsify(load(build(torch.float32), backend="cpu"), SparseDelta(delta_start="paper"))
    pathtune.save_adapter(model, tmp_path / "a.safetensors")
    assert_a_step_repeats(model)
