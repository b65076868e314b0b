"""A comparison's folder never mixes models, structures or lengths, and a mistake in the first call does not lock it."""

import json

import pytest
import torch

import pathtune
from models import labelled, molecule, tiny_mace
from pathtune import CompareOptions, FitConfig, InputError, SparseDelta
from pathtune.adaptations.low_rank import LowRankOptions
from pathtune.comparing import comparison, probe
from pathtune.data import from_atoms

pytestmark = pytest.mark.usefixtures("needs_mace")
COSTS = {"full": 2.0, "readout": 1.0, "modulation": 0.5}


def structures(seed, n=4):
    return [from_atoms(a) for a in labelled([molecule(seed + i, n=4) for i in range(n)], seed)]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A comparison of two arms in memory; options and what is given may be changed."""

    slower = []  # the machine, with every time that it is asked

    def costs(arms, *_):
        slower.append(None)
        return [probe.Cost(len(slower) * COSTS[arm.key], "wall", None) for arm in arms]

    monkeypatch.setattr(comparison, "costs", costs)
    base = pathtune.load(tiny_mace(torch.float32))

    def compare(model=base, train=None, valid=None, arms=("readout", "modulation"), epochs=1, **options):
        options = CompareOptions(out=str(tmp_path / "out"), arms=arms, lrs=(0.01,), **options)
        config = FitConfig(epochs=epochs, batch_size=2, check_units=False)
        return pathtune.compare(model, train or structures(0), valid or structures(9), options=options, config=config)

    return compare


def other_model():
    stock = tiny_mace(torch.float32)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.mul_(1.05)
    return pathtune.load(stock)


@pytest.mark.parametrize("is_grown", [False, True])
def test_runs_of_another_model_or_other_structures_are_never_taken(asked, is_grown):
    first = asked()
    seeds = {"seeds": (0, 1)} if is_grown else {}
    for given, words in (({"model": other_model()}, "of another model"),
                         ({"train": structures(50)}, "with other train structures"),
                         ({"valid": structures(50)}, "with other valid structures")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            asked(**given, **seeds)
    assert asked() == first


def test_a_mistake_in_the_first_call_does_not_lock_the_folder(asked):
    with pytest.raises(InputError, match="no such file"):
        asked(train="absent.xyz")
    assert [row["arm"] for row in asked()["rows"][-2:]] == ["readout", "modulation"]


def test_arms_that_come_later_get_the_seconds_that_the_first_call_gave(asked, tmp_path):
    asked(epochs=2, equal="seconds")  # the next call finds the machine half as fast
    grown = asked(epochs=2, equal="seconds", arms=("full", "modulation", "readout"))
    assert grown["equal"]["reference"] == "readout"
    assert grown["equal"]["epochs"] == {"full": 1, "modulation": 4, "readout": 2}
    for row in grown["rows"]:
        assert row.get("epochs") == grown["equal"]["epochs"].get(row["arm"])
    content = json.loads((tmp_path / "out" / "content.json").read_text())
    assert set(content) == {"model", "train", "valid", "reference"}
    costs = json.loads((tmp_path / "out" / "costs.json").read_text())
    assert {key: cost["step_seconds"] for key, cost in costs.items()} == COSTS


def test_options_of_one_run_are_refused_where_a_comparison_has_a_list(tmp_path):
    given = {"train": structures(0), "valid": structures(9), "options": CompareOptions(out=str(tmp_path / "out"))}
    base = pathtune.load(tiny_mace(torch.float32))
    for more, words in (({"config": FitConfig(lr=0.5)}, "lr is 0.5 for all arms, expected lrs"),
                        ({"config": FitConfig(seed=7)}, "seed is 7 for all arms, expected seeds"),
                        ({"more": {"delta": SparseDelta(active_share=0.2)}}, "active_share is 0.2 for all arms"),
                        ({"more": {"lora": LowRankOptions(rank=16)}}, "rank is 16 for all arms")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            pathtune.compare(base, **given, **more)
    with pytest.raises(InputError, match="expected numbers that differ in six digits"):
        CompareOptions(lrs=(0.01234567, 0.012345671))
    with pytest.raises(InputError, match="expected each kind once in an arm"):
        pathtune.compare(base, **given | {"options": CompareOptions(out=str(tmp_path), arms=("lora+lora",))})
    assert not (tmp_path / "out").exists()
