"""CUDA kernels against the CPU's, on a device: values, derivatives, streams, graphs, errors, a training step."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from ase.build import molecule

import laws.edge_conv
import laws.edge_geometry
import laws.radial_table
import laws.sampled_gradient
import laws.species_linear
import laws.symmetric_contraction
from models import labelled
from pathtune import FitConfig, SparseDelta, adapt, fit, load, sparsify
from pathtune.data import from_atoms
from pathtune.losses import loss
from pathtune.ops import (
    ThresholdedLayer,
    delta_gradients,
    edge_conv,
    edge_geometry,
    group_by_species,
    radial_table,
    soft_threshold,
    species_linear,
    symmetric_contraction,
)

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}


def on(indices, function):
    """By device, the function of its tensors: indices are moved once, because a capture and a stream must not wait."""
    return lambda device: functools.partial(function, indices.to(device))


def conv(case, dtype):
    x, y, w, graph, table = laws.edge_conv.make(case, "several", dtype)
    return on(graph, lambda moved, *t: edge_conv(*t, moved, table)), (x, y, w)


def contraction(case, dtype):
    a, coefficients, groups, table = laws.symmetric_contraction.direct(case, "several", dtype)
    return on(groups, lambda moved, *t: symmetric_contraction(*t, moved, table)), (a, coefficients)


def linear(case, dtype):
    x, weights, species, table = laws.species_linear.make(case, "several", dtype)
    groups = group_by_species(species, table.n_species)
    return on(groups, lambda moved, *t: species_linear(*t, moved, table)), (x, weights)


OPERATORS = [(conv, "layer 2 of mace"), (conv, "sevennet"), (contraction, "scalars and vectors"),
             (contraction, "ragged tails"), (linear, "wide"), (linear, "ragged tails")]  # fmt: skip


def through_second_derivatives(function, tensors, probes):
    """Value, first derivatives, and second ones of a scalar made of them."""
    out = function(*tensors)
    first = torch.autograd.grad((out * probes[0]).pow(2).sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum((g * p).sum() for g, p in zip(first, probes[1:])), tensors)
    return [t.detach() for t in (out, *first, *second)]


def assert_same(found, expected, dtype):
    for f, e in zip(found, expected, strict=True):
        f = f.cpu()
        assert f.shape == e.shape
        scale = e.abs().max().item() if e.numel() else 0.0
        assert not e.numel() or (f - e).abs().max().item() <= TOLERANCE[dtype] * max(scale, 1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("operator", "case"), OPERATORS, ids=lambda v: getattr(v, "__name__", v))
def test_cuda_equals_cpu_through_second_derivatives(operator, case, dtype, cuda):
    make, tensors = operator(case, dtype)
    with torch.no_grad():
        out = make(torch.device("cpu"))(*tensors)
    probes = [torch.randn_like(t) for t in (out, *tensors)]
    expected = through_second_derivatives(make(torch.device("cpu")), tensors, probes)
    moved = [t.detach().to(cuda).requires_grad_() for t in tensors]
    found = through_second_derivatives(make(cuda), moved, [p.to(cuda) for p in probes])
    assert_same(found, expected, dtype)


SMALL = [(conv, "one channel"), (contraction, "one channel"), (linear, "vectors")]


@pytest.mark.parametrize(("operator", "case"), SMALL, ids=lambda v: getattr(v, "__name__", v))
def test_gradgradcheck(operator, case, cuda):
    make, tensors = operator(case, torch.float64)
    moved = [t.detach().to(cuda).requires_grad_() for t in tensors]
    assert torch.autograd.gradgradcheck(make(cuda), moved, nondet_tol=1e-10)


def on_device(layer, device):
    """The same DeltaCotangent elsewhere; its candidates' tables stay where they are."""
    move = lambda t: None if t is None else t.to(device)  # noqa: E731
    terms = [(x.to(device), g.to(device), groups.to(device)) for x, g, groups in layer.terms]
    return dataclasses.replace(layer, delta=move(layer.delta), segment=move(layer.segment), other=move(layer.other),
                               terms=terms)  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_gradients_of_deltas_equal_the_cpus(dtype, cuda):
    layers = [laws.sampled_gradient.cotangent(*given, dtype=dtype)[0] for given in laws.sampled_gradient.LAYERS]
    moved = [on_device(layer, cuda) for layer in layers]
    for found, expected in zip(delta_gradients(moved), delta_gradients(layers)):
        assert_same(found, expected, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_columns", [1, 37, 132])
def test_radial_table_equals_the_cpus(n_columns, dtype, cuda):
    r, table, slot = laws.radial_table.make(n_columns, 40, dtype)
    moved = r.detach().to(cuda).requires_grad_()
    found = laws.radial_table.derivatives(radial_table, moved, table.to(cuda), slot.to(cuda))
    assert_same(found, laws.radial_table.derivatives(radial_table, r, table, slot), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("l_max", range(4))
def test_edge_geometry_equals_the_cpus(l_max, dtype, cuda):
    vectors, c, graph, sign = laws.edge_geometry.make(l_max, 300, dtype)
    moved = vectors.detach().to(cuda).requires_grad_()
    found = laws.edge_geometry.derivatives(edge_geometry, moved, c, graph.to(cuda), sign.to(cuda))
    assert_same(found, laws.edge_geometry.derivatives(edge_geometry, vectors, c, graph, sign), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_soft_threshold_equals_the_cpus(dtype, cuda):
    values, base = torch.randn(1000, dtype=dtype), torch.randn(3000, dtype=dtype)
    indices, threshold = torch.randperm(3000)[:1000].sort().values, torch.tensor([0.5], dtype=dtype)
    results = []
    for device in ("cpu", cuda):
        effective = base.clone().to(device)
        (delta,), _ = soft_threshold([ThresholdedLayer(
            values=values.to(device), threshold=threshold.to(device), indices=indices.to(device),
            base=base.to(device), effective=effective)])  # fmt: skip
        results.append((delta.cpu(), effective.cpu()))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_kernels_run_on_the_current_stream(cuda):
    """A long computation before the kernel, on the same side stream and nowhere waited for."""
    make, tensors = conv("wide", torch.float32)
    expected = make(torch.device("cpu"))(*[2 * t.detach() for t in tensors])
    moved = [t.detach().to(cuda) for t in tensors]
    function, work = make(cuda), torch.randn(4096, 4096, device=cuda)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(20):
            work = work @ work / 64
        late = [t + t + 0 * work[0, 0].nan_to_num() for t in moved]
        found = function(*late)
    stream.synchronize()
    assert_same([found], [expected], torch.float32)


def test_a_captured_graph_repeats_the_call(cuda):
    make, tensors = conv("wide", torch.float32)
    moved = [t.detach().to(cuda) for t in tensors]
    function = make(cuda)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        function(*moved)  # tables are moved to the device once, before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function(*moved)
    moved[0].mul_(3)
    graph.replay()
    torch.cuda.synchronize()
    assert_same([out], [function(*moved).cpu()], torch.float32)


def test_tensors_on_two_devices_are_refused_by_name(cuda):
    make, (x, y, w) = conv("scalars", torch.float32)
    with pytest.raises(TypeError, match=r"edge_conv: y is on cpu, but x is on cuda"):
        make(cuda)(x.to(cuda), y, w)


def test_sparse_training_steps_give_the_cpus_loss(cuda):
    losses = []
    for device in ("cpu", "cuda"):
        base = load("demo", dtype="float64", device=device)
        model = sparsify(base, SparseDelta(active_share=0.03), seed=0)
        structures = [from_atoms(molecule(name), where=name) for name in ("CH3CH2OH", "NH3")]
        for structure in structures:
            structure.energy_ev, structure.forces = 0.0, np.ones((len(structure), 3))
        optimizer = torch.optim.Adam(model.trainable(), lr=1e-2)
        batch = model.collate(structures)
        for _ in range(3):
            value = loss(model(batch, training=True), batch)
            optimizer.zero_grad()
            value.backward(inputs=model.trainable())
            optimizer.step()
        losses.append(value.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("arm", ["sparse", "full"])
def test_a_run_of_captured_steps_ends_where_a_run_step_by_step_ends(arm, cuda, needs_mace):
    frames = [from_atoms(atoms) for atoms in labelled([molecule(name) for name in ("CH4", "NH3", "CH3OH", "C2H6") * 6])]
    ends = []
    for capture in (False, True):
        base = load("demo", dtype="float64", device=str(cuda))
        model = adapt(base, [arm], (1, 6, 7, 8), {"delta": SparseDelta(active_share=0.05)}, seed=1)
        config = FitConfig(epochs=6, batch_size=4, capture=capture, check_units=False)
        history = fit(model, frames, frames[:4], config)
        ends.append([line["train_loss"] for line in history.epochs])
    assert ends[1] == pytest.approx(ends[0], rel=1e-6)
