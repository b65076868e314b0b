"""Laws of importance: what its numbers must obey whatever was trained (docs/interpretation.md)."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

from models import labelled, molecule, tiny_mace
from pathtune import InputError, SparseDelta, adapt, importance, load, sparsify, unfreeze
from pathtune.data import as_source, batches, from_atoms
from pathtune.evaluation import mean_loss
from pathtune.importance import overlap
from pathtune.importance.anisotropy import order_of
from pathtune.importance.counts import rate_line
from pathtune.importance.integrated import complete_gradients, is_complete
from pathtune.importance.measure import BATCH_SIZE
from pathtune.importance.parts import Change, parts_of
from pathtune.importance.shapley import coalitions, left_out, shapley_values
from pathtune.layers import Path
from pathtune.training.options import FitConfig

pytestmark = pytest.mark.usefixtures("needs_mace")
SIZE = 0.03  # of the change, times the rms of each weight tensor


@pytest.fixture(scope="module")
def frames():
    return as_source([from_atoms(a) for a in labelled([molecule(i, n=5) for i in range(5)])])


def changed(model, seed=0, size=SIZE):
    """The same model with random parameters in its adaptations."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.trainable():
            parameter += size * torch.randn_like(parameter) * (parameter.square().mean().sqrt() or 0.3)
    return model


def tuned(arm, stock=None):
    base = load(stock if stock is not None else tiny_mace())
    options = {"delta": SparseDelta(initial_share=0.2, active_share=0.2)}
    return changed(adapt(base, arm.split(), [1, 6, 8], options))


def at_base(model):
    """The base with the tuned model's E0."""
    base = load(model.base.stock)
    return base.with_e0(model.e0)


@pytest.mark.parametrize("arm", ["sparse", "lora", "full", "modulation", "sparse lora", "readout"])
def test_shapley_values_sum_to_the_difference_of_losses_of_base_and_tuned_model(arm, frames):
    model = tuned(arm)
    found = importance(model, frames)
    loss_of = FitConfig().loss_of
    losses = [mean_loss(m, frames, BATCH_SIZE, loss_of) for m in (at_base(model), model)]
    assert sum(g.shapley for g in found.groups) == pytest.approx(losses[0] - losses[1], rel=1e-6)
    assert sum(g.changed for g in found.groups) == sum(int((d != 0).sum()) for d in deltas(model))


def deltas(model):
    change = Change.of(model)
    return [change.delta(name) for name in change.base]


def test_values_of_a_known_game_are_those_of_the_textbook():
    """Gloves: l holds a left one, r1 and r2 right ones; a pair is worth 1 (Shapley 1953: 2/3, 1/6, 1/6)."""
    players = ["l", "r1", "r2"]
    losses = {s: -float("l" in s and len(s) > 1) for s in coalitions(players)}
    values = shapley_values(players, losses)
    assert [values[p] for p in players] == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    assert left_out(players, losses) == {"l": 1.0, "r1": 0.0, "r2": 0.0}


@pytest.mark.parametrize("arm", ["sparse", "full"])
def test_integrated_gradients_are_complete_or_hidden(arm, frames):
    found = importance(tuned(arm), frames)
    assert found.is_complete
    assert abs(found.completeness - 1) <= 0.05
    assert sum(p.integrated for p in found.parts) == pytest.approx(found.completeness * found.removed)
    with_one = one_node(tuned(arm), frames)
    assert is_complete(with_one) == (abs(with_one - 1) <= 0.05)


def one_node(model, frames):
    change = Change.of(model)
    loss_of = FitConfig().loss_of
    batch = list(batches(model, frames, BATCH_SIZE))
    losses = [mean_loss(m, frames, BATCH_SIZE, loss_of) for m in (at_base(model), model)]
    _, nodes, completeness = complete_gradients(model, change, batch, loss_of, losses[0] - losses[1], (1,))
    assert nodes == 1
    return completeness


