"""The CUDA kernels of species_linear, emulated."""

import math

import pytest
import torch

from pathtune import reference
from pathtune.ops import group_by_species, species_linear
from pathtune.tables.species_linear import species_linear_table


class Ir:
    def __init__(self, l):
        self.l, self.p = l, 1


def irreps(*parts):
    return [(mul, Ir(l)) for mul, l in parts]


N_SPECIES = 5
CASES = {  # irreps in, irreps out, paths
    "ragged": (irreps((5, 0), (33, 1)), irreps((33, 0), (5, 1)), [(0, 0, 0.5), (1, 1, -0.7)]),
    "vectors of 16 bytes": (irreps((36, 0), (20, 1)), irreps((36, 0), (68, 1)), [(0, 0, 0.5), (1, 1, 2.0)]),
    "two paths into one block": (irreps((4, 0), (2, 0)), irreps((17, 0)), [(0, 0, 1.0), (1, 0, 0.5)]),
    "one block feeds two": (irreps((9, 2)), irreps((3, 2), (4, 2)), [(0, 0, 1.0), (0, 1, 0.5)]),
    "a block without a path": (irreps((4, 0), (2, 1)), irreps((5, 0), (6, 1)), [(0, 0, 1.0)]),
}
SPECIES = {
    "several, one absent": torch.tensor([2, 0, 2, 4, 4, 4, 0, 2, 2, 2, 3, 2, 2]),
    "more rows than a tile": torch.tensor([0] * 40 + [3] * 3),
    "one node": torch.tensor([3]),
    "no node": torch.zeros(0, dtype=torch.int64),
}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


def make(case, species, dtype=torch.float64):
    irreps_in, irreps_out, paths = CASES[case]
    table = species_linear_table(irreps_in, irreps_out, N_SPECIES, paths)
    species = SPECIES[species] if isinstance(species, str) else species
    x = torch.randn(species.numel(), table.dim_in, dtype=dtype, requires_grad=True)
    weights = torch.randn(table.weight_numel, dtype=dtype, requires_grad=True)
    return x, weights, species, table


def kernel(x, weights, species, table):
    return species_linear(x, weights, group_by_species(species, table.n_species), table)


def derivatives(function, x, weights, species, table):
    """Value, first derivatives, and second derivatives: every slot of the operator, and of its slots."""
    generator = torch.Generator().manual_seed(1)
    y = function(x, weights, species, table)
    first = torch.autograd.grad((y**3).sum(), (x, weights), create_graph=True)
    probe = [torch.randn(g.shape, dtype=torch.float64, generator=generator).to(g) for g in first]
    second = torch.autograd.grad(sum((g * p).sum() for g, p in zip(first, probe)), (x, weights))
    return y, *first, *second


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    if found.numel():
        assert (found - expected).abs().max().item() <= tolerance * expected.abs().max().item()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("species", SPECIES)
@pytest.mark.parametrize("case", CASES)
def test_kernels_equal_reference_through_second_derivatives(case, species, dtype, forward_kernels):
    inputs = make(case, species, dtype)
    for found, expected in zip(derivatives(kernel, *inputs), derivatives(reference.species_linear, *inputs)):
        assert_close(found, expected, TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", ["ragged", "vectors of 16 bytes", "two paths into one block"])
def test_every_order_of_threads_gives_the_same_bits(case, dtype, cuda_kernels):
    inputs = make(case, "several, one absent", dtype)
    found = derivatives(kernel, *inputs)
    for f, e in zip(found, derivatives(reference.species_linear, *inputs)):
        assert_close(f, e, TOLERANCES[dtype])
    cuda_kernels.set_order(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(found, derivatives(kernel, *inputs)))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("mul_in", "mul_out"), [(3, 2), (4, 4)])
