"""soft_threshold of eight layers in one call against torch's formula and an index_add into a dense W' for each.

pytest -n 0 bench/bench_soft_threshold.py --benchmark-only
"""

from __future__ import annotations

import pytest
import torch

from pathtune import reference
from pathtune.ops import ThresholdedLayer, soft_threshold

CANDIDATES = [30, 3000, 30000]  # of each layer
N_LAYERS = 8
N_WEIGHTS = 100_000


class Deltas:
    """Layers whose D changes a little from call to call, and both arms."""

    def __init__(self, n_candidates: int):
        torch.manual_seed(0)
        self.layers = []
        for _ in range(N_LAYERS):
            base = torch.randn(N_WEIGHTS)
            self.layers.append(
                ThresholdedLayer(
                    values=0.01 * torch.randn(n_candidates),
                    threshold=torch.tensor([1e-3]),
                    base=base,
                    indices=torch.randperm(N_WEIGHTS)[:n_candidates].sort().values,
                    effective=base.clone(),
                )
            )

    def kernel(self) -> list[torch.Tensor]:
        """Ours, in place."""
        for layer in self.layers:
            layer.values.mul_(1.001)
        soft_threshold(self.layers)
        return [layer.effective for layer in self.layers]

    def torch(self) -> list[torch.Tensor]:
        """The formula, into a new W'."""
        for layer in self.layers:
            layer.values.mul_(1.001)
        return [
            layer.base.index_add(0, layer.indices, reference.soft_threshold(layer.values, layer.threshold))
            for layer in self.layers
        ]


@pytest.mark.parametrize("n_candidates", CANDIDATES)
@pytest.mark.parametrize("which", ["torch", "kernel"])
def test_soft_threshold_of_eight_layers(benchmark, which, n_candidates):
    deltas = Deltas(n_candidates)
    benchmark.group = f"soft_threshold {n_candidates}"
    benchmark(getattr(deltas, which))
    for found, layer in zip(deltas.kernel(), deltas.layers):
        s = reference.soft_threshold(layer.values, layer.threshold)
        assert torch.equal(found, layer.base.index_add(0, layer.indices, s))
