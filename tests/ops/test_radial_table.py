import dataclasses

import pytest
import torch

from pathtune import reference
from pathtune.ops import RadialTable, radial_table
from pathtune.ops.radial_table import N_TERMS, _contract, _expand

COLUMNS = {"one column": 1, "ragged": 37, "wide": 256}


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


def derivatives(function, r, g, probe):
    """Values, the gradient to r, and second derivatives to r and g."""
    w = function(r)
    (first,) = torch.autograd.grad((w * g).sum(), r, create_graph=True)
    second = torch.autograd.grad((first * probe).sum(), (r, g), allow_unused=True)
    return w, first, *second


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("n_rows", [0, 1, 40])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_kernel_equals_reference_through_second_derivatives(columns, n_rows, dtype, tolerance, isa):
    r, table, slot = make(COLUMNS[columns], n_rows, dtype)
    g = torch.randn(n_rows, COLUMNS[columns], dtype=dtype, requires_grad=True)
    probe = torch.randn(n_rows, dtype=dtype)
    found = derivatives(lambda r: radial_table(r, table, slot), r, g, probe)
    expected = derivatives(lambda r: reference.radial_expand(r, None, table.coefficients, slot, table.slots()),
                           r, g, probe)  # fmt: skip
    for a, b in zip(found, expected):
        assert a.shape == b.shape
        assert not a.numel() or (a - b).abs().max() <= tolerance * b.abs().max()


def test_one_table_needs_no_slots():
    r, table, _ = make(5)
    found = radial_table(r, table)
    assert torch.equal(found, radial_table(r, table, torch.zeros(r.numel(), dtype=torch.int64)))


def test_a_table_of_a_polynomial_is_that_polynomial_and_zero_from_its_end_on():
    n, width = 4, 0.5
    middle = 1.0 + width * (torch.arange(n, dtype=torch.float64) + 0.5)
    coefficients = torch.zeros(n, N_TERMS, 1, dtype=torch.float64)  # r^2 = (m + t h/2)^2
    coefficients[:, 0, 0], coefficients[:, 1, 0], coefficients[:, 2, 0] = middle**2, middle * width, (width / 2) ** 2
    table = RadialTable(coefficients, torch.tensor([0]), torch.tensor([n]), torch.tensor([1.0]).double(),
                        torch.tensor([width]).double())  # fmt: skip
    r = torch.tensor([1.0, 1.3, 1.5, 2.999, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
    w = radial_table(r, table)
    (slope,) = torch.autograd.grad(w.sum(), r)
    inside = r.detach() < 3
    assert torch.allclose(w[:, 0], torch.where(inside, r**2, 0.0), rtol=0, atol=1e-13)
    assert torch.allclose(slope, torch.where(inside, 2 * r, 0.0), rtol=0, atol=1e-12)


def test_gradcheck_and_gradgradcheck():
    r, table, slot = make(7, 9)
    function = lambda r: radial_table(r, table, slot)  # noqa: E731
    assert torch.autograd.gradcheck(function, (r,), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (r,), fast_mode=True)


def test_third_derivatives_are_refused():
    r, table, _ = make(3, 4)
    value = radial_table(r, table).sum()
    for _ in range(2):
        (value,) = torch.autograd.grad(value, r, create_graph=True)
        value = value.sum()
    with pytest.raises(NotImplementedError, match="third"):
        torch.autograd.grad(value, r)


def test_opcheck():
    r, table, slot = make(7, 9)
    a, g = torch.randn_like(r, requires_grad=True), torch.randn(9, 7, dtype=torch.float64, requires_grad=True)
    rest = (table.coefficients, slot, *table.slots())
    torch.library.opcheck(_expand.registered, (r, a, *rest, 0))
    torch.library.opcheck(_contract.registered, (r, g, *rest, 1))


def test_permuting_rows_permutes_the_result_bitwise():
    r, table, slot = make(64)
    order = torch.randperm(r.numel())
    whole = radial_table(r, table, slot)
    assert torch.equal(radial_table(r[order], table, slot[order]), whole[order])


def test_repeats_bitwise_and_threads_do_not_matter():
    r, table, slot = make(1024, 400, torch.float32)
    g, probe = torch.randn(400, 1024, requires_grad=True), torch.randn(400)
    before, runs = torch.get_num_threads(), []
    try:
        for n in (1, 3, 3):
            torch.set_num_threads(n)
            runs.append(derivatives(lambda r: radial_table(r, table, slot), r, g, probe))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


@pytest.mark.parametrize(("change", "error", "words"), [
    (lambda r, t, s: (r.float(), t, s), TypeError, "float64"),
    (lambda r, t, s: (r, t, s[1:]), ValueError, "number of slots is 39, expected 40"),
    (lambda r, t, s: (r.unsqueeze(1), t, s), ValueError, "number of dimensions of r is 2, expected 1"),
    (lambda r, t, s: (r, t, s + 1), ValueError, "slots span 1 to 2, expected 0 to 1"),
    (lambda r, t, s: (r, dataclasses.replace(t, coefficients=t.coefficients[:, 1:]), s), ValueError,
     "number of terms is 7, expected 8"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, error, words):
    r, table, slot = make(5)
    slot[0], slot[1] = 0, 1
    with pytest.raises(error, match=words):
        radial_table(*change(r.detach(), table, slot))
