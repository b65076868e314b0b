"""Laws of the deltas' node: the gradients of the plain formula, from one call of the kernel in a pass."""

import importlib

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from laws.irreps import irreps
from laws.sampled_gradient import shapes_of
from laws.species_linear import CASES, make
from pathtune import reference
from pathtune.ops import (
    DeltaTarget,
    SparseWeights,
    group_by_species,
    group_candidates,
    sparse_path_linear,
    sparse_species_linear,
    sparse_weights,
)
from pathtune.tables.species_linear import species_linear_table

kernel_module = importlib.import_module("pathtune.ops._sampled")
THRESHOLDS = ["none", "one", "several"]
N_SPECIES = [1, 5, 0]  # a path linear, a species linear, and a layer that takes W' as a plain tensor


class Model:
    """Three layers, two of them sparse, and an energy whose slope in x stands for forces."""

    def __init__(self, thresholds="one", dtype=torch.float64, share=0.3, n_nodes=None, frozen=()):
        irreps_in, irreps_out, paths = CASES["vectors"]
        self.species = make("vectors", "several")[2][:n_nodes]
        self.tables = [species_linear_table(irreps(irreps_in), irreps(irreps_out), n, paths) for n in N_SPECIES[:2]]
        self.x = torch.randn(self.species.numel(), self.tables[0].dim_in, dtype=dtype, requires_grad=True)
        sizes = [table.weight_numel for table in self.tables] + [self.tables[1].dim_out]
        self.bases = [torch.randn(n, dtype=dtype) * 0.3 for n in sizes]
        self.targets = []
        self.values = []
        self.scores = []
        for i, n in enumerate(sizes):
            indices = torch.randperm(n)[: int(share * n)].sort().values
            n_thresholds = {"none": 0, "one": 1, "several": 3}[thresholds]
            segment = torch.randint(0, 3, indices.shape) if n_thresholds == 3 else None
            candidates = group_candidates(indices, shapes_of(self.tables[i])) if i < 2 else None
            self.targets.append(DeltaTarget(indices, segment, candidates))
            self.values.append(torch.randn(indices.numel(), dtype=dtype).requires_grad_(i not in frozen))
            score = torch.randn(n_thresholds, dtype=dtype).sub_(1).requires_grad_() if n_thresholds else None
            self.scores.append(score)

    def parameters(self):
        return [*self.values, *(s for s in self.scores if s is not None)]

    def sparse(self):
        return sparse_weights(self.targets, self.values, self.scores, self.bases)

    def dense(self):
        deltas = [
            v if s is None else reference.soft_threshold(v, torch.sigmoid(s), t.segment)
            for v, s, t in zip(self.values, self.scores, self.targets)
        ]
        return [base.index_add(0, t.indices, s) for base, t, s in zip(self.bases, self.targets, deltas)]

    def layer(self, i, x, weights):
        if not isinstance(weights, SparseWeights):
            return reference.species_linear(x, weights, self.species % N_SPECIES[i], self.tables[i])
        if i == 0:
            return sparse_path_linear(x, weights, self.tables[0])
        return sparse_species_linear(x, weights, group_by_species(self.species, N_SPECIES[1]), self.tables[1])

    def energy(self, weights, x=None):
        y = self.layer(1, torch.tanh(self.layer(0, self.x if x is None else x, weights[0])), weights[1])
        return (torch.tanh(y) * weights[2]).sum()

    def loss(self, weights, kind="both"):
        energy = self.energy(weights)
        if kind == "energy":
            return energy**2
        (slope,) = torch.autograd.grad(energy, self.x, create_graph=True)
        return (slope**3).sum() + (energy if kind == "both" else 0)

    def gradients(self, weights, kind="both", parameters=None, **options):
        return torch.autograd.grad(self.loss(weights, kind), parameters or self.parameters(), **options)


@pytest.fixture
def calls(monkeypatch):
    """How many layers each call of the kernel had."""
    found = []
    original = kernel_module.call_cpu

    def spy(name, like, layers, terms):
        found.append([layer.end_term - layer.first_term for layer in layers])
        original(name, like, layers, terms)

    monkeypatch.setattr(kernel_module, "call_cpu", spy)
    return found


def assert_close(found, expected, tolerance=1e-12):
    assert len(found) == len(expected)
    for f, e in zip(found, expected):
        assert f.shape == e.shape
        assert (f - e).abs().max() <= tolerance * e.abs().max() if e.numel() else True


