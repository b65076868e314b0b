"""Every operator and pass once on tiny ragged shapes, in every order of threads: what ThreadSanitizer and the planted
defects are tried with, because it takes a second."""

import pytest
import torch

import laws.edge_conv
import laws.edge_geometry
import laws.radial_table
import laws.sampled_gradient
import laws.species_linear
import laws.symmetric_contraction
from pathtune import reference
from pathtune.ops import (
    ThresholdedLayer,
    delta_gradients,
    edge_conv,
    edge_geometry,
    radial_table,
    soft_threshold,
)

TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-5}


def assert_close(found, expected, dtype):
    for f, e in zip(found, expected, strict=True):
        f = f.detach()
        e = e.detach()
        assert f.shape == e.shape
        assert torch.isfinite(f).all()
        if e.numel():
            assert (f - e).abs().max() <= TOLERANCE[dtype] * max(float(e.abs().max()), 1e-9)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", ["ragged tails, both parities", "ragged, joined", "one channel"])
def test_tiny_edge_conv(case, dtype, cuda_kernels):
    inputs = laws.edge_conv.make(case, "several", dtype)
    shared = laws.edge_conv.make(case, "several", dtype, torch.tensor([0, 1, 2, 0, 1, 2, 3, 4, 3, 4]))
    for given in (inputs, shared):
        found = laws.edge_conv.derivatives(edge_conv, *given)
        assert_close(found, laws.edge_conv.derivatives(reference.edge_conv, *given), dtype)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_tiny_edge_conv_over_senders(deterministic, cuda_kernels):
    given = laws.edge_conv.make("ragged tails, both parities", "several")
    found = laws.edge_conv.derivatives(edge_conv, *given)
    assert_close(found, laws.edge_conv.derivatives(reference.edge_conv, *given), torch.float64)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", ["ragged tails", "one channel", "correlation 4"])
def test_tiny_symmetric_contraction(case, dtype, cuda_kernels):
    inputs = laws.symmetric_contraction.make(case, "several", dtype)
    found = laws.symmetric_contraction.derivatives(laws.symmetric_contraction.kernel, *inputs)
    expected = laws.symmetric_contraction.derivatives(reference.symmetric_contraction, *inputs)
    assert_close(found, expected, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", ["ragged tails", "two paths into one irrep"])
def test_tiny_species_linear(case, dtype, cuda_kernels):
    inputs = laws.species_linear.make(case, "several", dtype)
    found = laws.species_linear.derivatives(laws.species_linear.kernel, *inputs)
    assert_close(found, laws.species_linear.derivatives(reference.species_linear, *inputs), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_tiny_sampled_gradient(dtype, cuda_kernels):
    made = [laws.sampled_gradient.cotangent(*layer, dtype=dtype) for layer in laws.sampled_gradient.LAYERS]
    values, thresholds = delta_gradients([layer for layer, _, _ in made])
    assert_close([v.double() for v in values], [expected for _, expected, _ in made], dtype)
    assert_close([t.double() for t in thresholds], [expected for _, _, expected in made], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_tiny_soft_threshold(dtype, cuda_kernels):
    values = torch.randn(700, dtype=dtype)
    base = torch.randn(911, dtype=dtype)
    indices = torch.randperm(911)[:700]
    indices = indices.sort().values
    segment = torch.arange(700) % 3
    threshold = torch.tensor([0.2, 0.7, 1.5], dtype=dtype)
    effective = base.clone()
    (delta,), counts = soft_threshold(
        [
            ThresholdedLayer(
                values=values, threshold=threshold, segment=segment, indices=indices, base=base, effective=effective
            )
        ]
    )
    expected = reference.soft_threshold(values, threshold, segment)
    assert_close([delta, effective], [expected, base.index_add(0, indices, expected)], dtype)
    n_active = int((expected != 0).sum())
    assert [int(n) for n in counts[0]] == [n_active, n_active]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_columns", [37, 132])
def test_tiny_radial_table(n_columns, dtype, cuda_kernels):
    r, table, slot = laws.radial_table.make(n_columns, 9, dtype)
    with torch.no_grad():
        r[2], slot[2] = 3.0, 0  # where the first table ends
    found = laws.radial_table.derivatives(radial_table, r, table, slot)
    assert_close(found, laws.radial_table.derivatives(laws.radial_table.by_reference, r, table, slot), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("l_max", range(4))
def test_tiny_edge_geometry(l_max, dtype, cuda_kernels):
    inputs = laws.edge_geometry.make(l_max, 7, dtype)
    found = laws.edge_geometry.derivatives(edge_geometry, *inputs)
    assert_close(found, laws.edge_geometry.derivatives(laws.edge_geometry.by_reference, *inputs), dtype)
