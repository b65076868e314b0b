"""The accelerated forward of SevenNet against the stock model, in float64 and on the wheel's models."""

import ase
import ase.build
import pytest
import torch

from laws.forward import (
    START,
    assert_a_step_repeats,
    assert_forwards_agree,
    assert_no_edges_and_no_structures_work,
    assert_published_weights_agree,
    batch_of,
)
from models import crystal, molecule
from pathtune import InputError, calculator, load, sparsify
from sevennets import VARIANTS, tiny_sevennet

pytestmark = pytest.mark.usefixtures("needs_sevenn")
WHEEL = ["7net-0", "7net-0_22may2024", "7net-l3i5", "7net-mf-0:R2SCAN"]


def both(stock):
    head = "b" if stock.modal_map else None
    return [load(stock, backend=backend, head=head) for backend in ("reference", "cpu")]


@pytest.mark.parametrize("variant", VARIANTS)
def test_energies_forces_stress_and_gradients_equal_the_stock_models(variant):
    reference, ours = both(tiny_sevennet(**VARIANTS[variant]))
    assert ours.backbone.backend == "cpu"
    batch = batch_of(ours, crystal(), molecule(1), molecule(n=1))
    assert_forwards_agree(reference, ours, batch)


@pytest.mark.parametrize("name", WHEEL)
def test_the_wheels_models_agree_with_stock_in_float32(name):
    reference, ours = (load(f"sevennet:{name}", backend=backend) for backend in ("reference", "cpu"))
    assert_published_weights_agree(reference, ours)


def test_our_calculator_equals_sevenns():
    from sevenn.calculator import SevenNetCalculator

    with pytest.warns(UserWarning, match="No tensor product accelerator"):
        stock = SevenNetCalculator("7net-mf-0", modal="R2SCAN", device="cpu")
    ours = calculator(load("sevennet:7net-mf-0:R2SCAN"))
    gold = ase.build.bulk("Au", "fcc", a=4.1, cubic=True)
    gold.rattle(0.1, seed=0)
    energies = [gold.get_potential_energy() for gold.calc in (stock, ours)]
    assert abs(energies[0] - energies[1]) <= 1e-6 * abs(energies[0])  # stock adds the shifts in float32
    assert abs(stock.results["forces"] - ours.results["forces"]).max() <= 1e-5
    assert abs(stock.results["stress"] - ours.results["stress"]).max() <= 1e-6


def test_no_edges_and_no_structures():
    reference, ours = both(tiny_sevennet())
    assert_no_edges_and_no_structures_work(reference, ours)


def test_the_same_step_repeats_bitwise():
    model = sparsify(load(tiny_sevennet(torch.float32), backend="cpu"), START)
    assert_a_step_repeats(model)


@pytest.mark.parametrize(("changes", "words"), [
    ({"readout_as_fcn": True, "readout_fcn_hidden_neurons": [4], "readout_fcn_activation": "relu"},
     "a readout other than two linears"),
    ({"use_bias_in_linear": True}, "a linear with a bias"),
])  # fmt: skip
def test_an_uncovered_module_falls_back_with_one_warning_and_cpu_refuses(changes, words):
    stock = tiny_sevennet(**changes)
    with pytest.warns(UserWarning, match=f"does not cover {words}") as warned:
        model = load(stock)
    assert len([w for w in warned if "pathtune" in str(w.message)]) == 1
    assert model.backbone.backend == "reference"
    assert torch.isfinite(model(batch_of(model, crystal())).forces).all()
    with pytest.raises(InputError, match=f"does not cover {words}"):
        load(stock, backend="cpu")
