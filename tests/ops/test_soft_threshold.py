"""soft_threshold on the CPU: its laws, and what is the same on every device."""

import pytest
import torch

from laws.soft_threshold import SoftThresholdLaws, layer
from pathtune.ops import ThresholdedLayer, soft_threshold


class TestOnCpu(SoftThresholdLaws):
    counts_every_call = False


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"base": torch.zeros(300)}, TypeError, "base is torch.float32, but values is torch.float64"),
        ({"segment": torch.zeros(3, dtype=torch.int64)}, ValueError, "number of segments is 3, expected 40"),
        ({"indices": torch.arange(3)}, ValueError, "number of indices is 3, expected 40"),
        ({"base": torch.zeros(3, dtype=torch.float64)}, ValueError, "number of effective weights is 300, expected 3"),
        ({"indices": None}, ValueError, "without indices"),
        ({"effective": torch.zeros(600, dtype=torch.float64)[::2]}, ValueError, "expected it contiguous"),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    given = layer((40, 300))
    with pytest.raises(error, match=words):
        soft_threshold([ThresholdedLayer(**{**vars(given), **change})])
