"""Laws of symmetric_contraction, on fresh random inputs."""

import itertools

import pytest
import torch

from pathtune import reference
from pathtune.ops import _core, group_by_species, symmetric_contraction
from pathtune.ops.symmetric_contraction import index_of, sizes_of
from pathtune.tables.contraction import contraction_coefficients, contraction_table
from pathtune.tables.irreps import layout_permutation

N_SPECIES = 5
# n_ell, 2l+1 of each output, correlation of each output, mul
CASES = {
    "scalars and vectors": (6, (1, 3), (3, 3), 16),
    "ragged tails": (4, (1, 3, 5), (3, 2, 3), 3),
    "one channel": (4, (1, 3), (3, 3), 1),
    "correlation 1": (9, (5,), (1,), 48),
    "correlation 2": (4, (3, 1), (2, 2), 48),
    "correlation 4": (3, (1,), (4,), 5),
    "wide": (3, (1, 3), (3, 2), 128),
    "a degree without terms": (4, (1,), (3,), 19),
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
        by_degree = [torch.randn(n_components, *[n_ell] * d, 2 * d, dtype=torch.float64)
                     for d in range(1, correlation + 1)]  # fmt: skip
        by_degree = [u * (torch.rand(u.shape[:-1]) < 0.2).unsqueeze(-1) for u in by_degree]
        if case == "a degree without terms":
            by_degree[1].zero_()
        outputs.append(by_degree)
    return outputs


def make(case, species_case, dtype=torch.float64):
    n_ell, _, _, mul = CASES[case]
    outputs, species = make_outputs(case), SPECIES[species_case]
    a = torch.randn(species.numel(), n_ell, mul, dtype=dtype, requires_grad=True)
    weights = [torch.randn(N_SPECIES, u.shape[-1], mul, dtype=dtype, requires_grad=True)
               for by_degree in outputs for u in by_degree]  # fmt: skip
    return a, weights, species, outputs


def kernel(a, weights, species, outputs):
    table = contraction_table(outputs)
    groups = group_by_species(species, N_SPECIES)
    coefficients = contraction_coefficients(weights, groups.present, table)
    return symmetric_contraction(a, coefficients, groups, table)


def direct(case, species_case, dtype=torch.float64):
    """Operator's own arguments, with coefficients as a leaf."""
    a, weights, species, outputs = make(case, species_case, dtype)
    table, groups = contraction_table(outputs), group_by_species(species, N_SPECIES)
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


def assert_close(found, expected, tolerance):
    assert found.shape == expected.shape
    if found.numel():
        scale = expected.abs().max().item()
        assert (found - expected).abs().max().item() <= tolerance * scale


@pytest.mark.parametrize("species_case", SPECIES)
@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_reference_through_second_derivatives(case, species_case, isa):
    inputs = make(case, species_case)
    results = zip(derivatives(kernel, *inputs), derivatives(reference.symmetric_contraction, *inputs))
    for found, expected in results:
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_float32_kernel_equals_float64_reference_to_rounding(case, isa):
    a, weights, species, outputs = make(case, "several", torch.float32)
    double = a.detach().double().requires_grad_(), [w.detach().double().requires_grad_() for w in weights]
    found = derivatives(kernel, a, weights, species, outputs)
    expected = derivatives(reference.symmetric_contraction, *double, species, outputs)
    for f, e in zip(found, expected):
        assert_close(f.double(), e, 2e-6)
    assert_close(found[0].double(), expected[0], 1e-6)


@pytest.mark.parametrize("case", ["ragged tails", "correlation 2", "correlation 4"])
def test_gradcheck_and_gradgradcheck(case):
    a, coefficients, groups, table = direct(case, "several")
    function = lambda a, c: symmetric_contraction(a, c, groups, table)  # noqa: E731
    assert torch.autograd.gradcheck(function, (a, coefficients), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (a, coefficients), fast_mode=True)


def test_opcheck():
    a, coefficients, groups, table = direct("ragged tails", "several")
    rest = (list(index_of(groups, table, a.device)), list(sizes_of(a, groups, table)))
    g = torch.randn(a.shape[0], table.n_out, a.shape[2], dtype=a.dtype, requires_grad=True)
    op = torch.ops.pathtune
    torch.library.opcheck(op.symmetric_contraction, (a, coefficients, *rest))
    for needs in ([True, True], [True, False], [False, True]):
        torch.library.opcheck(op.symmetric_contraction_backward, (g, a, coefficients, *rest, needs))
    # No autograd beyond the second derivative: its arguments are plain.
    aa, g, a, c = (x.detach() for x in (torch.randn_like(a), g, a, coefficients))
    for ac in (None, torch.randn_like(c)):
        arguments = (aa, g, a, c, ac, *rest, [True, True, True])
        torch.library.opcheck(op.symmetric_contraction_double_backward, arguments)


def spied_outputs(monkeypatch, name):
    """What each call of the float64 kernel `name` was asked for: the addresses of its outputs."""
    kernel, calls = getattr(_core, name), []

    def spy(*arguments):
        calls.append([bool(address) for address in arguments[-n_outputs - 1 : -1]])
        return kernel(*arguments)

    n_outputs = 3 if "double" in name else 2
    monkeypatch.setattr(_core, name, spy)
    return calls


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)])
def test_backward_computes_only_what_is_asked_for(wanted, monkeypatch):
    inputs = direct("ragged tails", "several")
    everything = torch.autograd.grad(symmetric_contraction(*inputs).pow(2).sum(), inputs[:2])
    calls = spied_outputs(monkeypatch, "symmetric_contraction_backward_f64")
    found = torch.autograd.grad(symmetric_contraction(*inputs).pow(2).sum(), [inputs[i] for i in wanted])
    assert calls == [[i in wanted for i in range(2)]]
    for f, i in zip(found, wanted):
        assert torch.equal(f, everything[i])