def test_many_rows_take_large_tiles(mul_in, mul_out, dtype, forward_kernels):
    table = species_linear_table(irreps((mul_in, 1)), irreps((mul_out, 1)), N_SPECIES, [(0, 0, 0.5)])
    species = torch.arange(5700) % 3 // 2 * 3  # 17,100 rows: 268 tiles of 64
    x = torch.randn(species.numel(), table.dim_in, dtype=dtype, requires_grad=True)
    weights = torch.randn(table.weight_numel, dtype=dtype)
    groups = group_by_species(species, N_SPECIES)
    found = species_linear(x, weights, groups, table)
    expected = reference.species_linear(x, weights, species, table)
    g = torch.randn_like(found)
    assert_close(found, expected, TOLERANCES[dtype])
    assert_close(*(torch.autograd.grad(y, x, g)[0] for y in (found, expected)), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("mul", [(67, 65), (68, 68)])
def test_many_weights_take_large_tiles(mul, dtype, forward_kernels):
    """66 species of four tiles of 64 x 64."""
    table = species_linear_table(irreps((mul[0], 0)), irreps((mul[1], 0)), 70, [(0, 0, 0.5)])
    species = torch.arange(80) % 66 + 2
    x = torch.randn(species.numel(), table.dim_in, dtype=dtype)
    weights = torch.randn(table.weight_numel, dtype=dtype, requires_grad=True)
    found = species_linear(x, weights, group_by_species(species, 70), table)
    expected = reference.species_linear(x, weights, species, table)
    g = torch.randn_like(found)
    assert_close(found, expected, TOLERANCES[dtype])
    assert_close(*(torch.autograd.grad(y, weights, g)[0] for y in (found, expected)), TOLERANCES[dtype])


def test_gradcheck_and_gradgradcheck(forward_kernels):
    x, weights, species, table = make("two paths into one block", "several, one absent")
    groups = group_by_species(species, N_SPECIES)
    function = lambda x, w: species_linear(x, w, groups, table)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, weights), fast_mode=True)


def test_absent_species_receive_no_gradient(forward_kernels):
    x, weights, species, table = make("ragged", "several, one absent")
    (gradient,) = torch.autograd.grad(kernel(x, weights, species, table).pow(2).sum(), weights)
    first_path = gradient[: 5 * N_SPECIES * 33].reshape(5, N_SPECIES, 33)
    assert first_path[:, 1].abs().max() == 0
    assert first_path[:, [0, 2, 3, 4]].abs().min() > 0


# of the minimum, in which every tensor moves once and outputs are read before they are added to
@pytest.mark.parametrize(("slot", "room"), [("y", 1.97), ("grad_x", 1.97), ("grad_weights", 2.5)])
def test_traffic(slot, room, forward_kernels):
    """96 nodes of 2 species, 64x0e+64x1o: a tile reads its rows once for each tile of columns, and its weights."""
    table = species_linear_table(irreps((64, 0), (64, 1)), irreps((64, 0), (64, 1)), 2, [(0, 0, 1.0), (1, 1, 1.0)])
    species = torch.arange(96) % 2
    x = torch.randn(96, table.dim_in, requires_grad=True)
    weights = torch.randn(table.weight_numel, requires_grad=True)
    groups = group_by_species(species, 2)
    y = species_linear(x, weights, groups, table)
    if slot != "y":
        forward_kernels.reset()
        torch.autograd.grad(y, x if slot == "grad_x" else weights, torch.ones_like(y))
    loaded, stored = forward_kernels.bytes_moved()
    rows, numel = 4 * x.numel(), 4 * weights.numel()
    minimum = {"y": 3 * rows + numel, "grad_x": 3 * rows + numel, "grad_weights": 2 * rows + 2 * numel}[slot]
    print(f"{slot}: loaded {loaded}, stored {stored}, {(loaded + stored) / minimum:.2f} of the minimum {minimum}")
    assert stored == {"y": rows, "grad_x": rows, "grad_weights": numel}[slot]
    assert loaded + stored <= math.ceil(room * minimum)
