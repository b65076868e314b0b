"""Laws of choosing the active share."""

import dataclasses
import json

import pytest

from models import labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, guidance, load, share_for, sparsify
from pathtune.data import elements_of, from_atoms
from pathtune.errors import DivergedError
from pathtune.guidance import SweepPoint, beside_full, choose_share, draw_sweep, one_standard_error


def point(share, *losses):
    return SweepPoint(share, round(1000 * share), list(losses))


def test_a_smaller_share_within_one_standard_error_of_the_best_is_preferred():
    choice = one_standard_error([point(0.01, 1.0, 2.0, 3.3), point(0.1, 1.1, 1.9, 3.2), point(0.3, 1.0, 1.9, 3.4)])
    assert choice.share == 0.01
    assert "1 % is the smallest share within one standard error of the best, 10 %" in choice.reason


def test_a_clearly_worse_share_is_not_chosen_however_much_structures_differ():
    # each structure is worse by about 0.5, while the structures differ by hundreds
    choice = one_standard_error([point(0.01, 100.5, 200.6, 300.5), point(0.1, 100.0, 200.0, 300.0)])
    assert choice.share == 0.1
    assert "no smaller one" in choice.reason


def test_the_smallest_share_wins_when_it_is_the_best():
    choice = one_standard_error([point(0.01, 1.0, 1.0), point(0.1, 2.0, 1.5)])
    assert choice.share == 0.01
    assert "and is the smallest" in choice.reason


@pytest.mark.parametrize(("losses", "is_better"), [((0.5, 0.6), True), ((0.5, 2.0), False), ((1.1, 1.0), False)])
def test_full_fine_tuning_is_named_where_it_is_better_by_more_than_a_standard_error(losses, is_better):
    choice = beside_full(one_standard_error([point(0.1, 1.0, 1.0)]), SweepPoint(1.0, 10, list(losses), is_full=True))
    assert (choice.share, choice.is_full_better) == (0.1, is_better)
    assert ("--arm full" in choice.reason) == is_better


def structures(n=4, seed=0):
    return [from_atoms(a) for a in labelled([molecule(seed + i, n=4) for i in range(n)], seed)]


@pytest.mark.usefixtures("needs_mace")
def test_a_sweep_tries_every_share_once_and_resumes(tmp_path, monkeypatch):
    base, file = load(tiny_mace()), tmp_path / "sweep.json"
    config = FitConfig(epochs=4, batch_size=4)
    arguments = (base, structures(), structures(3, seed=9))
    lines = []
    choice = choose_share(*arguments, config=config, shares=(0.5, 0.1, 1e-6), file=file, report=lines.append)
    assert [p.share for p in choice.points] == [0.1, 0.5]  # 1e-6 is less than one weight
    assert choice.epochs == 4  # a fifth would be one step
    assert len(lines) == 4
    assert [(p["share"], p["is_full"]) for p in json.loads(file.read_text())["points"]] == [
        (0.1, False), (0.5, False), (1.0, True)]  # fmt: skip
    assert choice.full.active > choice.points[-1].active
    alone = choose_share(*arguments, config=dataclasses.replace(config, lr=0.01), shares=(0.5,))
    assert alone.full is None  # a rate is one arm's
    monkeypatch.setattr(guidance, "fit", None)  # nothing is trained again
    assert choose_share(*arguments, config=config, shares=(0.5, 0.1), file=file) == choice
    draw_sweep(choice, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("needs_mace")
def test_a_sweep_without_means_is_named():
    base = load(tiny_mace())
    with pytest.raises(InputError, match="the sweep has 1 validation structures, expected at least 2"):
        choose_share(base, structures(), structures(1))
    with pytest.raises(InputError, match="each is less than one weight"):
        choose_share(base, structures(), structures(2), shares=(1e-7,))
    with pytest.raises(InputError, match=r"active_share is 3"):
        choose_share(base, structures(), structures(2), shares=(3.0,))


@pytest.mark.usefixtures("needs_mace")
def test_the_share_by_data_grows_with_the_labels_between_its_bounds_and_counts_what_is_reachable():
    base = load(tiny_mace())
    few, more, many = (share_for(base, structures(n)) for n in (1, 10, 100))
    assert few.share == 0.3 < more.share < many.share == 1.0
    n_atoms = sum(len(s.atomic_numbers) for s in structures(10))
    n_stress = sum("stress" in s.labels for s in structures(10))
    model = sparsify(base, SparseDelta(active_share=more.share), elements_of(structures(10)))
    expected = 1.6 * (10 + 3 * n_atoms + 6 * n_stress) / model.counts()["reachable_weights"]
    assert more.share == round(expected, 2)
    wider = share_for(base, structures(10), SparseDelta(scope=("linear", "contraction", "radial")))
    assert wider.share < more.share
    assert "--arm full" in many.reason


@pytest.mark.usefixtures("needs_mace")
def test_a_sweeps_file_serves_only_the_sweep_that_wrote_it(tmp_path):
    base, file, config = load(tiny_mace()), tmp_path / "sweep.json", FitConfig(epochs=1, batch_size=4)
    lines = []
    asked = {"config": config, "shares": (0.5,), "file": file, "report": lines.append, "has_full": False}
    choose_share(base, structures(), structures(3, seed=9), **asked)
    others = (
        (structures(seed=20), structures(3, seed=9), asked),
        (structures(seed=20), structures(3, seed=30), asked),
        (structures(seed=20), structures(3, seed=30), asked | {"delta": SparseDelta(scope=("radial",))}),
        (structures(seed=20), structures(3, seed=30), asked | {"config": dataclasses.replace(config, seed=1)}),
    )
    for i, (train, valid, options) in enumerate(others, 1):
        choose_share(base, train, valid, **options)
        assert len(lines) == 1 + i
    choose_share(base, train, valid, **options)
    assert len(lines) == 1 + i


@pytest.mark.usefixtures("needs_mace")
def test_a_share_whose_short_run_diverges_is_said_and_left_out(monkeypatch):
    base, lines, train = load(tiny_mace()), [], guidance.fit

    def diverges(model, *given, **options):
        if next(iter(model.adaptation.parts())).config.active_share == 1.0:
            raise DivergedError("fit: the loss is nan")
        return train(model, *given, **options)

    monkeypatch.setattr(guidance, "fit", diverges)
    given = {"config": FitConfig(epochs=1, batch_size=4), "report": lines.append, "has_full": False}
    choice = choose_share(base, structures(), structures(3, seed=9), shares=(0.1, 1.0), **given)
    assert [p.share for p in choice.points] == [0.1]
    assert "share 100.00 %: no run, or it diverged" in lines
    with pytest.raises(InputError, match="or its run diverged"):
        choose_share(base, structures(), structures(3, seed=9), shares=(1.0,), **given)
