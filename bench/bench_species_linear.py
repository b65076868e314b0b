"""species_linear against e3nn's product with a one-hot operand, forward + backward, 89 species, 64 nodes.

pytest -n 0 bench/bench_species_linear.py --benchmark-only
python bench/operators.py      # alternating ratio, written to bench/results/operators.json
"""

from __future__ import annotations

import pytest
import torch

from pathtune.backbones._packages import import_mace
from pathtune.ops import group_by_species, species_linear
from pathtune.tables.irreps import layout_permutation

import_mace()
from e3nn import o3  # noqa: E402

from pathtune.backbones._e3nn import skip_table  # noqa: E402

IRREPS = "128x0e+128x1o+128x2e+128x3o"
N_SPECIES = 89
N_NODES = 64


def build():
    """Closures of one forward + backward each, and how far their results are apart, relative to the maximum."""
    dense = o3.FullyConnectedTensorProduct(IRREPS, f"{N_SPECIES}x0e", IRREPS)
    table = skip_table(dense, N_SPECIES)
    species = torch.tensor([7, 25, 16])[torch.arange(N_NODES) % 3]
    one_hot = torch.nn.functional.one_hot(species, N_SPECIES).float()
    to_ir_mul = layout_permutation(dense.irreps_in1)
    x = torch.randn(N_NODES, dense.irreps_in1.dim)
    x_mul_ir = x.clone().requires_grad_()
    x_ir_mul = x[:, to_ir_mul].clone().requires_grad_()
    weights = dense.weight.detach().clone().requires_grad_()

    def e3nn():
        y = dense(x_mul_ir, one_hot)
        return y, *torch.autograd.grad(y.sum(), (x_mul_ir, dense.weight))

    def ours():
        y = species_linear(x_ir_mul, weights, group_by_species(species, N_SPECIES), table)
        return y, *torch.autograd.grad(y.sum(), (x_ir_mul, weights))

    def difference() -> float:
        (y, gx, gw) = e3nn()
        (y2, gx2, gw2) = ours()
        pairs = ((y[:, to_ir_mul], y2), (gx[:, to_ir_mul], gx2), (gw, gw2))
        return max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)

    return {"e3nn": e3nn, "pathtune": ours}, difference


@pytest.mark.parametrize("which", ["e3nn", "pathtune"])
def test_species_linear_forward_and_backward(benchmark, which):
    benchmark(build()[0][which])
