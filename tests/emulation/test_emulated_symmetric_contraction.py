"""The CUDA kernels of symmetric_contraction, emulated."""

import itertools

import pytest
import torch

from pathtune import reference
from pathtune.ops import group_by_species, symmetric_contraction
from pathtune.tables.contraction import contraction_coefficients, contraction_table

N_SPECIES = 5
CASES = {  # n_ell, 2l+1 of each output, correlation of each output, mul
    "scalars": (4, (1,), (3,), 5),
    "scalars and vectors": (6, (1, 3), (3, 2), 33),
    "correlation 1": (9, (5,), (1,), 5),
    "correlation 2": (4, (3, 1), (2, 2), 33),
    "correlation 4": (3, (1,), (4,), 5),
    "correlations 5 and 2": (2, (1, 3), (5, 2), 3),
    "a degree without terms": (4, (1,), (3,), 5),
    "many components": (16, (1, 3, 5, 7), (2, 2, 2, 2), 2),
}
SPECIES = {
    "several, two absent": torch.tensor([2, 0, 2, 4, 4, 4, 0, 2, 2, 2, 2, 2, 2]),
    "one node": torch.tensor([3]),
    "no node": torch.zeros(0, dtype=torch.int64),
}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


def make_outputs(case):
    """Sparse random U: the laws need no symmetry, and gaps make runs of different lengths."""
    n_ell, components, correlations, _ = CASES[case]
    outputs = []
    for n_components, correlation in zip(components, correlations):
        by_degree = [torch.randn(n_components, *[n_ell] * d, d, dtype=torch.float64)
                     for d in range(1, correlation + 1)]  # fmt: skip
        outputs.append([u * (torch.rand(u.shape[:-1]) < 0.2).unsqueeze(-1) for u in by_degree])
    if case == "a degree without terms":
        outputs[0][1].zero_()
    return outputs


def make(case, species, dtype=torch.float64):
    n_ell, _, _, mul = CASES[case]
    outputs, species = make_outputs(case), SPECIES[species]
    a = torch.randn(species.numel(), n_ell, mul, dtype=dtype, requires_grad=True)
    weights = [torch.randn(N_SPECIES, u.shape[-1], mul, dtype=dtype, requires_grad=True)
               for by_degree in outputs for u in by_degree]  # fmt: skip
    return a, weights, species, outputs


def kernel(a, weights, species, outputs):
    table, groups = contraction_table(outputs), group_by_species(species, N_SPECIES)
    return symmetric_contraction(a, contraction_coefficients(weights, groups.present, table), groups, table)


def direct(case, species, dtype=torch.float64):
    """Operator's own arguments, with coefficients as a leaf."""
    a, weights, species, outputs = make(case, species, dtype)
    table, groups = contraction_table(outputs), group_by_species(species, N_SPECIES)
    coefficients = contraction_coefficients(weights, groups.present, table).detach().requires_grad_()
    return a, coefficients, groups, table


def derivatives(function, a, weights, species, outputs):
    """Value, first derivatives, and second derivatives of a scalar made of them."""
    generator = torch.Generator().manual_seed(1)
    out = function(a, weights, species, outputs)
    first = torch.autograd.grad((out**2).sum(), (a, *weights), create_graph=True)
    probe = [torch.randn(g.shape, dtype=torch.float64, generator=generator).to(g) for g in first]
    second = torch.autograd.grad(sum((g * p).sum() for g, p in zip(first, probe)), (a, *weights))
    return out, *first, *second


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    if found.numel():
        assert (found - expected).abs().max().item() <= tolerance * expected.abs().max().item()


@pytest.mark.parametrize("species", SPECIES)
@pytest.mark.parametrize("case", CASES)
def test_kernels_equal_reference_through_second_derivatives(case, species, forward_kernels):
    inputs = make(case, species)
    expected = derivatives(reference.symmetric_contraction, *inputs)
    for f, e in zip(derivatives(kernel, *inputs), expected):
        assert_close(f, e, TOLERANCES[torch.float64])


@pytest.mark.parametrize("case", CASES)
def test_float32_kernels_equal_float64_reference_to_rounding(case, forward_kernels):
    a, weights, species, outputs = make(case, "several, two absent", torch.float32)
    double = a.detach().double().requires_grad_(), [w.detach().double().requires_grad_() for w in weights]
    expected = derivatives(reference.symmetric_contraction, *double, species, outputs)
    for f, e in zip(derivatives(kernel, a, weights, species, outputs), expected):
        assert_close(f.double(), e, TOLERANCES[torch.float32])


