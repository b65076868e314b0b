"""Laws of captured steps, on the CPU with a recorder in the place of CUDA graphs: no CUDA device has run them."""

import numpy as np
import pytest
import torch

from models import crystal, labelled, molecule, nonlinear, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, adapt, fit, load, merge
from pathtune.data import Frames, collate, from_atoms
from pathtune.data.padding import grid_size, padding
from pathtune.losses import loss
from pathtune.training import loop
from pathtune.training.captured import CapturedSteps, captured_steps
from pathtune.training.options import LossScale

pytestmark = pytest.mark.usefixtures("needs_mace")
PLAIN = LossScale({}, {})


class Replaying:
    """As a graph does, it replays a step on the buffer that it was recorded with, into the same outcome."""

    def __init__(self):
        self.n_run = self.n_recorded = self.n_replayed = 0

    def run(self, step):
        self.n_run += 1
        return step()

    def record(self, step):
        self.n_recorded += 1
        value, gradients = outcome = step()

        def replay():
            self.n_replayed += 1
            again = step()
            value.copy_(again[0])
            for kept, g in zip(gradients, again[1], strict=True):
                assert (kept is None) == (g is None)
                if kept is not None:
                    kept.copy_(g)

        for kept in (value, *(g for g in gradients if g is not None)):
            kept.fill_(float("nan"))  # a recording computes nothing
        return replay, outcome


def frames(seed, n):
    """Crystals and molecules, some without a label, a cell or one of the elements."""
    atoms = [crystal(seed + i) if i % 3 == 0 else molecule(seed + i, n=3 + i % 4) for i in range(n)]
    for i, a in enumerate(atoms):
        if i % 4 == 1:
            a.numbers[a.numbers == 8] = 6
    found = [from_atoms(a) for a in labelled(atoms, seed)]
    found[1].forces = None
    found[0].weight = 2.0
    return found


@pytest.fixture(scope="module", params=["mace", "nonlinear blocks"])
def base(request):
    return load(tiny_mace(**(nonlinear() if request.param != "mace" else {})))


def steps_of(model, source, config=None, recorder=None):
    return CapturedSteps(model, source, config or FitConfig(), PLAIN, recorder or Replaying())


@pytest.mark.parametrize("kind", ["full", "kron", "sparse", "lora"])
def test_padding_changes_neither_the_loss_nor_a_gradient(base, kind):
    source = Frames(frames(0, 6))
    model = adapt(base, [kind], source.elements, {"delta": SparseDelta(initial_share=0.3)})
    config = FitConfig(config_type_weights=("Default=3",))
    steps = steps_of(model, source, config)
    for indices in ([0, 1, 2], [3, 4], [5]):
        value = steps.staged(indices)()
        found = [p.grad for p in model.trainable()]
        batch = model.batch(source, indices)
        expected = config.loss_of(model(batch, outputs=batch.wanted, training=True), batch)
        gradients = torch.autograd.grad(expected, model.trainable(), allow_unused=True)
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
        for f, e in zip(found, gradients, strict=True):
            assert (f is None) == (e is None)
            assert f is None or not f.numel() or (f - e).abs().max() <= 1e-11 * e.abs().max().clamp(min=1e-6)


def test_padded_batches_have_few_shapes_each_of_which_a_graph_serves(base):
    source = Frames([from_atoms(a) for a in labelled([molecule(i, n=3 + i % 4) for i in range(24)])])
    model = adapt(base, ["full"], source.elements)
    recorder = Replaying()
    steps = steps_of(model, source, recorder=recorder)
    generator = np.random.default_rng(0)
    keys = set()
    for _ in range(30):
        indices = generator.choice(24, 8, replace=False)
        keys.add(steps.on_host(indices).key)
        value = steps.staged(indices)()
        batch = model.batch(source, indices)
        expected = loss(model(batch, outputs=batch.wanted, training=True), batch, weights={})
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert len(keys) <= 8
    assert recorder.n_run <= len(keys)
    assert recorder.n_replayed >= 20
    assert steps.n_graphs == recorder.n_recorded <= len(keys)


@pytest.mark.parametrize("kinds", [("sparse",), ("full",), ("kron",), ("sparse", "pull")], ids="+".join)
def test_a_captured_run_ends_where_a_run_step_by_step_ends_narrowings_included(base, kinds, monkeypatch):
    delta = SparseDelta(active_share=0.05)
    config, results, recorder = FitConfig(epochs=6, batch_size=3), [], Replaying()
    for recorded in (None, recorder):
        replaced = lambda *given, r=recorded: r and CapturedSteps(*given, r)  # noqa: E731
        monkeypatch.setattr(loop, "captured_steps", replaced)
        model = adapt(base, kinds, (1, 6, 8), {"delta": delta}, seed=1)
        history = fit(model, frames(0, 9), frames(50, 3), config)
        results.append((history.epochs[-1]["train_loss"], dict(merge(model).named_parameters())))
    (loss_one, one), (loss_two, two) = results
    assert loss_two == pytest.approx(loss_one, rel=1e-8)
    assert all(torch.allclose(two[name], w, rtol=0, atol=1e-8) for name, w in one.items())
    assert recorder.n_run
    assert recorder.n_replayed or "sparse" in kinds  # which narrows at almost every step of so short a run


def test_graphs_are_forgotten_when_what_is_trained_changes_its_size(base):
    source = Frames(frames(0, 6))
    model = adapt(base, ["lora"], source.elements)
    steps = steps_of(model, source)
    for _ in range(3):
        steps.staged([0, 1])()
    assert steps.n_graphs == 1
    p = model.trainable()[0]
    p.data = p.data[..., :1].clone()
    with pytest.raises(RuntimeError):
        steps.staged([0, 1])()
    assert steps.n_graphs == 0


