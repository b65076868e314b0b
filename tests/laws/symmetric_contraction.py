"""Laws of symmetric_contraction, on fresh random inputs."""

import itertools

import pytest
import torch

from laws.compare import assert_all_close, assert_close
from pathtune import reference
from pathtune.ops import group_by_species, symmetric_contraction
from pathtune.tables.contraction import contraction_coefficients, contraction_table

N_SPECIES = 5
# n_ell, 2l+1 of each output, correlation of each output, mul
CASES = {
    "scalars": (4, (1,), (3,), 5),
    "scalars and vectors": (6, (1, 3), (3, 3), 16),
    "ragged tails": (4, (1, 3, 5), (3, 2, 3), 3),
    "one channel": (4, (1, 3), (3, 3), 1),
    "one channel beyond a warp": (6, (1, 3), (3, 2), 33),
    "correlation 1": (9, (5,), (1,), 48),
    "correlation 2": (4, (3, 1), (2, 2), 48),
    "correlation 4": (3, (1,), (4,), 5),
    "correlations 5 and 2": (2, (1, 3), (5, 2), 3),
    "wide": (3, (1, 3), (3, 2), 128),
    "a degree without terms": (4, (1,), (3,), 19),
    "many components": (16, (1, 3, 5, 7), (2, 2, 2, 2), 2),
}
SPECIES = {
    "several": torch.tensor([2, 0, 2, 4, 4, 4, 0, 2, 2, 2, 2, 2, 2]),
    "one node": torch.tensor([3]),
    "no node": torch.zeros(0, dtype=torch.int64),
    "more nodes than a thread takes at once": torch.arange(60) % 7 // 3,
}


def make_outputs(case):
    """Sparse random U: no symmetry is needed for the laws, and a fifth of the entries makes gaps."""
    n_ell, components, correlations, _ = CASES[case]
    outputs = []
    for n_components, correlation in zip(components, correlations):
        by_degree = [
            torch.randn(n_components, *[n_ell] * d, 2 * d, dtype=torch.float64) for d in range(1, correlation + 1)
        ]
        by_degree = [u * (torch.rand(u.shape[:-1]) < 0.2).unsqueeze(-1) for u in by_degree]
        if case == "a degree without terms":
            by_degree[1].zero_()
        outputs.append(by_degree)
    return outputs


def make(case, species_case, dtype=torch.float64):
    n_ell, _, _, mul = CASES[case]
    outputs = make_outputs(case)
    species = SPECIES[species_case]
    a = torch.randn(species.numel(), n_ell, mul, dtype=dtype, requires_grad=True)
    weights = [
        torch.randn(N_SPECIES, u.shape[-1], mul, dtype=dtype, requires_grad=True)
        for by_degree in outputs
        for u in by_degree
    ]
    return a, weights, species, outputs


def kernel(a, weights, species, outputs):
    table = contraction_table(outputs)
    groups = group_by_species(species, N_SPECIES)
    coefficients = contraction_coefficients(weights, groups.present, table)
    return symmetric_contraction(a, coefficients, groups, table)


def direct(case, species_case, dtype=torch.float64):
    """Operator's own arguments, with coefficients as a leaf."""
    a, weights, species, outputs = make(case, species_case, dtype)
    table = contraction_table(outputs)
    groups = group_by_species(species, N_SPECIES)
    coefficients = contraction_coefficients(weights, groups.present, table).detach().requires_grad_()
    return a, coefficients, groups, table


def derivatives(function, a, weights, species, outputs):
    """Value, first derivatives, and second derivatives of a scalar made of them."""
    generator = torch.Generator().manual_seed(1)
    out = function(a, weights, species, outputs)
    leaves = [a, *(w for w in weights if w.requires_grad)]  # mace freezes the weights of a U that is zero
    first = torch.autograd.grad((out**2).sum(), leaves, create_graph=True)
    probe = [torch.randn(g.shape, dtype=torch.float64, generator=generator).to(g) for g in first]
    second = torch.autograd.grad(sum((g * p).sum() for g, p in zip(first, probe)), leaves)
    return out, *first, *second


def spied_outputs(monkeypatch, kernels, name):
    """What each call of the float64 kernel `name` was asked for: the addresses of its outputs."""
    run = getattr(kernels, name)
    calls = []

    def spy(*arguments):
        calls.append([bool(address) for address in arguments[-n_outputs - 1 : -1]])
        return run(*arguments)

    n_outputs = 3 if "double" in name else 2
    monkeypatch.setattr(kernels, name, spy)
    return calls


def subsets(n):
    return [s for k in range(1, n + 1) for s in itertools.combinations(range(n), k)]


