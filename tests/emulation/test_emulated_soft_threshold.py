"""The CUDA kernel of soft_threshold, emulated."""

import pytest

from laws.soft_threshold import SIZES, THRESHOLDS, SoftThresholdLaws, assert_layers_equal, layer


class TestEmulated(SoftThresholdLaws):
    counts_every_call = True  # nobody waits for the counts

    @pytest.mark.parametrize("thresholds", THRESHOLDS)
    @pytest.mark.parametrize("size", SIZES[:5])
    def test_kernel_equals_reference_in_any_order_of_threads(self, size, thresholds, cuda_kernels):
        assert_layers_equal([layer(size, thresholds)])
