"""Laws of soft_threshold, on fresh random inputs."""

import pytest
import torch

from pathtune import reference
from pathtune.ops import ThresholdedLayer, soft_threshold

# candidates, weights; a block of CUDA's has 256 of the former, and the last are on two threads of the CPU
SIZES = [(0, 7), (1, 1), (40, 300), (256, 300), (600, 1000), (9000, 20000)]
THRESHOLDS = ["none", "one", "several"]


def layer(size, thresholds="one", dtype=torch.float64, spread=0.5):
    n, n_weights = size
    base = torch.randn(n_weights, dtype=dtype)
    segment = torch.randint(0, 3, (n,)) if thresholds == "several" else None
    threshold = None if thresholds == "none" else torch.rand(3 if segment is not None else 1, dtype=dtype) * spread
    return ThresholdedLayer(
        values=torch.randn(n, dtype=dtype),
        threshold=threshold,
        segment=segment,
        indices=torch.randperm(n_weights)[:n].sort().values,
        base=base,
        effective=base.clone(),
    )


def expected(given):
    s = (
        given.values
        if given.threshold is None
        else reference.soft_threshold(given.values, given.threshold, given.segment)
    )
    return s, given.base.index_add(0, given.indices, s)


def assert_layers_equal(layers):
    """S, W' and counts are the reference's to the bit."""
    before = [given.effective.clone() for given in layers]
    exact = [expected(given) for given in layers]
    deltas, counts = soft_threshold(layers)
    assert len(counts) == len(layers)
    for given, old, (delta, effective), found, (n_active, n_changed) in zip(layers, before, exact, deltas, counts):
        assert torch.equal(found, delta)
        assert torch.equal(given.effective, effective)
        assert n_active == (found.numel() if given.threshold is None else int((delta != 0).sum()))
        assert n_changed == int((effective != old).sum())


class SoftThresholdLaws:
    """Of every implementation; `counts_every_call` where W' counts as rewritten though no entry has changed."""

    counts_every_call: bool

    @pytest.mark.parametrize("thresholds", THRESHOLDS)
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_kernel_equals_reference_to_the_bit(self, size, thresholds, dtype, all_kernels):
        assert_layers_equal([layer(size, thresholds, dtype)])

    @pytest.mark.parametrize("n", [1, 32, 33, 70])
    def test_layers_of_one_call_do_not_mix(self, n, all_kernels):
        assert_layers_equal([layer(SIZES[i % 5], THRESHOLDS[i % 3]) for i in range(n)])

    def test_no_layers_and_no_candidates_are_allowed(self, kernels):
        assert soft_threshold([]) == ([], [])
        ((n_active, n_changed),) = soft_threshold([layer((0, 7))])[1]
        assert (n_active, n_changed) == (0, 0)

    def test_without_weights_only_the_delta_is_written(self, kernels):
        given = layer((40, 300))
        alone = ThresholdedLayer(values=given.values, threshold=given.threshold)
        (delta,), ((n_active, n_changed),) = soft_threshold([alone])
        assert torch.equal(delta, expected(given)[0])
        assert n_active == int((delta != 0).sum())
        assert n_changed == 0

    def test_only_candidates_are_rewritten(self, kernels):
        given = layer((40, 300))
        given.effective.fill_(7.0)
        soft_threshold([given])
        untouched = torch.ones(300, dtype=torch.bool)
        untouched[given.indices] = False
        assert (given.effective[untouched] == 7.0).all()
        assert (given.effective[given.indices] != 7.0).all()

    def test_a_second_call_changes_nothing_and_autograd_counts_the_calls_that_may_have(self, kernels):
        given = layer((40, 300))
        before = given.effective._version
        ((_, n_changed),) = soft_threshold([given])[1]
        assert n_changed > 0
        assert given.effective._version == before + 1
        ((_, n_changed),) = soft_threshold([given])[1]
        assert n_changed == 0
        assert given.effective._version == before + 1 + self.counts_every_call

    def test_an_entry_at_its_threshold_is_inactive_and_nan_survives(self, kernels):
        values = torch.tensor([0.5, -0.5, 0.0, float("nan"), float("inf"), -float("inf")])
        (found,), ((n_active, _),) = soft_threshold([ThresholdedLayer(values=values, threshold=torch.tensor([0.5]))])
        assert found[:3].tolist() == [0, 0, 0]
        assert found[3].isnan()
        assert found[4:].tolist() == [float("inf"), -float("inf")]
        assert n_active == 3

    def test_opcheck(self, kernels):
        given = layer((40, 300), "several")
        tensors = (given.values, given.threshold, given.segment, given.indices, given.base, given.effective)
        torch.library.opcheck(torch.ops.pathtune.soft_threshold, tensors)
