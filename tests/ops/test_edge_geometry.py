import pytest
import torch

from pathtune import reference
from pathtune.ops import conv_graph, edge_geometry
from pathtune.ops.edge_geometry import _first_backward, _forward, _second_backward


def make(l_max, n_rows=7, dtype=torch.float64, shared=True):
    """Rows of one or two edges; c as of e3nn's normalisation "component"."""
    n_edges = 2 * n_rows - 1 if shared and n_rows else n_rows
    row = torch.arange(n_edges) % max(n_rows, 1)
    sign = torch.where(torch.arange(n_edges) < n_rows, 1.0, -1.0).to(dtype)
    graph = conv_graph(torch.zeros_like(row), torch.zeros_like(row), 1, row)
    c = [(2 * l + 1) ** 0.5 for l in range(l_max + 1)]
    vectors = torch.randn(n_rows, 3, dtype=dtype, requires_grad=True)
    return vectors, c, graph, sign


def by_reference(vectors, c, graph, sign):
    return reference.edge_geometry(vectors, c, graph.weight_row, sign)


def derivatives(function, vectors, c, graph, sign):
    """Values, the gradient to the vectors, and second derivatives to vectors and cotangents."""
    generator = torch.Generator().manual_seed(1)
    values = function(vectors, c, graph, sign)
    g = [torch.randn(v.shape, dtype=v.dtype, generator=generator).requires_grad_() for v in values]
    (first,) = torch.autograd.grad(sum((v * w).sum() for v, w in zip(values, g)), vectors, create_graph=True)
    probe = torch.randn(first.shape, dtype=first.dtype, generator=generator)
    second = torch.autograd.grad((first * probe).sum(), (vectors, *g), materialize_grads=True)
    return *values, first, *second


@pytest.mark.parametrize("l_max", range(4))
@pytest.mark.parametrize("n_rows", [0, 1, 7])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_kernel_equals_reference_through_second_derivatives(l_max, n_rows, shared, dtype, tolerance, isa):
    inputs = make(l_max, n_rows, dtype, shared)
    for a, b in zip(derivatives(edge_geometry, *inputs), derivatives(by_reference, *inputs)):
        assert a.shape == b.shape
        assert not a.numel() or (a - b).abs().max() <= tolerance * max(float(b.detach().abs().max()), 1.0)


@pytest.mark.usefixtures("needs_mace")
@pytest.mark.parametrize("normalization", ["component", "norm", "integral"])
def test_equals_e3nns_harmonics(normalization):
    from e3nn import o3

    from pathtune.backbones._geometry import harmonics_factors

    module = o3.SphericalHarmonics(o3.Irreps.spherical_harmonics(3), True, normalization)
    vectors, _, graph, sign = make(3, shared=False)
    factors = harmonics_factors(module)
    assert factors is not None
    _, y = edge_geometry(vectors, factors, graph, sign)
    assert torch.allclose(y, module(vectors), rtol=0, atol=1e-13)


def test_an_edge_against_its_row_has_the_harmonics_of_the_reversed_vector():
    vectors, c, graph, sign = make(3)
    _, y = edge_geometry(vectors, c, graph, sign)
    _, reverse = edge_geometry(-vectors, c, graph, -sign)
    assert torch.allclose(y, reverse, rtol=0, atol=1e-14)


def test_gradcheck_and_gradgradcheck():
    vectors, c, graph, sign = make(3, 3)
    function = lambda v: edge_geometry(v, c, graph, sign)  # noqa: E731
    assert torch.autograd.gradcheck(function, (vectors,))
    assert torch.autograd.gradgradcheck(function, (vectors,))


def test_third_derivatives_are_refused():
    vectors, c, graph, sign = make(2)
    value = edge_geometry(vectors, c, graph, sign)[1].pow(2).sum()
    for _ in range(2):
        (value,) = torch.autograd.grad(value, vectors, create_graph=True)
        value = value.pow(2).sum()
    with pytest.raises(NotImplementedError, match="third"):
        torch.autograd.grad(value, vectors)


def test_opcheck():
    vectors, c, graph, sign = make(3)
    lengths, y = (torch.randn_like(t).requires_grad_() for t in edge_geometry(vectors, c, graph, sign))
    rows = (graph.row_ptr, graph.row_edges, sign, c)
    torch.library.opcheck(_forward.registered, (vectors, *rows))
    torch.library.opcheck(_first_backward.registered, (vectors, lengths, y, *rows))
    torch.library.opcheck(_second_backward.registered, (vectors, lengths, y, torch.randn_like(vectors), *rows, True),
                          test_utils="test_schema")  # fmt: skip


def test_repeats_bitwise_and_threads_do_not_matter():
    inputs = make(3, 5000, torch.float32)
    before, runs = torch.get_num_threads(), []
    try:
        for n in (1, 3, 3):
            torch.set_num_threads(n)
            runs.append(derivatives(edge_geometry, *inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


@pytest.mark.parametrize(("change", "error", "words"), [
    (lambda v, c, g, s: (v, c, g, s.float()), TypeError, "sign is torch.float32"),
    (lambda v, c, g, s: (v[1:], c, g, s), ValueError, "number of vectors is 6, expected 7"),
    (lambda v, c, g, s: (v, c, g, s[1:]), ValueError, "number of signs is 12, expected 13"),
    (lambda v, c, g, s: (v, [1.0] * 5, g, s), ValueError, "c has 5 numbers, expected 1 to 4"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, error, words):
    with pytest.raises(error, match=words):
        edge_geometry(*change(*make(2)))
