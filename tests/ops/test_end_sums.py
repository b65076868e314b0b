"""Sums between rows and their ends, against index_add; SiLU against torch's own."""

import pytest
import torch

from pathtune.ops import ends_by_node, ends_of, silu, sum_at_nodes
from pathtune.ops.end_sums import sum_at_rows

N_NODES = 6


@pytest.fixture(params=[0, 1, 17])
def rows(request):
    """Sender and receiver [n_rows]; a node without rows, and rows from a node to itself."""
    generator = torch.Generator().manual_seed(request.param)
    return torch.randint(0, N_NODES - 1, (2, request.param), generator=generator)


def ends(rows, dtype=torch.float64):
    return ends_of(*rows, *ends_by_node(*rows, N_NODES, dtype))


def values(n, requires_grad=True):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_(
        requires_grad
    )


@pytest.mark.parametrize("is_signed", [False, True])
def test_sums_are_those_over_the_ends_of_the_rows(rows, is_signed):
    given, nodes = values(rows.shape[1], False), values(N_NODES, False)
    sign = -1.0 if is_signed else 1.0
    expected = torch.zeros(N_NODES, 3, dtype=torch.float64).index_add(0, rows[0], given)
    expected = expected.index_add(0, rows[1], sign * given)
    torch.testing.assert_close(sum_at_nodes(given, ends(rows), is_signed), expected, rtol=1e-14, atol=1e-14)
    both = nodes[rows[0]] + sign * nodes[rows[1]]
    torch.testing.assert_close(sum_at_rows(nodes, ends(rows), is_signed), both, rtol=0, atol=0)


@pytest.mark.parametrize("is_signed", [False, True])
def test_sums_are_differentiable_twice(rows, is_signed):
    of = ends(rows)
    for function, n in ((sum_at_nodes, rows.shape[1]), (sum_at_rows, N_NODES)):
        squared = lambda v, f=function: f(v, of, is_signed) ** 2  # noqa: E731
        assert torch.autograd.gradcheck(squared, values(n))
        assert torch.autograd.gradgradcheck(squared, values(n))


def test_sums_are_bitwise_repeatable_and_those_of_one_column_of_many(rows):
    of, given = ends(rows, torch.float32), values(rows.shape[1], False).float()
    assert torch.equal(sum_at_nodes(given, of), sum_at_nodes(given, of))
    assert torch.equal(sum_at_nodes(given[:, 1:2], of), sum_at_nodes(given, of)[:, 1:2])


def test_silu_and_its_first_two_derivatives_are_those_of_torch():
    x, a = (4 * values(50, False).flatten()[k::2] for k in (0, 1))
    found = []
    for f in (silu, torch.nn.functional.silu):
        at, g = x.clone().requires_grad_(), a.clone().requires_grad_()
        y = f(at)
        (slope,) = torch.autograd.grad(y, at, g, create_graph=True)
        found.append((y, slope, *torch.autograd.grad((slope * a).sum(), [at, g])))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)


def test_silu_has_derivatives_of_all_orders():
    x = values(4).flatten().detach().requires_grad_()
    assert torch.autograd.gradcheck(silu, x)
    assert torch.autograd.gradgradcheck(silu, x)
    third = lambda v: torch.autograd.grad(silu(v).sum(), v, create_graph=True)[0]  # noqa: E731
    assert torch.autograd.gradgradcheck(third, x)