def subsets(n):
    return [s for k in range(1, n + 1) for s in itertools.combinations(range(n), k)]


@pytest.mark.parametrize("wanted", subsets(3))
@pytest.mark.parametrize("adjoints", subsets(2))
def test_double_backward_of_any_subset_of_adjoints_and_gradients(adjoints, wanted, monkeypatch):
    a, coefficients, groups, table = direct("ragged tails", "several")
    g = torch.randn(a.shape[0], table.n_out, a.shape[2], dtype=a.dtype, requires_grad=True)
    probe = [torch.randn_like(a), torch.randn_like(coefficients)]

    def second(wanted):
        out = symmetric_contraction(a, coefficients, groups, table)
        first = torch.autograd.grad(out, [(a, coefficients)[i] for i in adjoints], g, create_graph=True)
        total = sum((f * probe[i]).sum() for f, i in zip(first, adjoints))
        return torch.autograd.grad(total, [(g, a, coefficients)[i] for i in wanted], allow_unused=True)

    everything = second((0, 1, 2))
    calls = spied_outputs(monkeypatch, "symmetric_contraction_double_backward_f64")
    for found, i in zip(second(wanted), wanted):
        assert (found is None) == (everything[i] is None) == (i == 2 and adjoints == (1,))
        assert found is None or torch.equal(found, everything[i])
    assert calls == ([[i in wanted for i in range(3)]] if 0 in adjoints else [])


def test_third_derivatives_are_refused():
    inputs = direct("ragged tails", "several")
    (first,) = torch.autograd.grad(symmetric_contraction(*inputs).sum(), inputs[0], create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), inputs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(second.sum(), inputs[0])


def test_permuting_nodes_permutes_the_result():
    a, weights, species, outputs = make("scalars and vectors", "several")
    permutation = torch.randperm(species.numel())
    permuted = kernel(a[permutation], weights, species[permutation], outputs)
    assert_close(permuted, kernel(a, weights, species, outputs)[permutation], 1e-14)


