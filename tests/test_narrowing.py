"""Laws of the identity start and of narrowing to the share that was asked."""

import dataclasses
import itertools

import pytest
import schedulefree
import torch

from models import deltas_of, labelled, molecule, reachable_gradients, sparse_of, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, fit, load, merge, sparsify
from pathtune.adaptations.sparse import delta as delta_module
from pathtune.adaptations.sparse import narrowing
from pathtune.adaptations.sparse.narrowing import (
    Narrowing,
    add_candidates,
    drop_dead,
    keep_candidates,
    largest,
    saliency,
)
from pathtune.adaptations.sparse.scoring import choose_candidates, score_layers
from pathtune.data import collate, from_atoms
from pathtune.losses import loss

pytestmark = pytest.mark.usefixtures("needs_mace")
ELEMENTS = [1, 6, 8]
STATE = ("z", "exp_avg_sq")


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def structures(n=6, seed=0):
    return [from_atoms(a) for a in labelled([molecule(seed + i, n=4) for i in range(n)], seed)]


def batches(base, n=3):
    return [collate([s], base.atomic_numbers, base.backbone.r_max, base.backbone.dtype) for s in structures(n)]


def trained(base, config, fit_config, **options):
    model = sparsify(base, config, ELEMENTS)
    return model, fit(model, structures(), structures(2), fit_config, **options)


def test_an_identity_start_is_the_users_model_at_step_0_and_sparse(base):
    model = sparsify(base, SparseDelta(active_share=0.1), ELEMENTS)
    batch = batches(base)[0]
    assert torch.allclose(model(batch).energy, base(batch).energy, rtol=1e-14, atol=0)
    assert torch.allclose(model(batch).forces, base(batch).forces, rtol=0, atol=1e-13)
    counts = model.counts()
    assert sum(p.numel() for p in model.trainable()) == counts["reachable_weights"]
    part = sparsify(base, SparseDelta(active_share=0.1, initial_share=0.25), ELEMENTS)
    assert sum(p.numel() for p in part.trainable()) == round(0.25 * counts["reachable_weights"])


@pytest.mark.parametrize("lr", [1e-4, 5e-2])
@pytest.mark.parametrize(("epochs", "batch_size", "share"), [(2, 1, 0.03), (5, 6, 0.1), (1, 2, 0.5)])
def test_the_asked_share_is_reached_to_one_weight_for_any_rate_and_length(base, lr, epochs, batch_size, share):
    model, _ = trained(base, SparseDelta(active_share=share), FitConfig(epochs=epochs, batch_size=batch_size, lr=lr))
    counts = model.counts()
    assert counts["active"] == round(share * counts["reachable_weights"])


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_a_paper_start_reaches_the_asked_share_too(base, share):
    config = SparseDelta(delta_start="paper", active_share=share)
    model, history = trained(base, config, FitConfig(epochs=6, batch_size=2, lr=1e-2))
    counts = model.counts()
    assert counts["active"] / counts["reachable_weights"] == pytest.approx(share, rel=0.02)
    assert [line["active_share"] for line in history.epochs][-2:] == pytest.approx([share, share], rel=0.02)


def test_the_share_is_reached_by_the_stated_step_and_falls_smoothly(base):
    config = SparseDelta(active_share=0.05, by_step=12)
    _, history = trained(base, config, FitConfig(epochs=6, batch_size=2, lr=1e-2))
    shares = [line["active_share"] for line in history.epochs]
    assert all(b <= a for a, b in itertools.pairwise(shares))
    assert shares[3] == pytest.approx(0.05, rel=0.02)
    assert shares[0] > 0.15
    assert history.best_epoch >= 4
    assert min(b / a for a, b in zip([1.0, *shares], shares)) > 0.3


def test_the_schedule_is_a_straight_line_in_the_logarithm():
    config = SparseDelta(active_share=0.03)
    shares = torch.tensor([config.share_at(step, 600) for step in range(601)])
    assert (shares[:101] == 1.0).all()
    assert shares[600].item() == pytest.approx(0.03)
    assert shares[100:].log().diff().diff().abs().max() < 1e-5


