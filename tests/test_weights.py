"""Laws of weights: of frames and of their labels (mace's keys in info), and of config_types."""

import ase.io
import pytest
import torch

from models import labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, evaluate, fit, load, sparsify
from pathtune.cli import main
from pathtune.data import as_source, batches
from pathtune.data.store import prepare
from pathtune.losses import loss_terms

pytestmark = pytest.mark.usefixtures("needs_mace")


def frames(**infos):
    """Three frames, and what the info of the second holds."""
    found = labelled([molecule(i, n=4) for i in range(3)])
    found[1].info.update(infos)
    return found


def terms(model, data, **options):
    batch = next(batches(model, as_source(data), 3))
    found = FitConfig(loss="weighted", **options).terms_of(model(batch), batch)
    return {name: term.sum.item() for name, term in found.items()}


@pytest.fixture(scope="module")
def model():
    return load(tiny_mace())


def test_a_config_weight_counts_for_every_label_and_that_of_a_label_for_it_alone(model):
    plain = terms(model, frames())
    double = terms(model, frames(config_weight=2.0))
    forces = terms(model, frames(config_weight=2.0, config_forces_weight=0.5))
    assert all(double[name] > plain[name] for name in plain)
    assert forces["forces"] == pytest.approx(plain["forces"], rel=1e-12)
    assert forces["energy"] == double["energy"]


def test_a_label_of_weight_zero_is_a_missing_one(model):
    source = as_source(frames(config_energy_weight=0.0))
    assert list(source.present["energy"]) == [True, False, True]
    assert source.read(1).label_weights == {}


def test_the_weight_of_a_config_type_is_that_of_its_frames(model):
    expected = terms(model, frames(config_weight=3.0))
    found = terms(model, frames(config_type="bulk=cold"), config_type_weights=("bulk=cold=3", "Default=1"))
    assert found == pytest.approx(expected, rel=1e-12)
    assert evaluate(model, frames(config_type="bulk")) | {"per_config_type": 0} == evaluate(model, frames()) | {
        "per_config_type": 0
    }


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "much", True, 1e300, [1.0, 2.0]])
def test_a_weight_that_is_none_is_named(value):
    with pytest.raises(InputError, match=r"frame 1: config_forces_weight is .*, expected a number from 0 to 1e\+09"):
        as_source(frames(config_forces_weight=value))


def test_a_structures_own_weight_is_checked_too():
    structures = [as_source(frames()).read(0)]
    structures[0].weight = -1.0
    with pytest.raises(InputError, match=r"weight is -1\.0, expected a number from 0"):
        as_source(structures)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (("bulk",), "config_type_weights has 'bulk', expected NAME=WEIGHT"),
        (("=1",), "has '=1', expected NAME=WEIGHT"),
        (("bulk=a",), "has 'bulk=a'"),
        (("bulk=1", "bulk=2"), "has 'bulk=2', expected .* each NAME once"),
        (("bulk=nan",), "config_type_weights: bulk is nan, expected a number"),
        (("bulk=-1",), "config_type_weights: bulk is -1"),
    ],
)
def test_weights_of_config_types_that_are_none_are_refused(weights, words):
    with pytest.raises(InputError, match=words):
        FitConfig(config_type_weights=weights)


def test_a_config_type_that_no_structure_has_is_refused_and_those_present_are_named(model):
    config = FitConfig(epochs=1, config_type_weights=("slba=2",), check_units=False)
    tuned = sparsify(model, SparseDelta(), elements=[1, 6, 8])
    with pytest.raises(InputError, match="names 'slba', which no training structure has, .* Default, slab"):
        fit(tuned, frames(config_type="slab"), frames(), config)


def test_a_store_keeps_weights_and_knows_its_config_types(model, tmp_path):
    data = frames(config_weight=2.0, config_forces_weight=0.5, config_type="slab")
    ase.io.write(tmp_path / "some.xyz", data, format="extxyz")
    prepare([str(tmp_path / "some.xyz")], tmp_path / "store", jobs=1)
    store = as_source(tmp_path / "store")
    assert (store.read(1).weight, store.read(1).label_weights["forces"]) == (2.0, 0.5)
    assert store.config_types == ("Default", "slab")
    assert as_source(f"{tmp_path}/store@:2").config_types == ("Default", "slab")
    for name, value in terms(model, store).items():
        assert value == pytest.approx(terms(model, data)[name], rel=1e-6)  # a file has 8 digits


def test_weights_in_a_file_are_said_and_those_of_the_flag_stand_in_the_paragraph(tmp_path, capsys):
    torch.save(tiny_mace(torch.float32), tmp_path / "m.model")
    ase.io.write(tmp_path / "t.xyz", frames(config_weight=2.0, config_type="slab"), format="extxyz")
    file = str(tmp_path / "t.xyz")
    words = ["fit", "--model", str(tmp_path / "m.model"), "--train", file, "--valid", file, "--epochs", "1", "--out"]
    more = ["--config-type-weights", "slab=0.5", "--no-check-units", "--keep-worse", "--no-report"]
    assert main([*words, str(tmp_path / "run"), *more]) == 0
    assert "config_weight of 1 of 3 frames, from 2 to 2, is their weight in the loss" in capsys.readouterr().err
    assert main(["describe", str(tmp_path / "run")]) == 0
    assert "By config_type, structures counted 0.5 for slab." in " ".join(capsys.readouterr().out.split())


def test_loss_terms_of_several_types_are_weighted_one_by_one(model):
    data = frames(config_type="a")
    data[2].info["config_type"] = "b"
    batch = next(batches(model, as_source(data), 3))
    found = loss_terms(model(batch), batch, "weighted", type_weights={"a": 0.0, "b": 0.0, "Default": 1.0})
    alone = next(batches(model, as_source(data[:1]), 1))
    assert found["energy"].sum.item() == pytest.approx(loss_terms(model(alone), alone, "weighted")["energy"].sum.item())