def all_derivatives(a, coefficients, groups, table):
    """What the three kernels return: one call of each."""
    generator = torch.Generator().manual_seed(1)
    g, *probe = (torch.randn(shape, dtype=a.dtype, generator=generator)
                 for shape in ((a.shape[0], table.n_out, a.shape[2]), a.shape, coefficients.shape))  # fmt: skip
    g.requires_grad_()
    out = symmetric_contraction(a, coefficients, groups, table)
    first = torch.autograd.grad(out, (a, coefficients), g, create_graph=True)
    second = torch.autograd.grad(sum((f * p).sum() for f, p in zip(first, probe)), (g, a, coefficients))
    return out, *first, *second


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", ["scalars and vectors", "correlation 4"])
def test_every_order_of_threads_gives_the_same_bits(case, dtype, cuda_kernels):
    inputs = direct(case, "several, two absent", dtype)
    found = all_derivatives(*inputs)
    cuda_kernels.set_order(0, 0)
    assert all(torch.equal(a, b) for a, b in zip(found, all_derivatives(*inputs)))


def spied_outputs(monkeypatch, kernels, name):
    """What each call of the kernel `name` was asked for: the addresses of its outputs."""
    run, calls = getattr(kernels, name), []

    def spy(*arguments):
        calls.append([bool(address) for address in arguments[-n_outputs - 1 : -1]])
        return run(*arguments)

    n_outputs = 3 if "double" in name else 2
    monkeypatch.setattr(kernels, name, spy)
    return calls


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)])
def test_backward_computes_only_what_is_asked_for(wanted, forward_kernels, monkeypatch):
    inputs = direct("scalars", "several, two absent")
    everything = torch.autograd.grad(symmetric_contraction(*inputs).pow(2).sum(), inputs[:2])
    calls = spied_outputs(monkeypatch, forward_kernels, "symmetric_contraction_backward_f64")
    found = torch.autograd.grad(symmetric_contraction(*inputs).pow(2).sum(), [inputs[i] for i in wanted])
    assert calls == [[i in wanted for i in range(2)]]
    for f, i in zip(found, wanted):
        assert torch.equal(f, everything[i])


def subsets(n):
    return [s for k in range(1, n + 1) for s in itertools.combinations(range(n), k)]


@pytest.mark.parametrize("wanted", subsets(3))
@pytest.mark.parametrize("adjoints", subsets(2))
def test_double_backward_of_any_subset_of_adjoints_and_gradients(adjoints, wanted, forward_kernels, monkeypatch):
    a, coefficients, groups, table = direct("scalars and vectors", "several, two absent")
    g = torch.randn(a.shape[0], table.n_out, a.shape[2], dtype=a.dtype, requires_grad=True)
    probe = [torch.randn_like(a), torch.randn_like(coefficients)]

    def second(wanted):
        out = symmetric_contraction(a, coefficients, groups, table)
        first = torch.autograd.grad(out, [(a, coefficients)[i] for i in adjoints], g, create_graph=True)
        total = sum((f * probe[i]).sum() for f, i in zip(first, adjoints))
        return torch.autograd.grad(total, [(g, a, coefficients)[i] for i in wanted], allow_unused=True)

    everything = second((0, 1, 2))
    calls = spied_outputs(monkeypatch, forward_kernels, "symmetric_contraction_double_backward_f64")
    for found, i in zip(second(wanted), wanted):
        assert (found is None) == (everything[i] is None) == (i == 2 and adjoints == (1,))
        # another subset leaves room for more warps, which are summed in another order
        assert found is None or torch.allclose(found, everything[i], rtol=0, atol=1e-12 * everything[i].abs().max())
    assert calls == ([[i in wanted for i in range(3)]] if 0 in adjoints else [])


@pytest.mark.parametrize("case", ["scalars", "correlation 4"])
def test_gradcheck_and_gradgradcheck(case, forward_kernels):
    a, coefficients, groups, table = direct(case, "several, two absent")
    function = lambda a, c: symmetric_contraction(a, c, groups, table)  # noqa: E731
    assert torch.autograd.gradcheck(function, (a, coefficients), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (a, coefficients), fast_mode=True)


def test_components_that_do_not_fit_in_shared_memory_are_refused(forward_kernels):
    table, groups = contraction_table([[torch.ones(1, 400, 1)]]), group_by_species(torch.zeros(1, dtype=torch.int64), 1)
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
    table, groups = contraction_table(outputs), group_by_species(torch.arange(40) % 2, 2)
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
    print(f"{which}: loaded {loaded}, stored {stored}, {(loaded + stored) / minimum:.2f} of the minimum {minimum}; "
          f"{table.n_terms} terms, {table.segments.shape[0]} segments")  # fmt: skip
    assert loaded + stored <= room * minimum
