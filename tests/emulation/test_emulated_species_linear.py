"""The CUDA kernels of species_linear, emulated."""

import math

import pytest
import torch

from laws.compare import assert_all_close, assert_close
from laws.irreps import irreps
from laws.species_linear import N_SPECIES, SpeciesLinearLaws, derivatives, kernel, make
from pathtune import reference
from pathtune.ops import group_by_species, species_linear
from pathtune.tables.species_linear import species_linear_table

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


class TestEmulated(SpeciesLinearLaws):
    tolerances = TOLERANCES


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", ["a tail beyond a tile", "vectors of 16 bytes", "two paths into one irrep"])
def test_every_order_of_threads_gives_the_same_bits(case, dtype, cuda_kernels):
    inputs = make(case, "several", dtype)
    found = derivatives(kernel, *inputs)
    assert_all_close(found, derivatives(reference.species_linear, *inputs), TOLERANCES[dtype])
    cuda_kernels.set_order(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(found, derivatives(kernel, *inputs)))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("mul_in", "mul_out"), [(3, 2), (4, 4)])
def test_many_rows_take_large_tiles(mul_in, mul_out, dtype, forward_kernels):
    table = species_linear_table(irreps(f"{mul_in}x1o"), irreps(f"{mul_out}x1o"), N_SPECIES, [(0, 0, 0.5)])
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
    table = species_linear_table(irreps(f"{mul[0]}x0e"), irreps(f"{mul[1]}x0e"), 70, [(0, 0, 0.5)])
    species = torch.arange(80) % 66 + 2
    x = torch.randn(species.numel(), table.dim_in, dtype=dtype)
    weights = torch.randn(table.weight_numel, dtype=dtype, requires_grad=True)
    found = species_linear(x, weights, group_by_species(species, 70), table)
    expected = reference.species_linear(x, weights, species, table)
    g = torch.randn_like(found)
    assert_close(found, expected, TOLERANCES[dtype])
    assert_close(*(torch.autograd.grad(y, weights, g)[0] for y in (found, expected)), TOLERANCES[dtype])


# of the minimum, in which every tensor moves once, and weights are read before they are added to
@pytest.mark.parametrize(("slot", "room"), [("y", 2.1), ("grad_x", 2.1), ("grad_weights", 2.5)])
def test_traffic(slot, room, forward_kernels):
    """96 nodes of 2 species, 64x0e+64x1o: a tile reads its rows once for each tile of columns, and its weights."""
    table = species_linear_table(irreps("64x0e+64x1o"), irreps("64x0e+64x1o"), 2, [(0, 0, 1.0), (1, 1, 1.0)])
    species = torch.arange(96) % 2
    x = torch.randn(96, table.dim_in, requires_grad=True)
    weights = torch.randn(table.weight_numel, requires_grad=True)
    groups = group_by_species(species, 2)
    y = species_linear(x, weights, groups, table)
    if slot != "y":
        forward_kernels.reset()
        torch.autograd.grad(y, x if slot == "grad_x" else weights, torch.ones_like(y))
    loaded, stored = forward_kernels.bytes_moved()
    rows = 4 * x.numel()
    numel = 4 * weights.numel()
    minimum = {"y": 2 * rows + numel, "grad_x": 2 * rows + numel, "grad_weights": 2 * rows + 2 * numel}[slot]
    print(f"{slot}: loaded {loaded}, stored {stored}, {(loaded + stored) / minimum:.2f} of the minimum {minimum}")
    assert stored == {"y": rows, "grad_x": rows, "grad_weights": numel}[slot]
    assert loaded + stored <= math.ceil(room * minimum)