def test_repeats_bitwise():
    inputs = make("ragged tails", "more nodes than a thread takes at once", torch.float32)
    runs = [derivatives(kernel, *inputs) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


def test_any_number_of_threads_gives_the_same_result():
    inputs = make("ragged tails", "more nodes than a thread takes at once")
    before = torch.get_num_threads()
    try:
        runs = []
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            runs.append(derivatives(kernel, *inputs))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        for found, expected in zip(run, runs[0]):
            assert_close(found, expected, 1e-13)


def test_absent_species_receive_no_gradient():
    a, weights, species, outputs = make("ragged tails", "several")
    gradients = torch.autograd.grad(kernel(a, weights, species, outputs).pow(2).sum(), weights)
    by_species = torch.cat(gradients, dim=1).abs().amax(dim=(1, 2))
    assert by_species.nonzero().flatten().tolist() == [0, 2, 4]


@pytest.mark.parametrize(("change", "error", "words"), [
    (lambda a, c: (a.float(), c), TypeError, "coefficients is torch.float64, but a is torch.float32"),
    (lambda a, c: (a.half(), c.half()), TypeError, "float16"),
    (lambda a, c: (a[:, 1:], c), ValueError, "number of components of a is 3, expected 4"),
    (lambda a, c: (a.flatten(1), c), ValueError, "number of dimensions of a is 2, expected 3"),
    (lambda a, c: (a[1:], c), ValueError, "number of grouped nodes is 13, expected 12"),
    (lambda a, c: (a, c[:, 1:]), ValueError, "number of terms of coefficients"),
    (lambda a, c: (a, c[1:]), ValueError, "number of species of coefficients is 2, expected 3"),
    (lambda a, c: (a, c[..., 1:]), ValueError, "number of channels of coefficients is 2, expected 3"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, error, words):
    a, coefficients, groups, table = direct("ragged tails", "several")
    with pytest.raises(error, match=words):
        symmetric_contraction(*change(a.detach(), coefficients.detach()), groups, table)


def test_wrong_tables_and_weights_are_named():
    _, weights, _, outputs = make("ragged tails", "several")
    table, present = contraction_table(outputs), torch.tensor([1])
    with pytest.raises(ValueError, match=r"7 weight tensors, expected 8"):
        contraction_coefficients(weights[1:], present, table)
    with pytest.raises(ValueError, match=r"weights 0 have 1 parameters, expected 2"):
        contraction_coefficients([weights[0][:, 1:], *weights[1:]], present, table)
    with pytest.raises(ValueError, match=r"degree 2 has shape \(3, 4, 3, 4\), expected \(3, 4, 4\)"):
        contraction_table([outputs[0], [outputs[1][0], outputs[1][1][:, :, 1:]]])
    with pytest.raises(ValueError, match="no U tensor"):
        contraction_table([])


@pytest.fixture
def default_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("needs_mace", "default_float64")
@pytest.mark.parametrize(("lmax", "irreps_out", "correlation", "use_reduced_cg"), [
    (2, "6x0e+6x1o", 3, False),
    (2, "6x0e+6x1o", 3, True),
    (2, "6x0e+6x1o+6x2e", 2, False),
    pytest.param(3, "6x0e+6x1o", 3, False, marks=pytest.mark.slow),  # mace takes half a minute to build U
])  # fmt: skip
def test_equals_mace(lmax, irreps_out, correlation, use_reduced_cg):
    from e3nn import o3
    from mace.modules.symmetric_contraction import SymmetricContraction

    irreps_in = (6 * o3.Irreps.spherical_harmonics(lmax)).sort().irreps.simplify()
    module = SymmetricContraction(irreps_in, o3.Irreps(irreps_out), correlation,
                                  use_reduced_cg=use_reduced_cg, num_elements=N_SPECIES)  # fmt: skip
    n_ell, outputs, weights = (lmax + 1) ** 2, [], []
    for (_, ir), contraction in zip(module.irreps_out, module.contractions):
        outputs.append([contraction.U_tensors(d).reshape(ir.dim, *[n_ell] * d, -1)
                        for d in range(1, correlation + 1)])  # fmt: skip
        weights += [*reversed(list(contraction.weights)), contraction.weights_max]
    species = SPECIES["several"]
    one_hot = torch.nn.functional.one_hot(species, N_SPECIES).double()

    def stock(a, weights, species, outputs):
        out = module(a.transpose(1, 2), one_hot)[:, layout_permutation(module.irreps_out)]
        return out.reshape(a.shape[0], -1, a.shape[2])

    a = torch.randn(species.numel(), n_ell, 6, requires_grad=True)
    found, expected = (derivatives(f, a, weights, species, outputs) for f in (kernel, stock))
    assert_close(found[0], expected[0], 1e-12)
    for f, e in zip(found, expected):
        assert_close(f, e, 1e-10)