@pytest.mark.parametrize("growth", [0.0, 0.5])
def test_the_learning_rate_grows_to_the_asked_one_as_the_share_falls(base, growth):
    config = SparseDelta(active_share=0.04, initial_share=0.25, by_step=12, lr_growth=growth)
    model = sparsify(base, config, ELEMENTS)
    optimizer = schedulefree.AdamWScheduleFree(model.trainable(), lr=0.1)
    narrowing = Narrowing(sparse_of(model), optimizer, slice(None), 20)
    rates = []
    for step in range(21):
        narrowing.after_step(step)
        rates.append(optimizer.param_groups[0]["lr"])
    expected = [0.1 * (0.04 / config.share_at(step, 12)) ** growth for step in range(21)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[0] == pytest.approx(0.1 * 0.16**growth)
    assert rates[12:] == [0.1] * 9


def test_a_growth_of_the_learning_rate_outside_of_0_and_1_is_refused():
    with pytest.raises(InputError, match=r"lr_growth is 1.5, expected a number in \[0, 1\]"):
        SparseDelta(lr_growth=1.5)


def test_the_largest_are_chosen_over_all_layers_within_their_limits():
    scores = [torch.tensor([5.0, 4.0, 3.0]), torch.tensor([2.0, 6.0])]
    masks = largest(scores, 3, [3, 2])
    assert [m.tolist() for m in masks] == [[True, True, False], [False, True]]
    masks = largest(scores, 3, [1, 2])
    assert [m.tolist() for m in masks] == [[True, False, False], [True, True]]
    assert sum(int(m.sum()) for m in largest(scores, 5, [1, 1])) == 2


def test_a_layer_keeps_no_more_than_its_limit(base):
    model, _ = trained(base, SparseDelta(active_share=0.2, layer_limit=0.21), FitConfig(epochs=2, batch_size=2))
    for d in deltas_of(model):
        assert d.values.numel() <= -(-21 * d.n_reachable // 100)


def test_what_stays_keeps_its_optimizer_state_bit_for_bit(base):
    model = sparsify(base, SparseDelta(active_share=0.1), ELEMENTS)
    optimizer = schedulefree.AdamWScheduleFree(model.trainable(), lr=1e-2)
    optimizer.train()
    for p in model.trainable():
        p.grad = torch.randn_like(p)
    optimizer.step()
    d = deltas_of(model)[1]
    before = (d.indices, d.values.detach().clone(), *(optimizer.state[d.values][k].clone() for k in STATE))
    keep = torch.arange(0, d.values.numel(), 3)
    keep_candidates(d, keep, optimizer.state[d.values])
    after = (d.indices, d.values.detach(), *(optimizer.state[d.values][k] for k in STATE))
    assert all(torch.equal(a[keep], b) for a, b in zip(before, after))


def test_newcomers_start_at_zero_and_the_others_stay(base):
    model = sparsify(base, SparseDelta(active_share=0.1, initial_share=0.25), ELEMENTS)
    d = deltas_of(model)[1]
    with torch.no_grad():
        d.values.normal_()
    old = dict(zip(d.indices.tolist(), d.values.tolist()))
    new = torch.tensor([i for i in model.reachable(d.layer).tolist() if i not in old][:3])
    state = {"z": d.values.detach().clone(), "exp_avg_sq": d.values.detach().square(), "k": torch.tensor(3)}
    add_candidates(d, new, torch.tensor([1.0, 2.0, 3.0], dtype=d.values.dtype), state)
    found = dict(zip(d.indices.tolist(), d.values.tolist()))
    assert d.indices.tolist() == sorted(found)
    assert found == {**old, **dict.fromkeys(new.tolist(), 0.0)}
    assert state["exp_avg_sq"][torch.isin(d.indices, new)].tolist() == [1.0, 4.0, 9.0]
    assert torch.equal(state["z"], d.values)


def test_only_entries_that_cannot_come_back_are_dropped(base):
    model = sparsify(base, SparseDelta(delta_start="paper", initial_threshold=0.5), ELEMENTS)
    d = deltas_of(model)[1]
    n = d.values.numel()
    x, y, z = torch.rand(3, n, dtype=d.values.dtype) * 0.55
    with torch.no_grad():
        d.values.copy_(y)
    indices = d.indices
    drop_dead([d], [(x, y, z)], lambda d: {})
    stays = (x > 0.5) | (y > 0.5) | (z > 0.5)
    assert 0 < int(stays.sum()) < n
    assert torch.equal(d.indices, indices[stays])


def test_regrowing_brings_in_untried_weights_and_keeps_the_share(base):
    first = sparsify(base, SparseDelta(active_share=0.1, initial_share=0.25, regrow=0.3), ELEMENTS)
    started = [set(d.indices.tolist()) for d in deltas_of(first)]
    fit(first, structures(), structures(2), FitConfig(epochs=6, batch_size=2, lr=1e-2))
    new = sum(len(set(d.indices.tolist()) - s) for d, s in zip(deltas_of(first), started))
    assert new > 0
    counts = first.counts()
    assert counts["active"] / counts["reachable_weights"] == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("score", ["gradient", "fisher", "gradient_weight"])
def test_scores_are_what_their_formula_says(base, score):
    model = sparsify(base, SparseDelta(score=score, active_share=0.1), ELEMENTS)
    frames = batches(base)
    per_frame = [reachable_gradients(model, b, loss) for b in frames]
    for i, (d, found) in enumerate(zip(deltas_of(model), score_layers(sparse_of(model), model, frames, loss, score))):
        expected = sum(g[i].square() if score == "fisher" else g[i] for g in per_frame).abs()
        if score == "gradient_weight":
            flat = base.backbone.parameters[d.layer.parameter].detach().flatten()
            at = d.layer.path_of_entries(model.reachable(d.layer))
            rms = [flat[p.offset : p.offset + p.numel].square().mean().sqrt().item() for p in d.layer.paths]
            expected = expected * torch.tensor(rms, dtype=expected.dtype)[at]
        assert torch.allclose(found, expected, rtol=1e-9)


def test_gradients_of_all_weights_agree_with_a_full_delta(base):
    sparse = sparsify(base, SparseDelta(active_share=0.1), ELEMENTS)
    full = sparsify(base, SparseDelta(active_share=1.0), ELEMENTS)
    batch = batches(base)[0]
    value = loss(full(batch, training=True), batch)
    value.backward()
    for d, found in zip(deltas_of(full), reachable_gradients(sparse, batch, loss)):
        assert torch.allclose(found, d.values.grad, rtol=1e-9, atol=1e-12)


def test_the_chosen_candidates_have_the_highest_scores(base):
    model = sparsify(base, SparseDelta(score="fisher", initial_share=0.2), ELEMENTS)
    frames = batches(base)
    scores = score_layers(sparse_of(model), model, frames, loss, "fisher")
    choose_candidates(sparse_of(model), model, frames, loss)
    masks = [torch.isin(model.reachable(d.layer), d.indices) for d in deltas_of(model)]
    lowest = min(s[m].min() for s, m in zip(scores, masks) if m.any())
    assert lowest >= max(s[~m].max() for s, m in zip(scores, masks) if (~m).any())
    assert sum(int(m.sum()) for m in masks) == round(0.2 * model.counts()["reachable_weights"])


def test_a_scoring_set_of_no_structure_is_named(base):
    model = sparsify(base, SparseDelta(score="fisher"), ELEMENTS)
    with pytest.raises(InputError, match="the scoring set has 0 structures"):
        choose_candidates(sparse_of(model), model, [], loss)


def test_saliency_weighs_a_delta_by_its_gradient():
    values, v = torch.tensor([2.0, -3.0]), torch.tensor([16.0, 1.0])
    assert saliency(values, v).tolist() == [4.0, 3.0]
    assert saliency(values, None).tolist() == [2.0, 3.0]


def test_a_step_past_the_end_is_named(base):
    model = sparsify(base, SparseDelta(by_step=100), ELEMENTS)
    with pytest.raises(InputError, match="by_step is 100, expected at most the 6 steps of the run"):
        fit(model, structures(), structures(2), FitConfig(epochs=2, batch_size=2))


def test_a_share_of_less_than_one_weight_is_named(base):
    with pytest.raises(InputError, match="active_share is 1e-06, which is less than one of .* reachable weights"):
        sparsify(base, SparseDelta(active_share=1e-6), ELEMENTS)


@pytest.mark.parametrize(("options", "words"), [
    ({"active_share": 0.0}, "active_share is 0.0, expected a share in"),
    ({"active_share": 1.5}, "active_share is 1.5"),
    ({"initial_share": -1.0}, "initial_share is -1.0"),
    ({"layer_limit": 2.0}, "layer_limit is 2.0"),
    ({"regrow": 1.0}, "regrow is 1.0"),
    ({"by_step": 0}, "by_step is 0"),
    ({"score": "magic"}, "score is 'magic', expected one of random, gradient"),
    ({"scope": ("linear", "bias")}, "scope is 'linear bias', expected some of linear, contraction, radial"),
    ({"delta_start": "identity", "schedule": "L"}, "schedule is 'L' beside delta_start 'identity'"),
    ({"initial_std": 0.5}, "initial_std is 0.5 beside delta_start 'identity'"),
    ({"delta_start": "paper", "score": "fisher"}, "score is 'fisher' beside delta_start 'paper'"),
    ({"delta_start": "paper", "schedule": "H", "active_share": 0.1}, "active_share is given beside a schedule"),
])  # fmt: skip
def test_wrong_options_are_named(options, words):
    with pytest.raises(InputError, match=words):
        SparseDelta(**options)


def test_naming_the_papers_schedule_asks_for_its_start():
    assert SparseDelta(schedule="L").is_paper
    assert SparseDelta(schedule="L").decay == 0.01
    assert not SparseDelta().is_paper
    assert SparseDelta(delta_start="paper").decay == 0.3
    assert not SparseDelta(delta_start="paper", active_share=0.1).has_thresholds


def test_deltas_on_contraction_and_radial_weights_train_and_merge(base):
    config = SparseDelta(scope=("contraction", "radial"), active_share=0.2)
    model, _ = trained(base, config, FitConfig(epochs=2, batch_size=2, lr=1e-2))
    assert {d.layer.kind for d in deltas_of(model)} == {"contraction", "radial"}
    assert all(int((d.values != 0).sum()) for d in deltas_of(model) if d.values.numel() > 20)
    merged, batch = load(merge(model), dtype="float64"), batches(base)[0]
    assert torch.allclose(merged(batch).forces, model(batch).forces, rtol=0, atol=1e-9)
    assert not torch.allclose(merged(batch).forces, base(batch).forces, rtol=0, atol=1e-5)
    for backend in ("cpu", "reference"):
        other = load(tiny_mace(), backend=backend)
        again = sparsify(other, dataclasses.replace(config), ELEMENTS)
        for d, mine in zip(deltas_of(again), deltas_of(model)):
            d.set_candidates(mine.indices, mine.values.detach().clone())
        assert torch.allclose(again(batch).forces, model(batch).forces, rtol=0, atol=1e-9)


def test_a_narrowing_run_resumes_to_the_bitwise_same_result(base, tmp_path, monkeypatch):
    from pathtune.training import loop
    from pathtune.training.folder import RunFolder

    config = FitConfig(epochs=4, batch_size=2, lr=1e-2, checkpoint_minutes=1e-9)
    for options in ({}, {"score": "fisher", "regrow": 0.2}):
        delta = SparseDelta(active_share=0.1, **options)
        expected, _ = trained(base, delta, config)
        folder = RunFolder(tmp_path / f"run{len(options)}")
        folder.folder.mkdir()
        original, count = loop.Loop._train_step, [0]

        def step(self, batch, original=original, count=count):
            count[0] += 1
            if count[0] in (4, 9):
                raise KeyboardInterrupt
            return original(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(loop.Loop, "_train_step", step)
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    trained(base, delta, config, folder=folder)
            found, _ = trained(base, delta, config, folder=folder)
        for a, b in zip(deltas_of(expected), deltas_of(found)):
            assert torch.equal(a.indices, b.indices)
            assert torch.equal(a.values, b.values)


def test_a_plan_holds_candidates_for_a_sixth_of_the_way(base):
    model = sparsify(base, SparseDelta(active_share=0.05), ELEMENTS)
    optimizer = schedulefree.AdamWScheduleFree(model.trainable())
    plan = Narrowing(sparse_of(model), optimizer, slice(None), 1000)
    assert plan.by_step == 700
    n = [d.values.numel() for d in deltas_of(model)]
    for step in range(1, 110):
        plan.after_step(step)
    assert [d.values.numel() for d in deltas_of(model)] == n


def losses_of_steps(model, monkeypatch, config):
    from pathtune.training import loop

    found, original = [], loop.Loop._check_rise

    def check(self, value, n_steps):
        found.append(value)
        original(self, value, n_steps)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_check_rise", check)
        fit(model, structures(5), structures(2), config)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("threshold", ["per_layer", "per_path"])
def test_the_fast_mode_follows_the_reference_mode_for_50_steps(monkeypatch, threshold):
    delta = SparseDelta(schedule="H", threshold=threshold)
    config = FitConfig(epochs=10, batch_size=1, lr=1e-2)
    monkeypatch.setattr(narrowing, "drop_dead", lambda *_: None)  # nothing is dropped
    reference = sparsify(load(tiny_mace(), backend="reference"), delta, ELEMENTS)
    expected = losses_of_steps(reference, monkeypatch, config)
    monkeypatch.setattr(delta_module, "CROSSOVER", 2.0)  # every layer that can be is trained sparsely
    fast = sparsify(load(tiny_mace(), backend="cpu"), delta, ELEMENTS)
    assert sum(d.is_sparse for d in deltas_of(fast)) == 11
    found = losses_of_steps(fast, monkeypatch, config)
    assert len(found) == 50
    assert ((found - expected).abs() / expected).max() < 1e-5
    assert 0 < fast.counts()["active"] < 0.9 * fast.counts()["reachable_weights"]


def test_what_is_dropped_under_thresholds_would_not_have_come_back(monkeypatch):
    delta, config = SparseDelta(threshold_decay=3.0), FitConfig(epochs=12, batch_size=1, lr=2e-2)
    base = load(tiny_mace())
    dropping = sparsify(base, delta, ELEMENTS)
    with_drops = losses_of_steps(dropping, monkeypatch, config)
    kept = sum(d.values.numel() for d in deltas_of(dropping))
    assert kept < 0.9 * dropping.counts()["reachable_weights"]
    monkeypatch.setattr(narrowing, "drop_dead", lambda *_: None)
    shadow = losses_of_steps(sparsify(base, delta, ELEMENTS), monkeypatch, config)
    assert ((with_drops - shadow).abs() / shadow).max() < 1e-9
