"""edge_geometry against its reference by torch's operations: lengths and harmonics up to l = 3, and their slope.

pytest bench/bench_edge_geometry.py --benchmark-only
"""

from __future__ import annotations

import pytest
import torch

from pathtune import reference
from pathtune.ops import conv_graph, edge_geometry

SHAPES = {"mp-0b3-medium": 2496, "demo": 942}  # rows, of two edges each
C = [(2 * l + 1) ** 0.5 for l in range(4)]


class Rows:
    """Both arms: values, and the gradient of a scalar made of them to the vectors."""

    def __init__(self, shape: str):
        torch.manual_seed(0)
        n_rows = SHAPES[shape]
        row = torch.arange(2 * n_rows) % n_rows
        self.graph = conv_graph(torch.zeros_like(row), torch.zeros_like(row), 1, row)
        self.sign = torch.where(torch.arange(2 * n_rows) < n_rows, 1.0, -1.0)
        self.vectors = torch.randn(n_rows, 3).requires_grad_()
        self.g = [torch.randn(n_rows), torch.randn(2 * n_rows, len(C) ** 2)]

    def _both(self, values: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        return [*values, *torch.autograd.grad(values, self.vectors, self.g)]

    def kernel(self) -> list[torch.Tensor]:
        """Ours."""
        return self._both(edge_geometry(self.vectors, C, self.graph, self.sign))

    def torch(self) -> list[torch.Tensor]:
        """The reference."""
        return self._both(reference.edge_geometry(self.vectors, C, self.graph.weight_row, self.sign))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("which", ["torch", "kernel"])
def test_lengths_harmonics_and_their_slope(benchmark, which, shape):
    rows = Rows(shape)
    benchmark.group = f"edge_geometry {shape}"
    benchmark(getattr(rows, which))
    for found, expected in zip(rows.kernel(), rows.torch()):
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
