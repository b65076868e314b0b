"""Laws of plans, samples and reading ahead: every structure once, nothing dropped, and a store trains as a file."""

import itertools

import ase.io
import numpy as np
import pytest
import torch

from models import labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, fit, load, refit_e0, sparsify
from pathtune.data import Frames, from_atoms, shuffled
from pathtune.data.ahead import read_ahead
from pathtune.data.order import spread
from pathtune.data.plan import atoms_of, auto_atoms, dealt, labelled_numbers, plan_of
from pathtune.data.sample import sampled, spaced
from pathtune.data.store import Store, prepare
from pathtune.training.plans import Plans

SIZES = np.random.default_rng(0).integers(2, 40, 500)


@pytest.mark.parametrize("n", [1, 7, 64, 1000, 100_003])
def test_the_beginning_of_a_spread_order_lies_all_over_the_frames(n):
    order = spread(n)
    assert sorted(order.tolist()) == list(range(n))
    for k in range(1, min(n, 64) + 1):
        gaps = np.diff(np.sort([-1, *order[:k], n]))
        assert gaps.max() <= 2.7 * (n + 1) / (k + 1), k


def test_a_plan_by_structures_is_the_order_of_shuffled():
    for epoch in range(3):
        plan = plan_of(SIZES, 8, None, 5, epoch)
        assert [plan.step(k).tolist() for k in range(len(plan))] == shuffled(500, 8, 5, epoch)


def test_a_plan_by_atoms_visits_every_structure_once_within_the_budget_and_no_step_could_take_one_more():
    plan = plan_of(SIZES, 8, 100, 0, 1)
    steps = [plan.step(k) for k in range(len(plan))]
    assert sorted(np.concatenate(steps).tolist()) == list(range(500))
    assert max(SIZES[step].sum() for step in steps) <= 100
    assert all(SIZES[step].sum() + SIZES[following[0]] > 100 for step, following in itertools.pairwise(steps))
    assert plan.digest != plan_of(SIZES, 8, 100, 0, 2).digest


def test_a_budget_below_the_largest_structure_is_refused_in_a_sentence():
    frames = Frames([from_atoms(a) for a in labelled([molecule(0, n=4), molecule(1, n=7)])])
    with pytest.raises(InputError, match="batch_atoms is 6, expected at least 7, the atoms of the largest structure"):
        Plans(FitConfig(batch_atoms=6), frames)
    with pytest.raises(InputError, match="batch_atoms is 0, expected a number above 0"):
        FitConfig(batch_atoms=0)


def test_auto_fills_small_structures_to_64_and_takes_at_least_8_and_the_largest():
    assert auto_atoms(np.full(10, 9)) == 64 * 9
    assert auto_atoms(np.full(10, 21)) == 1024
    assert auto_atoms(np.full(10, 200)) == 8 * 200
    assert auto_atoms(np.array([9] * 99 + [5000])) == 5000


def test_steps_of_a_run_are_those_of_its_plans():
    frames = Frames([from_atoms(a) for a in labelled([molecule(i, n=3 + i % 5) for i in range(11)])])
    plans = Plans(FitConfig(batch_atoms=12, seed=3), frames)
    lengths = [len(plan_of(atoms_of(frames), 1, 12, 3, epoch)) for epoch in range(4)]
    assert [plans.steps(epoch) for epoch in range(4)] == lengths
    assert plans.before(4) == sum(lengths)


@pytest.mark.parametrize("n_ranks", [1, 2, 7, 600])
def test_dealing_gives_every_structure_to_one_rank_and_balances_loads(n_ranks):
    parts = dealt(SIZES, n_ranks)
    assert len(parts) == n_ranks
    assert sorted(np.concatenate(parts).tolist()) == list(range(500))
    loads = np.array([SIZES[part].sum() for part in parts])
    assert loads.max() - loads.min() <= SIZES.max()


def test_labelled_numbers_count_what_the_loss_counts():
    frames = [from_atoms(a) for a in labelled([molecule(i, n=3 + i) for i in range(3)])]
    del frames[1].labels["forces"], frames[2].labels["energy"]
    found = labelled_numbers(Frames(frames), np.array([1, 2]))
    assert (found["energy"], found["forces"], found["stress"]) == (1, 3 * 5, 0)


def test_a_sample_is_seeded_has_every_element_and_the_isolated_atoms_and_only_labelled_structures():
    frames = [from_atoms(a) for a in labelled([molecule(i, n=3) for i in range(300)])]
    for k, s in enumerate(frames):
        s.atomic_numbers = np.array([8, 8, 1]) if k == 123 else np.array([6, 1, 1])
        if k % 3 == 1:
            s.labels.pop("energy")
    alone = from_atoms(labelled([molecule(0, n=1)])[0])
    alone.config_type = "IsolatedAtom"
    source = Frames([*frames, alone])
    found = sampled(source, "energy", 40)
    assert len(found) == len(set(found.tolist())) == 40
    assert source.present["energy"][found].all()
    assert {123, 300} <= set(found.tolist())
    assert np.array_equal(found, sampled(source, "energy", 40))
    assert len(sampled(source, "energy", 1000)) == source.present["energy"].sum()
    assert spaced(source, "forces", 3) == [0, 150, 300]


@pytest.mark.usefixtures("needs_mace")
def test_the_refit_says_that_it_took_a_sample(monkeypatch):
    monkeypatch.setattr("pathtune.data.sample.sampled.__defaults__", (20,))
    source = Frames([from_atoms(a) for a in labelled([molecule(i, n=4) for i in range(50)])])
    _, done = refit_e0(load(tiny_mace()), source)
    assert "from a sample (seed 0) of 20 of the 50 structures, with every element" in str(done)


def test_what_is_read_ahead_comes_in_order_and_raises_where_it_failed():
    def items():
        yield from range(5)
        raise InputError("the sixth is bad")

    found = []
    with pytest.raises(InputError, match="the sixth is bad"):
        found.extend(read_ahead(items()))
    ahead = read_ahead(iter(range(100)))
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    ahead.close()


@pytest.mark.usefixtures("needs_mace")
@pytest.mark.parametrize("batch_atoms", [None, 17, "auto"])
def test_training_from_a_store_is_bitwise_training_from_its_file(tmp_path, batch_atoms):
    ase.io.write(tmp_path / "a.xyz", labelled([molecule(i, n=3 + i % 4) for i in range(9)]), format="extxyz")
    prepare([str(tmp_path / "a.xyz")], tmp_path / "store", jobs=1)
    ends = []
    for data in (tmp_path / "a.xyz", tmp_path / "store", Store(tmp_path / "store")):
        model = sparsify(load(tiny_mace()))
        history = fit(model, data, data, FitConfig(epochs=2, batch_size=4, batch_atoms=batch_atoms, check_units=False))
        ends.append([*(p.detach().clone() for p in model.trainable()), torch.tensor(history.epochs[-1]["valid_loss"])])
    for others in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0], others, strict=True))