@pytest.mark.parametrize("kind", ["energy", "forces", "both"])
@pytest.mark.parametrize("thresholds", THRESHOLDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gradients_equal_reference(kind, thresholds, dtype, tolerance, isa):
    model = Model(thresholds, dtype)
    assert torch.equal(model.loss(model.sparse(), kind), model.loss(model.sparse(), kind))
    assert_close(model.gradients(model.sparse(), kind), model.gradients(model.dense(), kind), tolerance)


def test_a_force_loss_calls_the_kernel_once_with_both_terms_of_every_layer(calls):
    model = Model()
    model.loss(model.sparse()).backward(inputs=model.parameters())
    assert calls == [[2, 2, 0]]
    calls.clear()
    model.loss(model.sparse(), "energy").backward(inputs=model.parameters())
    assert calls == [[1, 1, 0]]


def test_values_of_the_weights_are_those_of_the_formula():
    model = Model("several")
    for found, expected in zip(model.sparse(), model.dense()):
        assert torch.equal(found.effective if isinstance(found, SparseWeights) else found, expected)


@pytest.mark.parametrize("thresholds", THRESHOLDS)
def test_gradcheck_and_gradgradcheck(thresholds):
    model = Model(thresholds, n_nodes=4)
    tensors = [model.x, *model.parameters()]

    def function(x, *parameters):
        model.x = x
        model.values = list(parameters[:3])
        model.scores = list(parameters[3:]) or [None] * 3
        # the check calls again before it goes backward: a W' of its own for each call
        model.targets = [DeltaTarget(t.indices, t.segment, t.candidates) for t in model.targets]
        return model.energy(model.sparse())

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_a_differentiated_pass_equals_reference(calls):
    """Products with the Hessian of a force loss: third derivatives of the energy."""
    found = []
    model = Model("several")
    for weights in (model.sparse, model.dense):
        gradients = model.gradients(weights(), create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in gradients), model.parameters()))
    assert_close(*found)


def test_the_gradient_of_a_force_loss_without_a_double_backward():
    """-d/de grad E(x + e v) with v = -dL/dF (BASELINES.md), by central differences."""
    model = Model()
    with torch.no_grad():
        model.x.mul_(0.5)
    found = model.gradients(model.sparse(), "forces")
    x = model.x.detach()
    (slope,) = torch.autograd.grad(model.energy(model.dense()), model.x)
    v = 3 * slope**2  # dL/d(slope)
    step = 1e-6

    def at(shift):
        return torch.autograd.grad(model.energy(model.sparse(), (x + shift * v).requires_grad_()), model.parameters())

    expected = [(a - b) / (2 * step) for a, b in zip(at(step), at(-step))]
    assert_close(found, expected, 1e-7)


@pytest.mark.parametrize("thresholds", ["none", "one"])
def test_an_inactive_entry_receives_nothing_and_without_thresholds_all_are_active(thresholds):
    model = Model(thresholds)
    with torch.no_grad():
        for value in model.values:
            value[::2] = 0
    for gradient in model.gradients(model.sparse())[:3]:
        present = gradient != 0
        assert present[1::2].any()
        assert present[::2].any() == (thresholds == "none")


def test_nothing_active_nothing_to_do(calls):
    model = Model()
    with torch.no_grad():
        for value in model.values:
            value.mul_(1e-6)
    assert all((g == 0).all() for g in model.gradients(model.sparse()))
    assert all(torch.equal(w.effective, base) for w, base in zip(model.sparse()[:2], model.bases))


@pytest.mark.parametrize("change", [{"share": 0.0}, {"share": 1.0}, {"n_nodes": 0}, {"n_nodes": 1}])
def test_the_edges_of_the_domain(change):
    model = Model("several", **change)
    found, expected = (model.gradients(w) for w in (model.sparse(), model.dense()))
    assert_close(found, expected)
    assert sparse_weights([], [], [], []) == []


