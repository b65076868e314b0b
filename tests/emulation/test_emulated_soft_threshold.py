"""The CUDA kernel of soft_threshold, emulated."""

import pytest
import torch
from test_soft_threshold import expected, layer

from pathtune.ops import ThresholdedLayer, soft_threshold

SIZES = [(0, 7), (1, 1), (40, 300), (256, 300), (600, 1000)]  # candidates, weights; a block has 256 of the former
THRESHOLDS = ["none", "one", "several"]


def assert_layers_equal(layers):
    before = [given.effective.clone() for given in layers]
    exact = [expected(given) for given in layers]
    deltas, counts = soft_threshold(layers)
    assert counts.shape == (len(layers), 2)
    for given, old, (delta, effective), found, (n_active, n_changed) in zip(layers, before, exact, deltas, counts):
        assert torch.equal(found, delta)
        assert torch.equal(given.effective, effective)
        assert n_active == (found.numel() if given.threshold is None else int((delta != 0).sum()))
        assert n_changed == int((effective != old).sum())


@pytest.mark.parametrize("thresholds", THRESHOLDS)
@pytest.mark.parametrize("size", SIZES)
def test_the_kernel_equals_reference_to_the_bit(size, thresholds, cuda_kernels):
    for dtype in (torch.float64, torch.float32):
        assert_layers_equal([layer(size, thresholds, dtype)])


@pytest.mark.parametrize("n", [1, 32, 33, 70])
def test_layers_of_one_call_do_not_mix(n, forward_kernels):
    assert_layers_equal([layer(SIZES[i % 3], THRESHOLDS[i % 2]) for i in range(n)])


def test_no_layers_no_launch(forward_kernels):
    assert soft_threshold([]) == ([], [])
    assert soft_threshold([layer((0, 7))])[1].tolist() == [[0, 0]]


def test_without_weights_only_the_delta_is_written(forward_kernels):
    given = layer((40, 300))
    (delta,), counts = soft_threshold([ThresholdedLayer(values=given.values, threshold=given.threshold)])
    assert torch.equal(delta, expected(given)[0])
    assert counts.tolist() == [[int((delta != 0).sum()), 0]]


def test_only_candidates_are_rewritten(forward_kernels):
    given = layer((40, 300))
    given.effective.fill_(7.0)
    soft_threshold([given])
    untouched = torch.ones(300, dtype=torch.bool)
    untouched[given.indices] = False
    assert (given.effective[untouched] == 7.0).all()
    assert (given.effective[given.indices] != 7.0).all()


def test_a_second_call_changes_nothing_and_autograd_counts_every_call(forward_kernels):
    given = layer((40, 300))
    version = given.effective._version
    assert soft_threshold([given])[1][0, 1] > 0
    assert soft_threshold([given])[1][0, 1] == 0
    assert given.effective._version == version + 2


def test_an_entry_at_its_threshold_is_inactive_and_nan_survives(forward_kernels):
    values = torch.tensor([0.5, -0.5, 0.0, float("nan"), float("inf"), -float("inf")])
    (found,), counts = soft_threshold([ThresholdedLayer(values=values, threshold=torch.tensor([0.5]))])
    assert found[:3].tolist() == [0, 0, 0]
    assert found[3].isnan()
    assert found[4:].tolist() == [float("inf"), -float("inf")]
    assert counts[0, 0] == 3


def test_opcheck(forward_kernels):
    given = layer((40, 300), "several")
    tensors = (given.values, given.threshold, given.segment, given.indices, given.base, given.effective)
    torch.library.opcheck(torch.ops.pathtune.soft_threshold, tensors)