class SymmetricContractionLaws:
    """Of every implementation; `tolerances` by dtype, `between_subsets` of two passes that ask for other gradients."""

    tolerances: dict
    between_subsets: float

    @pytest.mark.parametrize("species_case", SPECIES)
    @pytest.mark.parametrize("case", CASES)
    def test_kernel_equals_reference_through_second_derivatives(self, case, species_case, all_kernels):
        inputs = make(case, species_case)
        expected = derivatives(reference.symmetric_contraction, *inputs)
        assert_all_close(derivatives(kernel, *inputs), expected, self.tolerances[torch.float64])

    @pytest.mark.parametrize("case", CASES)
    def test_float32_kernel_equals_float64_reference_to_rounding(self, case, all_kernels):
        a, weights, species, outputs = make(case, "several", torch.float32)
        double = a.detach().double().requires_grad_(), [w.detach().double().requires_grad_() for w in weights]
        found = [t.double() for t in derivatives(kernel, a, weights, species, outputs)]
        expected = derivatives(reference.symmetric_contraction, *double, species, outputs)
        assert_all_close(found, expected, self.tolerances[torch.float32])

    @pytest.mark.parametrize("case", ["ragged tails", "correlation 2", "correlation 4"])
    def test_gradcheck_and_gradgradcheck(self, case, kernels):
        a, coefficients, groups, table = direct(case, "several")
        function = lambda a, c: symmetric_contraction(a, c, groups, table)  # noqa: E731
        assert torch.autograd.gradcheck(function, (a, coefficients), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, (a, coefficients), fast_mode=True)

    @pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)])
    def test_backward_computes_only_what_is_asked_for(self, wanted, kernels, monkeypatch):
        inputs = direct("ragged tails", "several")
        everything = torch.autograd.grad(symmetric_contraction(*inputs).pow(2).sum(), inputs[:2])
        calls = spied_outputs(monkeypatch, kernels, "symmetric_contraction_backward_f64")
        found = torch.autograd.grad(symmetric_contraction(*inputs).pow(2).sum(), [inputs[i] for i in wanted])
        assert calls == [[i in wanted for i in range(2)]]
        for f, i in zip(found, wanted):
            assert torch.equal(f, everything[i])

    @pytest.mark.parametrize("wanted", subsets(3))
    @pytest.mark.parametrize("adjoints", subsets(2))
    def test_double_backward_of_any_subset_of_adjoints_and_gradients(self, adjoints, wanted, kernels, monkeypatch):
        a, coefficients, groups, table = direct("ragged tails", "several")
        g = torch.randn(a.shape[0], table.n_out, a.shape[2], dtype=a.dtype, requires_grad=True)
        probe = [torch.randn_like(a), torch.randn_like(coefficients)]

        def second(wanted):
            out = symmetric_contraction(a, coefficients, groups, table)
            first = torch.autograd.grad(out, [(a, coefficients)[i] for i in adjoints], g, create_graph=True)
            total = sum((f * probe[i]).sum() for f, i in zip(first, adjoints))
            return torch.autograd.grad(total, [(g, a, coefficients)[i] for i in wanted], allow_unused=True)

        everything = second((0, 1, 2))
        calls = spied_outputs(monkeypatch, kernels, "symmetric_contraction_double_backward_f64")
        for found, i in zip(second(wanted), wanted):
            assert (found is None) == (everything[i] is None) == (i == 2 and adjoints == (1,))
            if found is not None:
                assert_close(found, everything[i], self.between_subsets)
        assert calls == ([[i in wanted for i in range(3)]] if 0 in adjoints else [])

    def test_third_derivatives_are_refused(self, kernels):
        inputs = direct("ragged tails", "several")
        (first,) = torch.autograd.grad(symmetric_contraction(*inputs).sum(), inputs[0], create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), inputs[0], create_graph=True)
        with pytest.raises(NotImplementedError, match="third derivatives"):
            torch.autograd.grad(second.sum(), inputs[0])

    def test_permuting_nodes_permutes_the_result(self, kernels):
        a, weights, species, outputs = make("scalars and vectors", "several")
        permutation = torch.randperm(species.numel())
        permuted = kernel(a[permutation], weights, species[permutation], outputs)
        assert_close(permuted, kernel(a, weights, species, outputs)[permutation], 1e-14)

    def test_repeats_bitwise(self, kernels):
        inputs = make("ragged tails", "more nodes than a thread takes at once", torch.float32)
        runs = [derivatives(kernel, *inputs) for _ in range(3)]
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))

    def test_absent_species_receive_no_gradient(self, kernels):
        a, weights, species, outputs = make("ragged tails", "several")
        gradients = torch.autograd.grad(kernel(a, weights, species, outputs).pow(2).sum(), weights)
        by_species = torch.cat(gradients, dim=1).abs().amax(dim=(1, 2))
        assert by_species.nonzero().flatten().tolist() == [0, 2, 4]