def test_incomplete_gradients_are_not_shown(frames, monkeypatch):
    module = sys.modules["pathtune.importance.measure"]  # the facade's function hides the package of its name
    monkeypatch.setattr(module, "complete_gradients", lambda *args: ({}, 16, 0.8))
    found = importance(tuned("sparse"), frames)
    assert not found.is_complete
    assert {p.integrated for p in found.parts} == {g.integrated_share for g in found.groups} == {None}


@pytest.mark.parametrize("factor", [4.0, 0.125])
def test_rescaling_a_path_and_its_coefficient_changes_no_number(factor, frames):
    name = "interactions.1.linear"
    plain, scaled = tiny_mace(), tiny_mace()
    linear = scaled.get_submodule(name)
    first = linear.instructions[1]
    linear.instructions = [
        ins._replace(path_weight=ins.path_weight / factor) if ins is first else ins for ins in linear.instructions
    ]
    start = int(np.prod(linear.instructions[0].path_shape))
    where = slice(start, start + int(np.prod(first.path_shape)))
    with torch.no_grad():
        linear.weight[where] *= factor
    models = []
    for stock in (plain, scaled):
        model = unfreeze(load(stock), "full")
        models.append(model)
    changed(models[0])
    with torch.no_grad():
        for target, source in zip(models[1].trainable(), models[0].trainable()):
            target.copy_(source)
        models[1].backbone.parameters[f"{name}.weight"][where] *= factor
    one, other = (importance(model, frames).as_dict() for model in models)
    numbers = [list(flat(x)) for x in (one, other)]
    assert len(numbers[0]) > 100
    assert np.allclose(*numbers, rtol=1e-7, atol=1e-12)


