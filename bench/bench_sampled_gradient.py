"""sampled_gradient against the dense product and a gather: `pytest bench/bench_sampled_gradient.py`.

`ratio`: both arms alternate in one process, results compared, medians divided. Float32. The dense arm is
torch's x^T g read at the candidates; above the crossover (pathtune.delta.CROSSOVER) it is the faster one.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import pytest
import torch

from pathtune._paths import SpeciesLinearTable
from pathtune.ops import SpeciesGroups, group_candidates, sampled_gradient

SHARES = [0.005, 0.03, 0.1, 0.4]
N_ROUNDS = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One path of scalars."""

    n_rows: int
    mul_in: int
    mul_out: int


SHAPES = {
    "4096 rows of 128x128": Shape(n_rows=4096, mul_in=128, mul_out=128),
    "1024 rows of 128x128": Shape(n_rows=1024, mul_in=128, mul_out=128),
    "448 rows of 384x128": Shape(n_rows=448, mul_in=384, mul_out=128),
    "radial, 3200 rows of 64x1280": Shape(n_rows=3200, mul_in=64, mul_out=1280),
}


class Product:
    """Inputs of one shape and share, and both arms."""

    def __init__(self, shape: Shape, share: float):
        torch.manual_seed(0)
        n, n_in, n_out = shape.n_rows, shape.mul_in, shape.mul_out
        self.x, self.g = torch.randn(n, n_in), torch.randn(n, n_out)
        self.table = SpeciesLinearTable(
            paths=torch.tensor([[0, 0, 0, 1, n_in, n_out]]), coefficients=torch.ones(1, dtype=torch.float64),
            dim_in=n_in, dim_out=n_out, n_species=1, weight_numel=n_in * n_out,
        )  # fmt: skip
        self.groups = SpeciesGroups(torch.arange(n), torch.tensor([0, n]), torch.zeros(1, dtype=torch.int64))
        indices = torch.randperm(n_in * n_out)[: int(share * n_in * n_out)].sort().values
        self.candidates = group_candidates(indices, [(n_in, 1, n_out)])

    def sampled(self) -> torch.Tensor:
        """Ours."""
        return sampled_gradient(self.x, self.g, self.candidates, self.groups, self.table)

    def dense(self) -> torch.Tensor:
        """The dense product, read at the candidates."""
        return torch.mm(self.x.t(), self.g).flatten()[self.candidates.indices]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("shape", SHAPES)
def test_ratio_to_the_dense_product(benchmark, shape, share):
    product = Product(SHAPES[shape], share)
    exact = (product.x.double().t() @ product.g.double()).flatten()[product.candidates.indices]
    arms, times = (product.dense, product.sampled), ([], [])
    errors = [((arm().double() - exact).abs().max() / exact.abs().max()).item() for arm in arms]
    assert errors[1] < 1e-6
    for _ in range(N_ROUNDS):
        for arm, spent in zip(arms, times):
            start = time.perf_counter()
            arm()
            spent.append(time.perf_counter() - start)
    dense_us, sampled_us = (1e6 * statistics.median(t) for t in times)
    benchmark.group = f"sampled_gradient {shape}"
    benchmark.extra_info.update(
        ratio=dense_us / sampled_us, dense_us=dense_us, sampled_us=sampled_us, share=share, error=errors[1],
        error_dense=errors[0], n_threads=torch.get_num_threads(),
    )  # fmt: skip
    benchmark(product.sampled)
    print(f"\n{shape}, {share:.1%}: dense {dense_us:.0f} us, sampled {sampled_us:.0f} us, "
          f"ratio {dense_us / sampled_us:.2f}, error {errors[1]:.1e} (dense {errors[0]:.1e})")  # fmt: skip
