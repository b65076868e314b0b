"""The CUDA kernels of radial_table, emulated."""

import pytest
import torch

from laws.radial_table import RadialTableLaws, derivatives, make
from pathtune.ops import radial_table

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


class TestEmulated(RadialTableLaws):
    tolerances = TOLERANCES


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("n_columns", [37, 132])
def test_every_order_of_threads_gives_the_same_bits(n_columns, dtype, cuda_kernels):
    inputs = make(n_columns, 40, dtype)
    found = derivatives(radial_table, *inputs)
    cuda_kernels.set_order(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(found, derivatives(radial_table, *inputs)))


@pytest.mark.parametrize("which", ["expand", "contract"])
def test_traffic(which, forward_kernels):
    """A number that is written or read takes the terms of its polynomial; a row's place is read by each lane."""
    n_rows, n_columns = 50, 128
    r, table, _ = make(n_columns, n_rows, torch.float32)
    w = radial_table(r, table)
    if which == "contract":
        forward_kernels.reset()
        torch.autograd.grad(w, r, torch.ones_like(w))
    loaded, stored = forward_kernels.bytes_moved()
    n_inside = n_rows - 1  # one is beyond the end
    place = 32 * n_rows * (4 + 3 * 8) + 32 * n_inside * 8
    numbers = 4 * n_columns
    if which == "expand":
        assert (loaded, stored) == (8 * numbers * n_inside + place, numbers * n_rows)
    else:  # the derivative has no constant term
        assert (loaded, stored) == ((7 + 1) * numbers * n_inside + place, 4 * n_rows)
