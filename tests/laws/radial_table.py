"""Laws of radial_table, on fresh random inputs."""

import pytest
import torch

from laws.compare import assert_all_close
from pathtune import reference
from pathtune.ops import RadialTable, radial_table
from pathtune.ops.radial_table import N_TERMS, _contract, _expand

# 128: a warp of CUDA's once, four at a time
COLUMNS = {"one column": 1, "ragged": 37, "four at a time": 132, "wide": 256}


def make_table(n_columns, dtype=torch.float64):
    """Two tables: five segments of 0.4 A from 1 A, and three of 0.5 A from 0.5 A."""
    coefficients = torch.randn(8, N_TERMS, n_columns, dtype=dtype)
    begin, width = torch.tensor([[1.0, 0.5], [0.4, 0.5]], dtype=torch.float64)
    return RadialTable(coefficients, torch.tensor([0, 5]), torch.tensor([5, 3]), begin, width)


def make(n_columns, n_rows=40, dtype=torch.float64):
    r = 1.0 + 0.9 * torch.rand(n_rows, dtype=dtype)
    if n_rows > 3:
        r[3] = 7.0  # beyond both ends
    return r.requires_grad_(), make_table(n_columns, dtype), torch.randint(0, 2, (n_rows,))


def by_reference(r, table, slot):
    """The operator's arguments, to the reference."""
    return reference.radial_expand(r, None, table.coefficients, slot, table.slots())


def derivatives(function, r, table, slot):
    """Values, the gradient to r, and second derivatives to r and the cotangent."""
    generator = torch.Generator().manual_seed(1)
    w = function(r, table, slot)
    g = torch.randn(w.shape, dtype=w.dtype, generator=generator).to(r.device).requires_grad_()
    probe = torch.randn(r.shape, dtype=r.dtype, generator=generator).to(r.device)
    (first,) = torch.autograd.grad((w * g).sum(), r, create_graph=True)
    second = torch.autograd.grad((first * probe).sum(), (r, g), allow_unused=True)
    return w, first, *second


class RadialTableLaws:
    """Of every implementation; `tolerances` by dtype."""

    tolerances: dict

    @pytest.mark.parametrize("columns", COLUMNS)
    @pytest.mark.parametrize("n_rows", [0, 1, 40])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_kernel_equals_reference_through_second_derivatives(self, columns, n_rows, dtype, all_kernels):
        inputs = make(COLUMNS[columns], n_rows, dtype)
        expected = derivatives(by_reference, *inputs)
        assert_all_close(derivatives(radial_table, *inputs), expected, self.tolerances[dtype])

    def test_one_table_needs_no_slots(self, kernels):
        r, table, _ = make(5)
        found = radial_table(r, table)
        assert torch.equal(found, radial_table(r, table, torch.zeros(r.numel(), dtype=torch.int64)))

    def test_a_table_of_a_polynomial_is_that_polynomial_and_zero_from_its_end_on(self, kernels):
        n, width = 4, 0.5
        middle = 1.0 + width * (torch.arange(n, dtype=torch.float64) + 0.5)
        coefficients = torch.zeros(n, N_TERMS, 1, dtype=torch.float64)  # r^2 = (m + t h/2)^2
        coefficients[:, 0, 0], coefficients[:, 1, 0] = middle**2, middle * width
        coefficients[:, 2, 0] = (width / 2) ** 2
        table = RadialTable(coefficients, torch.tensor([0]), torch.tensor([n]), torch.tensor([1.0]).double(),
                            torch.tensor([width]).double())  # fmt: skip
        r = torch.tensor([1.0, 1.3, 1.5, 2.999, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
        w = radial_table(r, table)
        (slope,) = torch.autograd.grad(w.sum(), r)
        inside = r.detach() < 3
        assert torch.allclose(w[:, 0], torch.where(inside, r**2, 0.0), rtol=0, atol=1e-13)
        assert torch.allclose(slope, torch.where(inside, 2 * r, 0.0), rtol=0, atol=1e-12)

    def test_a_row_below_the_table_reads_its_first_polynomial_and_nan_stays_nan(self, kernels):
        _, table, _ = make(5)
        r = torch.tensor([0.9, float("nan")], dtype=torch.float64)
        below, nan = radial_table(r, table)
        t = 2 * (0.9 - 1.0) / 0.4 - 1
        expected = (table.coefficients[0] * t ** torch.arange(N_TERMS).unsqueeze(1)).sum(0)
        assert torch.allclose(below, expected, rtol=1e-12)
        assert nan.isnan().all()

    def test_gradcheck_and_gradgradcheck(self, kernels):
        r, table, slot = make(7, 9)
        function = lambda r: radial_table(r, table, slot)  # noqa: E731
        assert torch.autograd.gradcheck(function, (r,), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, (r,), fast_mode=True)

    def test_third_derivatives_are_refused(self, kernels):
        r, table, _ = make(3, 4)
        value = radial_table(r, table).sum()
        for _ in range(2):
            (value,) = torch.autograd.grad(value, r, create_graph=True)
            value = value.sum()
        with pytest.raises(NotImplementedError, match="third"):
            torch.autograd.grad(value, r)

    def test_opcheck(self, kernels):
        r, table, slot = make(7, 9)
        a, g = torch.randn_like(r, requires_grad=True), torch.randn(9, 7, dtype=torch.float64, requires_grad=True)
        rest = (table.coefficients, slot, *table.slots())
        torch.library.opcheck(_expand.registered, (r, a, *rest, 0))
        torch.library.opcheck(_contract.registered, (r, g, *rest, 1))

    def test_permuting_rows_permutes_the_result_bitwise(self, kernels):
        r, table, slot = make(64)
        order = torch.randperm(r.numel())
        whole = radial_table(r, table, slot)
        assert torch.equal(radial_table(r[order], table, slot[order]), whole[order])