def test_the_oldest_graph_gives_way_and_near_atoms_get_none(base, monkeypatch):
    monkeypatch.setattr("pathtune.training.captured.MOST_GRAPHS", 1)
    near = molecule(90, n=3)
    near.positions[1] = near.positions[0] + [0.3, 0, 0]
    source = Frames([*frames(0, 6), from_atoms(labelled([near])[0])])
    steps = steps_of(adapt(base, ["full"], source.elements), source)
    for indices in ([0], [0], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]):
        steps.staged(indices)()
    assert steps.n_graphs == 1
    assert steps.on_host([6]).key is None
    for _ in range(3):
        steps.staged([6])()
    assert steps.n_graphs == 1


@pytest.mark.parametrize("elements", [(1,), (1, 6, 8)])
@pytest.mark.parametrize("n", [(1, 0), (7, 30), (61, 1000)])
def test_padding_reaches_the_grid_with_every_element_and_every_pair(elements, n):
    more, edges = padding(elements, *n, r_max=3.5)
    assert len(more) + n[0] == grid_size(n[0] + len(elements)) <= 1.25 * (n[0] + len(elements)) + 16
    assert len(edges.pair) + n[1] == grid_size(len(edges.pair) + n[1])
    batch = collate([more], elements, 3.5, torch.float64, [edges])
    assert bool((batch.receiver.diff() >= 0).all())
    assert set(more.atomic_numbers) == set(elements)
    both = batch.species[batch.sender] * len(elements) + batch.species[batch.receiver]
    assert len(both.unique()) == len(elements) ** 2
    assert torch.equal(batch.pair.bincount(), torch.full((len(edges.pair) // 2,), 2))
    vectors = torch.einsum("ei,ij->ej", batch.unit_shifts, batch.cell[0])
    first, second = batch.pair.argsort(stable=True).reshape(-1, 2).T
    assert torch.equal(vectors[first], -vectors[second])
    assert torch.equal(batch.sender[first], batch.receiver[second])


@pytest.mark.parametrize("n", range(1, 200, 7))
def test_sizes_of_the_grid_are_even_and_at_most_a_quarter_larger(n):
    assert n <= grid_size(n) <= max(16, 1.25 * n)
    assert grid_size(n) % 2 == 0
    assert grid_size(grid_size(n)) == grid_size(n)


def test_what_cannot_be_captured_is_said_in_one_sentence(base):
    source = Frames(frames(0, 3))
    assert captured_steps(adapt(base, ["full"], source.elements), source, FitConfig(capture=True), PLAIN) is None
    stock = load(tiny_mace(), backend="reference")
    with pytest.raises(InputError, match="capture is on, but the model has the reference backend, expected"):
        steps_of(stock, source)


def test_a_step_without_a_label_has_a_loss_of_zero(base):
    source = Frames(frames(0, 6))
    for name in ("energy", "forces"):
        source.read(2).labels.pop(name)
        source.present[name][2] = False
    steps = steps_of(adapt(base, ["full"], source.elements), source)
    assert steps.staged([2])().item() == 0


def test_weights_of_config_types_are_no_part_of_a_key(base):
    structures = [from_atoms(a) for a in labelled([molecule(i, n=4) for i in range(12)])]
    for i, s in enumerate(structures):
        s.config_type = "abc"[i % 3]
    source = Frames(structures)
    config = FitConfig(config_type_weights=("a=2", "b=0.5"))
    model = adapt(base, ["full"], source.elements)
    steps = steps_of(model, source, config)
    generator = np.random.default_rng(0)
    keys = set()
    for _ in range(12):
        indices = generator.choice(12, 4, replace=False)
        keys.add(steps.on_host(indices).key)
        batch = model.batch(source, indices)
        expected = config.loss_of(model(batch, outputs=batch.wanted, training=True), batch)
        assert steps.staged(indices)().item() == pytest.approx(expected.item(), rel=1e-12)
    assert len(keys) <= 3
    assert steps.n_graphs


def test_a_graph_holds_the_coefficients_that_validation_may_replace(base):
    source = Frames(frames(0, 6))
    steps = steps_of(adapt(base, ["sparse"], source.elements, {"delta": SparseDelta(initial_share=0.3)}), source)
    for _ in range(2):
        steps.staged([0, 1])()
    (graph,) = steps._graphs.values()
    frozen = [c for product in base.backbone._forward.products for c in product.kept()]
    kept = [t for part in graph.held for t in part]
    assert frozen
    assert all(any(t is c for t in kept) for c in frozen)


def test_a_run_that_drops_nothing_keeps_its_graphs(base, monkeypatch):
    recorder = Replaying()
    monkeypatch.setattr(loop, "captured_steps", lambda *given: CapturedSteps(*given, recorder))
    delta = SparseDelta(active_share=0.05, initial_share=0.05)
    model = adapt(base, ["sparse"], (1, 6, 8), {"delta": delta}, seed=1)
    structures = [from_atoms(a) for a in labelled([molecule(i, n=4) for i in range(4)])]
    fit(model, structures, structures[:2], FitConfig(epochs=10, batch_size=4))
    assert recorder.n_recorded == 1
    assert recorder.n_replayed == 9


def test_data_of_many_elements_are_refused_in_one_sentence(base):
    atoms = molecule(1, n=13)
    atoms.numbers = np.arange(1, 14)
    with pytest.raises(InputError, match="capture is on, but the training data have 13 elements, expected 12 at most"):
        steps_of(adapt(base, ["full"], (1, 6, 8)), Frames([from_atoms(labelled([atoms])[0])]))
