"""Laws of species_linear, on fresh random inputs."""

import pytest
import torch

from laws.compare import assert_all_close
from laws.irreps import irreps
from pathtune import reference
from pathtune.ops import group_by_species, species_linear
from pathtune.tables.species_linear import species_linear_table

N_SPECIES = 5
CASES = {  # irreps of x and y, paths
    "vectors": ("8x0e+8x1o", "8x0e+8x1o", [(0, 0, 0.5), (1, 1, -0.7)]),
    "ragged tails": ("3x0e+5x1o+1x2e", "7x0e+2x1o+19x2e", [(0, 0, 1.0), (1, 1, 2.0), (2, 2, 0.3)]),
    "a tail beyond a tile": ("5x0e+33x1o", "33x0e+5x1o", [(0, 0, 0.5), (1, 1, -0.7)]),
    "vectors of 16 bytes": ("36x0e+20x1o", "36x0e+68x1o", [(0, 0, 0.5), (1, 1, 2.0)]),
    "vectors of 16 bytes in x only": ("8x1o", "7x1o", [(0, 0, 1.5)]),
    "more channels than an item spans": ("131x0e", "195x0e", [(0, 0, 0.1)]),
    "two paths into one irrep": ("4x0e+2x0e", "17x0e", [(0, 0, 1.0), (1, 0, 0.5)]),
    "one irrep feeds two": ("9x2e", "3x2e+4x2e", [(0, 0, 1.0), (0, 1, 0.5)]),
    "an irrep without a path": ("4x0e+2x1o", "5x0e+6x1o", [(0, 0, 1.0)]),
    "wide": ("128x0e+48x1o", "48x0e+128x1o", [(0, 0, 0.1), (1, 1, 0.1)]),
}
SPECIES = {
    "several": torch.tensor([2, 0, 2, 4, 4, 4, 0, 2, 2, 2, 2, 2, 2]),
    "more rows than a tile": torch.tensor([0] * 40 + [3] * 3),
    "one node": torch.tensor([3]),
    "no node": torch.zeros(0, dtype=torch.int64),
}


def make(case, species_case, dtype=torch.float64):
    """x, weights, species of the nodes, table."""
    irreps_in, irreps_out, paths = CASES[case]
    table = species_linear_table(irreps(irreps_in), irreps(irreps_out), N_SPECIES, paths)
    species = SPECIES[species_case]
    x = torch.randn(species.numel(), table.dim_in, dtype=dtype, requires_grad=True)
    weights = torch.randn(table.weight_numel, dtype=dtype, requires_grad=True)
    return x, weights, species, table


def kernel(x, weights, species, table):
    """The operator, with the reference's arguments."""
    return species_linear(x, weights, group_by_species(species, table.n_species), table)


def derivatives(function, x, weights, species, table):
    """Value, first derivatives, and second derivatives of a scalar made of them."""
    generator = torch.Generator().manual_seed(1)
    y = function(x, weights, species, table)
    first = torch.autograd.grad((y**3).sum(), (x, weights), create_graph=True)
    probe = [torch.randn(g.shape, dtype=g.dtype, generator=generator) for g in first]
    second = torch.autograd.grad(sum((g * p).sum() for g, p in zip(first, probe)), (x, weights))
    return y, *first, *second


class SpeciesLinearLaws:
    """Of every implementation; `tolerances` by dtype."""

    tolerances: dict

    @pytest.mark.parametrize("species_case", SPECIES)
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_kernel_equals_reference_through_second_derivatives(self, case, species_case, dtype, all_kernels):
        inputs = make(case, species_case, dtype)
        expected = derivatives(reference.species_linear, *inputs)
        assert_all_close(derivatives(kernel, *inputs), expected, self.tolerances[dtype])

    @pytest.mark.parametrize("case", ["ragged tails", "two paths into one irrep"])
    def test_gradcheck_and_gradgradcheck(self, case, kernels):
        x, weights, species, table = make(case, "several")
        function = lambda x, w: kernel(x, w, species, table)  # noqa: E731
        assert torch.autograd.gradcheck(function, (x, weights), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, (x, weights), fast_mode=True)

    def test_absent_species_receive_no_gradient(self, kernels):
        x, weights, species, table = make("vectors", "several")
        (gradient,) = torch.autograd.grad(kernel(x, weights, species, table).pow(2).sum(), weights)
        first_path = gradient[: 8 * 5 * 8].reshape(8, 5, 8)
        assert first_path[:, [1, 3]].abs().max() == 0
        assert first_path[:, [0, 2, 4]].abs().min() > 0

    def test_permuting_nodes_permutes_the_result(self, kernels):
        x, weights, species, table = make("vectors", "several")
        permutation = torch.randperm(species.numel())
        permuted = kernel(x[permutation], weights, species[permutation], table)
        assert torch.allclose(permuted, kernel(x, weights, species, table)[permutation], rtol=0, atol=1e-13)

    def test_repeats_bitwise(self, kernels):
        inputs = make("wide", "several", torch.float32)
        runs = [derivatives(kernel, *inputs) for _ in range(3)]
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))
