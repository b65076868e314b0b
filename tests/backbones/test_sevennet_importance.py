"""Importance on SevenNet: gates belong to no single l; on the pretrained one, planted truths and two seeds."""

import importlib.util
import pathlib
import sys

import pytest
import torch

from models import labelled, molecule
from pathtune import adapt, importance, load
from pathtune.data import Request, as_source, from_atoms
from pathtune.evaluation import mean_loss
from pathtune.importance.measure import BATCH_SIZE
from pathtune.importance.parts import parts_of
from pathtune.training.options import FitConfig
from sevennets import VARIANTS, tiny_sevennet

pytestmark = pytest.mark.usefixtures("needs_sevenn")
BENCH = pathlib.Path(__file__).parents[2] / "bench" / "interpretation.py"


def labelled_molecules():
    return [from_atoms(a) for a in labelled([molecule(i, n=5) for i in range(3)])]


def test_scalars_that_gate_other_degrees_are_the_rest():
    """With these weights at zero the gates are shut, and the weights of l > 0 behind them change nothing."""
    base = load(tiny_sevennet())
    names = ("0_self_connection_intro.linear.weight", "0_self_interaction_2.linear.weight")
    parts = parts_of(base.base, names, [0, 1, 2])
    gates = [p for p in parts if p.path == "0e -> 0e gates"]
    assert [p.parameter for p in gates] == list(names)
    assert {p.group for p in gates} == {"rest"}
    assert {p.group for p in parts if p not in gates} == {"l = 0", "l = 1", "l = 2"}
    batch = base.collate(labelled_molecules())

    def energy(is_shut, is_moved):
        weights = {name: base.base.parameters[name].detach().clone() for name in names}
        for part in parts:
            if is_shut and part in gates:
                weights[part.parameter][part.indices] = 0.0
            if is_moved and part.degree:
                weights[part.parameter][part.indices] += 1.0
        return base.predict(weights, batch, Request(frozenset({"energy"}))).energy

    assert torch.allclose(energy(True, False), energy(True, True))
    assert not torch.allclose(energy(False, False), energy(False, True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_gated_irrep_has_one_gate_in_every_variant(variant):
    stock = tiny_sevennet(**VARIANTS[variant])
    base = load(stock, head="a" if stock.modal_map else None)
    irreps = stock._modules["0_equivariant_gate"].gate.irreps_gated
    found = [p.gates for layer in base.base.layers for p in layer.paths if layer.name == "0_self_interaction_2.linear"]
    assert set(found) - {0} == {sum(mul for mul, _ in irreps)}


def test_shapley_values_sum_to_what_tuning_changed():
    base = load(tiny_sevennet(), dtype="float64")
    model = adapt(base, ["full"], [1, 6, 8])
    with torch.no_grad():
        for parameter in model.trainable():
            parameter += 0.02 * torch.randn_like(parameter) * parameter.square().mean().sqrt()
    frames = labelled_molecules()
    found = importance(model, frames)
    losses = [mean_loss(m, as_source(frames), BATCH_SIZE, FitConfig().loss_of) for m in (base, model)]
    assert sum(g.shapley for g in found.groups) == pytest.approx(losses[0] - losses[1], rel=1e-6)
    assert {g.group for g in found.groups} == {"l = 0", "l = 1", "l = 2", "rest"}


@pytest.fixture(scope="module")
def bench(data_folder):
    spec = importlib.util.spec_from_file_location("interpretation", BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["interpretation"] = module
    spec.loader.exec_module(module)
    module.DATA = data_folder
    return module


@pytest.mark.slow
def test_a_planted_l_2_has_three_times_the_share_of_a_planted_l_0_on_silicon(bench):
    shares = []
    for degree in (0, 2):
        base, sets = load(bench.BASE), bench.read("silicon")
        truth = bench.planted_model(base, degree, sets[0])
        sets = [bench.relabelled(part, truth) for part in sets]
        shares.append(importance(bench.tune(base, sets), sets[1]).of("l = 2").shapley_share)
    assert shares[1] >= 3 * shares[0]


@pytest.mark.slow
def test_two_seeds_differ_by_less_than_0_03_in_every_share(bench):
    """Of ethanol, the cheapest of the sets where they do: not all sets have this (docs/interpretation.md)."""
    sets = bench.read("ethanol")
    found = [importance(bench.tune(load(bench.BASE), sets, seed=seed), sets[1]) for seed in (0, 1)]
    for one, other in zip(*(f.groups for f in found)):
        assert abs(one.shapley_share - other.shapley_share) <= 0.03