def test_a_kept_graph_gives_the_same_gradients_again():
    model = Model()
    loss = model.loss(model.sparse())
    first, second = (torch.autograd.grad(loss, model.parameters(), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert_close(first, model.gradients(model.dense()))


@pytest.mark.parametrize("wanted", [[0], [1], [2], [3], [4], [0, 4]])
def test_some_of_the_parameters_are_enough(wanted):
    model = Model()
    parameters = [model.parameters()[i] for i in wanted]
    assert_close(*(model.gradients(w, parameters=parameters) for w in (model.sparse(), model.dense())))


def test_frozen_values_get_none_and_disturb_nothing():
    model = Model(frozen=(0,))
    parameters = model.parameters()[1:]
    assert_close(*(model.gradients(w, parameters=parameters) for w in (model.sparse(), model.dense())))
    model.loss(model.sparse()).backward()
    assert model.values[0].grad is None


def test_a_plain_backward_over_everything_is_right_too():
    model = Model()
    expected = model.gradients(model.dense())
    model.loss(model.sparse()).backward()
    assert_close([p.grad for p in model.parameters()], expected)


def test_a_layer_that_is_not_used_gets_none():
    model = Model()
    found = []
    for weights in (model.sparse(), model.dense()):
        loss = model.layer(0, model.x, weights[0]).pow(2).sum()
        found.append(torch.autograd.grad(loss, model.parameters(), allow_unused=True))
    assert [g is None for g in found[0]] == [False, True, True, False, True, True]
    assert_close(*[[g for g in gradients if g is not None] for gradients in found])


def test_weights_used_twice_add_up(calls):
    model = Model()
    x = torch.randn_like(model.x)
    found = []
    for weights in (model.sparse(), model.dense()):
        loss = model.energy(weights) ** 2 + model.energy(weights, x) ** 3
        found.append(torch.autograd.grad(loss, model.parameters()))
    assert calls == [[2, 2, 0]]
    assert_close(*found)


def test_what_reaches_the_delta_on_another_way_is_added():
    model = Model()
    found = []
    weights = model.sparse()
    found.append(torch.autograd.grad(model.loss(weights) + weights[0].values.pow(3).sum(), model.parameters()))
    dense = model.dense()
    values = (dense[0] - model.bases[0])[model.targets[0].indices]
    found.append(torch.autograd.grad(model.loss(dense) + values.pow(3).sum(), model.parameters()))
    assert_close(*found)


def test_a_failed_pass_leaves_nothing_behind():
    model = Model()
    loss = model.loss(model.sparse())
    fail = [True]

    def hook(gradient):
        if fail[0]:
            raise RuntimeError("stopped")

    model.x.register_hook(hook)  # called when the layers have left their products
    with pytest.raises(RuntimeError, match="stopped"):
        torch.autograd.grad(loss, [*model.parameters(), model.x], retain_graph=True)
    fail[0] = False
    assert_close(torch.autograd.grad(loss, model.parameters()), model.gradients(model.dense()))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_under_checkpointing_the_gradient_is_right(use_reentrant):
    """A reentrant checkpoint runs a backward within the backward, in which the deltas are plain leaves."""
    model = Model()
    weights = model.sparse()

    def first(x, values):
        return model.layer(0, x, SparseWeights(weights[0].effective, values, weights[0].candidates))

    y = checkpoint(first, model.x, weights[0].values, use_reentrant=use_reentrant)
    energy = (torch.tanh(model.layer(1, torch.tanh(y), weights[1])) * weights[2]).sum()
    gradients = []
    for loss in (energy**2, model.energy(model.dense()) ** 2):
        for p in model.parameters():
            p.grad = None
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert_close(*gradients)


def test_the_gradient_of_the_delta_itself_is_an_error_and_never_a_silent_zero():
    model = Model()
    weights = model.sparse()
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(model.loss(weights), weights[0].values)


def test_without_the_engine_s_pass_number_every_layer_computes_its_own(monkeypatch, calls):
    model = Model()
    expected = model.gradients(model.sparse())
    calls.clear()
    monkeypatch.delattr(torch._C, "_current_graph_task_id")
    assert_close(model.gradients(model.sparse()), expected)
    assert len(calls) == 5


def test_a_step_between_forward_and_backward_is_refused():
    model = Model()
    loss = model.loss(model.sparse())
    with torch.no_grad():
        model.values[0].mul_(1.1)
    model.sparse()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_new_base_is_taken_up():
    model = Model()
    model.sparse()
    with torch.no_grad():
        model.bases[0].mul_(2)
    model.bases[1] = torch.randn_like(model.bases[1])
    for found, expected in zip(model.sparse()[:2], model.dense()):
        assert torch.equal(found.effective, expected)


def test_a_pass_repeats_bitwise():
    model = Model(dtype=torch.float32)
    first, second = (model.gradients(model.sparse()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_wrong_sizes_are_named():
    model = Model()
    with pytest.raises(ValueError, match="number of scores is 1, expected 3"):
        sparse_weights(model.targets, model.values, model.scores[:1], model.bases)
