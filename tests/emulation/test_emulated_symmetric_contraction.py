"""The CUDA kernels of symmetric_contraction, emulated."""

import pytest
import torch

from laws.symmetric_contraction import SymmetricContractionLaws, direct, make_outputs
from pathtune.ops import group_by_species, symmetric_contraction
from pathtune.tables.contraction import contraction_table

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


class TestEmulated(SymmetricContractionLaws):
    tolerances = TOLERANCES
    between_subsets = 1e-12  # another subset leaves room for more warps, which are summed in another order


def all_derivatives(a, coefficients, groups, table):
    """What the three kernels return: one call of each."""
    generator = torch.Generator().manual_seed(1)
    g, *probe = (
        torch.randn(shape, dtype=a.dtype, generator=generator)
        for shape in ((a.shape[0], table.n_out, a.shape[2]), a.shape, coefficients.shape)
    )
    g.requires_grad_()
    out = symmetric_contraction(a, coefficients, groups, table)
    first = torch.autograd.grad(out, (a, coefficients), g, create_graph=True)
    second = torch.autograd.grad(sum((f * p).sum() for f, p in zip(first, probe)), (g, a, coefficients))
    return out, *first, *second


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", ["one channel beyond a warp", "correlation 4"])
def test_every_order_of_threads_gives_the_same_bits(case, dtype, cuda_kernels):
    inputs = direct(case, "several", dtype)
    found = all_derivatives(*inputs)
    cuda_kernels.set_order(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(found, all_derivatives(*inputs)))


def test_components_that_do_not_fit_in_shared_memory_are_refused(forward_kernels):
    table = contraction_table([[torch.ones(1, 400, 1)]])
    groups = group_by_species(torch.zeros(1, dtype=torch.int64), 1)
    a = torch.randn(1, 400, 1, requires_grad=True)
    coefficients = torch.randn(1, table.n_terms, 1)
    with pytest.raises(RuntimeError, match="components of one node do not fit in shared memory"):
        symmetric_contraction(a, coefficients, groups, table)


def test_every_term_is_in_one_segment():
    outputs = make_outputs("correlations 5 and 2")
    table = contraction_table(outputs)
    rows = torch.cat([table.segments[:, :4], table.segments[:, 4:].contiguous().view(torch.int16).int()], dim=1)
    parents = {m: p for p, begin, end in table.branches.tolist() for m in range(begin, end)}
    factors = lambda m: [*factors(parents[m]), int(table.last[m])] if m else []  # noqa: E731
    runs = {q: output for output, begin, end in table.runs.tolist() for q in range(begin, end)}
    seen = []
    for (*terms, n, output, h0, h1, t0, t1, t2, t3), more in zip(rows.tolist(), table.more.tolist()):
        for q, tail in list(zip(terms, (t0, t1, t2, t3)))[:n]:
            monomial = sorted([h0, h1, *more, tail])
            padding = [table.n_ell] * monomial.count(table.n_ell)
            assert monomial == [*sorted(factors(int(table.term_monomial[q]))), *padding]
            assert runs[q] == output
            seen.append(q)
    assert sorted(seen) == list(range(table.n_terms))


# of the minimum, in which every tensor moves once; a segment, which a warp reads as one, is counted for each lane
@pytest.mark.parametrize(("which", "room"), [("forward", 14.6), ("backward", 14.5)])
def test_traffic(which, room, forward_kernels):
    """40 nodes of 2 species, 9 components, 32 channels: coefficients are read for each four nodes, and segments."""
    outputs = [[torch.randn(k, *[9] * d, 1) * (torch.rand(k, *[9] * d, 1) < 0.1) for d in (1, 2, 3)] for k in (1, 3)]
    table = contraction_table(outputs)
    groups = group_by_species(torch.arange(40) % 2, 2)
    a = torch.randn(40, 9, 32, requires_grad=True)
    coefficients = torch.randn(2, table.n_terms, 32, requires_grad=True)
    out = symmetric_contraction(a, coefficients, groups, table)
    if which == "backward":
        forward_kernels.reset()
        torch.autograd.grad(out, (a, coefficients), torch.ones_like(out))
    loaded, stored = forward_kernels.bytes_moved()
    minimum = 4 * (a.numel() + coefficients.numel() + out.numel())
    if which == "backward":
        minimum += 4 * (a.numel() + coefficients.numel())
        assert stored == 4 * (a.numel() + coefficients.numel())
    print(
        f"{which}: loaded {loaded}, stored {stored}, {(loaded + stored) / minimum:.2f} of the minimum {minimum}; "
        f"{table.n_terms} terms, {table.segments.shape[0]} segments"
    )
    assert loaded + stored <= room * minimum