def flat(value):
    if isinstance(value, dict):
        for v in value.values():
            yield from flat(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from flat(v)
    elif isinstance(value, (int, float)):
        yield float(value)


def test_each_weight_belongs_to_one_part_and_what_serves_several_l_is_the_rest():
    base = load(tiny_mace())
    names = set(base.base.parameters)
    parts = parts_of(base.base, names, [0, 2])
    for name in names:
        indices = torch.cat([p.indices for p in parts if p.parameter == name]).sort().values
        assert torch.equal(indices, torch.arange(base.base.parameters[name].numel())), name
    for part in parts:
        if any(word in part.parameter for word in ("conv_tp_weights", "contractions")):
            assert part.group == "rest"
    assert {p.group for p in parts if p.parameter == "interactions.1.linear.weight"} == {"l = 0", "l = 1", "l = 2"}
    skip = [p for p in parts if "skip_tp" in p.parameter]
    assert skip
    assert all(torch.equal(p.is_reachable, p.species != 1) for p in skip)
    degrees = [Path(t, 0, ()).degree for t in ("2e -> 2e", "1o x 0e -> 1o", "0e x 1o -> 1o", "radial")]
    assert degrees == [2, 1, None, None]


def test_elements_that_the_data_lack_have_no_row_and_the_others_their_reachable_weights():
    frames = [from_atoms(a) for a in labelled([molecule(i, n=5) for i in range(4)])]
    for s in frames:
        s.atomic_numbers[s.atomic_numbers == 8] = 1
    model = sparsify(load(tiny_mace()), SparseDelta(initial_share=0.5, active_share=0.5), [1, 6])
    found = importance(changed(model), frames)
    assert {row.element for row in found.elements} == {"H", "C"}
    for row in found.elements:
        assert 0 <= row.changed <= row.reachable
        assert row.rate == row.changed / row.reachable
    assert sum(row.reachable for row in found.elements) < sum(p.weights for p in found.parts if "species" in p.kind)


def test_rows_of_elements_divide_the_fisher_information_of_their_paths_and_share_its_line(frames):
    found = importance(tuned("sparse"), frames)
    for group in ("l = 0", "l = 1", "l = 2"):
        paths = [p for p in found.parts if p.kind == "species linear" and p.group == group]
        rows = [row for row in found.elements if row.group == group]
        assert paths
        assert sum(r.fisher * r.reachable for r in rows) == pytest.approx(sum(p.fisher * p.reachable for p in paths))
    for row in found.elements:
        assert row.predicted_rate == found.rate_line.at(row.fisher)


def test_rates_beside_the_line_that_was_fitted_to_them(frames):
    found = importance(tuned("sparse"), frames)
    for p in found.parts:
        assert p.rate == p.changed / p.reachable
    x = [np.exp(k) for k in range(6)]
    line = rate_line([0.01 * f**0.5 for f in x], x)
    assert (line.slope, line.correlation) == pytest.approx((0.5, 1.0))
    assert line.at(x[2]) == pytest.approx(0.01 * x[2] ** 0.5)
    assert importance(tuned("full"), frames).rate_line is None  # every weight changed: no pattern


def test_local_order_of_known_surroundings():
    """A cube's corners: q_1 = q_2 = q_3 = 0; one neighbour: 1; a line through the atom: q_1 = 0, q_2 = 1."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
    assert np.allclose(order_of(corners, np.zeros(8, dtype=int), 4.0), 0, atol=1e-7)
    assert np.allclose(order_of(corners[:1], np.zeros(1, dtype=int), 4.0), 1)
    line = np.array([[0, 0, 1.0], [0, 0, -1.0]])
    assert np.allclose(order_of(line, np.zeros(2, dtype=int), 4.0), [[0, 1, 0]], atol=1e-7)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    some = np.random.default_rng(1).normal(size=(7, 3))
    receiver = np.array([0, 0, 0, 1, 1, 1, 1])
    assert np.allclose(order_of(some @ rotation, receiver, 6.0), order_of(some, receiver, 6.0))


def test_the_group_that_was_moved_alone_has_all_of_the_importance(frames):
    base = load(tiny_mace())
    model = unfreeze(base, "full")
    with torch.no_grad():
        for part in parts_of(base.base, set(base.base.parameters), [0, 1, 2]):
            if part.degree == 1:
                model.backbone.parameters[part.parameter].view(-1)[part.indices] += 0.1
    found = importance(model, frames)
    assert found.of("l = 1").shapley == pytest.approx(found.removed)
    assert {g.shapley for g in found.groups if g.group != "l = 1"} == {0.0}


def test_overlap_of_the_same_of_others_and_of_independent_quarters():
    base = load(tiny_mace())
    delta = SparseDelta(initial_share=0.2, active_share=0.2)
    first, second = (changed(sparsify(base, delta, [1, 6, 8], seed=seed), seed) for seed in (0, 1))
    same = overlap(first, first)
    assert same["jaccard"] == same["ceiling"] == 1
    assert same["cosine"] == pytest.approx(1)
    found = overlap(first, second, (0.2, 0.2))
    assert found["jaccard"] == pytest.approx(found["chance"], rel=0.5)
    assert found["ceiling"] == pytest.approx(0.2 / 1.8, rel=0.02)
    assert found["both"] == round(found["jaccard"] * (sum(found["changed"]) - found["both"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, f: importance(load(tiny_mace()), f), "expected a tuned model"),
        (lambda m, f: importance(m, f, max_frames=0), "max_frames is 0, expected at least 1"),
        (lambda m, f: importance(m, unlabelled(f)), "have no label that counts, expected energy or forces or stress"),
        (lambda m, f: overlap(m, changed(unfreeze(load(tiny_mace(seed=5)), "full"))), "made for another model"),
    ],
)
def test_bad_input_is_one_sentence(change, words, frames):
    with pytest.raises(InputError, match=words):
        change(tuned("sparse"), frames)


def unlabelled(frames):
    return [dataclasses.replace(frames.read(i), labels={}) for i in range(len(frames))]
