"""sampled_gradient against the dense product and a gather: `pytest -n 0 bench/bench_sampled_gradient.py`.

`ratio`: both arms alternate in one process, results compared, medians divided. Float32. The dense arm is
torch's x^T g read at the candidates, for one term; for both terms of a force loss it is their sum, masked where
inactive. `python bench/bench_sampled_gradient.py` fits the cost model of pathtune.adaptations.sparse.delta.pays_sparse:
time / dense time = fixed + slope * share, and writes bench/results/sampled_gradient.json.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
import time

import pytest
import torch

from pathtune.ops import DeltaCotangent, SpeciesGroups, delta_gradients, group_candidates, sampled_gradient
from pathtune.tables.species_linear import SpeciesLinearTable

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
    "64 rows of 128x128": Shape(n_rows=64, mul_in=128, mul_out=128),
    "64 rows of 32x32": Shape(n_rows=64, mul_in=32, mul_out=32),
}


class Product:
    """Inputs of one shape and share, and both arms."""

    def __init__(self, shape: Shape, share: float):
        torch.manual_seed(0)
        n = shape.n_rows
        n_in = shape.mul_in
        n_out = shape.mul_out
        self.x = torch.randn(n, n_in)
        self.g = torch.randn(n, n_out)
        self.table = SpeciesLinearTable(
            paths=torch.tensor([[0, 0, 0, 1, n_in, n_out]]),
            coefficients=torch.ones(1, dtype=torch.float64),
            dim_in=n_in,
            dim_out=n_out,
            n_species=1,
            weight_numel=n_in * n_out,
        )
        self.groups = SpeciesGroups(torch.arange(n), torch.tensor([0, n]), torch.zeros(1, dtype=torch.int64))
        indices = torch.randperm(n_in * n_out)[: int(share * n_in * n_out)].sort().values
        self.candidates = group_candidates(indices, [(n_in, 1, n_out)])
        self.x2 = torch.randn(n, n_in)
        self.g2 = torch.randn(n, n_out)
        self.delta = torch.randn(indices.numel())

    def sampled(self) -> torch.Tensor:
        """Ours."""
        return sampled_gradient(self.x, self.g, self.candidates, self.groups, self.table)

    def dense(self) -> torch.Tensor:
        """The dense product, read at the candidates."""
        return torch.mm(self.x.t(), self.g).flatten()[self.candidates.indices]

    def sampled_force_loss(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both terms and the threshold's derivative in one call."""
        layer = DeltaCotangent(
            delta=self.delta,
            n_thresholds=1,
            candidates=self.candidates,
            table=self.table,
            terms=[(self.x, self.g, self.groups), (self.x2, self.g2, self.groups)],
        )
        (values,), (thresholds,) = delta_gradients([layer])
        return values, thresholds

    def dense_force_loss(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same from dense products."""
        dense = torch.addmm(torch.mm(self.x.t(), self.g), self.x2.t(), self.g2)
        values = dense.flatten()[self.candidates.indices] * (self.delta != 0)
        return values, -(values * self.delta.sign()).sum()


def ratio(dense, sampled, n_rounds: int = N_ROUNDS) -> tuple[float, float]:
    """Medians in microseconds, the arms alternating."""
    times = ([], [])
    for i in range(n_rounds + 2):
        for arm, spent in zip((dense, sampled), times):
            start = time.perf_counter()
            arm()
            if i >= 2:
                spent.append(1e6 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("shape", SHAPES)
def test_ratio_to_the_dense_product(benchmark, shape, share):
    product = Product(SHAPES[shape], share)
    exact = (product.x.double().t() @ product.g.double()).flatten()[product.candidates.indices]
    arms = product.dense, product.sampled
    errors = [((arm().double() - exact).abs().max() / exact.abs().max()).item() for arm in arms]
    assert errors[1] < 1e-6
    dense_us, sampled_us = ratio(*arms)
    both_dense_us, both_us = ratio(product.dense_force_loss, product.sampled_force_loss)
    benchmark.group = f"sampled_gradient {shape}"
    benchmark.extra_info.update(
        ratio=dense_us / sampled_us,
        dense_us=dense_us,
        sampled_us=sampled_us,
        share=share,
        error=errors[1],
        error_dense=errors[0],
        ratio_both_terms=both_dense_us / both_us,
        n_threads=torch.get_num_threads(),
    )
    benchmark(product.sampled)
    print(
        f"\n{shape}, {share:.1%}: dense {dense_us:.0f} us, sampled {sampled_us:.0f} us, "
        f"ratio {dense_us / sampled_us:.2f}, both terms {both_dense_us / both_us:.2f}, "
        f"error {errors[1]:.1e} (dense {errors[0]:.1e})"
    )


def cost_model() -> dict:
    """For each shape the ratios by share, the fit fixed + slope * share, and the share where both are equal."""
    rows = []
    shares = [0.005, 0.03, 0.1, 0.25, 0.4, 0.6]
    for name, shape in SHAPES.items():
        relative = []
        for share in shares:
            product = Product(shape, share)
            dense_us, sampled_us = ratio(product.dense_force_loss, product.sampled_force_loss)
            relative.append(sampled_us / dense_us)
        line = torch.linalg.lstsq(torch.tensor([[1.0, s] for s in shares]), torch.tensor(relative)[:, None]).solution
        fixed, slope = line.flatten().tolist()
        rows.append(
            {
                "shape": name,
                "ratio": {f"{100 * s:g} %": round(1 / r, 2) for s, r in zip(shares, relative)},
                "fixed": round(fixed, 3),
                "slope": round(slope, 3),
                "break_even_share": round((1 - fixed) / slope, 2),
            }
        )
    return {"threads": torch.get_num_threads(), "rows": rows}


if __name__ == "__main__":
    result = cost_model()
    file = pathlib.Path(__file__).parent / "results" / "sampled_gradient.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        print(row)
