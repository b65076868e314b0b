"""radial_table against its reference by torch's operations: w of a layer and its slope, rows of random length.

pytest bench/bench_radial_table.py --benchmark-only
"""

from __future__ import annotations

import pytest
import torch

from pathtune import reference
from pathtune.ops import RadialTable, radial_table
from pathtune.ops.radial_table import N_TERMS

SHAPES = {  # rows, columns: an edge and its reverse share a row
    "mp-0b3-medium, layer 2": (2496, 1280),
    "demo, layer 2": (942, 320),
    "pair repulsion": (2496, 1),
}
N_TABLES, N_SEGMENTS = 6, 64  # three species


class Rows:
    """Both arms: w, and the gradient of a scalar made of it to r."""

    def __init__(self, shape: str):
        torch.manual_seed(0)
        n_rows, n_columns = SHAPES[shape]
        n_segments = torch.full((N_TABLES,), N_SEGMENTS)
        width = torch.full((N_TABLES,), 5.5 / N_SEGMENTS, dtype=torch.float64)
        first, begin = n_segments.cumsum(0) - n_segments, torch.full_like(width, 0.5)
        coefficients = torch.randn(N_TABLES * N_SEGMENTS, N_TERMS, n_columns)
        self.table = RadialTable(coefficients, first, n_segments, begin, width)
        self.slot = torch.randint(0, N_TABLES, (n_rows,))
        self.r = (0.5 + 5.5 * torch.rand(n_rows)).requires_grad_()
        self.g = torch.randn(n_rows, n_columns)

    def _both(self, w: torch.Tensor) -> list[torch.Tensor]:
        return [w, *torch.autograd.grad(w, self.r, self.g)]

    def kernel(self) -> list[torch.Tensor]:
        """Ours."""
        return self._both(radial_table(self.r, self.table, self.slot))

    def torch(self) -> list[torch.Tensor]:
        """The reference."""
        return self._both(
            reference.radial_expand(self.r, None, self.table.coefficients, self.slot, self.table.slots())
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("which", ["torch", "kernel"])
def test_radial_table_and_its_slope(benchmark, which, shape):
    rows = Rows(shape)
    benchmark.group = f"radial_table {shape}"
    benchmark(getattr(rows, which))
    for found, expected in zip(rows.kernel(), rows.torch()):
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
