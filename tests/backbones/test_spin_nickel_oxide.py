"""The start of a spin layer on first-principles data: SevenNet-0 and NiO."""

import pytest

from pathtune import SpinLayer, adapt, evaluate, load, refit_e0
from pathtune.data import as_source, batches

pytestmark = pytest.mark.usefixtures("needs_sevenn")


def test_the_start_finds_the_exchange_and_the_factor_between_energies_and_magforces(data_folder):
    folder = data_folder / "magnetic" / "nio_deepspin"
    layer = SpinLayer(spin=("Ni",), magforces_scale="fit", magforces_part="perpendicular")
    base, _ = refit_e0(load("sevennet:7net-0"), folder / "train.extxyz.xz")
    model = adapt(base, ["spin"], (8, 28), {"spin": layer})
    spin = model.adaptation.parts()[0]
    spin.begin(model, batches(model, as_source(folder / "train.extxyz.xz"), 1), None)
    assert spin.consistency.factor == pytest.approx(1.257, abs=0.03)
    scores = evaluate(model, folder / "test.extxyz.xz")
    assert scores["energy_mae_mev_atom"] < 0.03
    assert scores["per_element"]["Ni"]["magforces_mae_mev_mu_b"] < 0.3
