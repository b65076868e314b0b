"""Laws of edge_geometry, on fresh random inputs."""

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
    """The operator's arguments, to the reference."""
    return reference.edge_geometry(vectors, c, graph.weight_row, sign)


def derivatives(function, vectors, c, graph, sign):
    """Values, the gradient to the vectors, and second derivatives to vectors and cotangents."""
    generator = torch.Generator().manual_seed(1)
    values = function(vectors, c, graph, sign)
    draw = lambda like: torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)  # noqa: E731
    g = [draw(v).requires_grad_() for v in values]
    (first,) = torch.autograd.grad(sum((v * w).sum() for v, w in zip(values, g)), vectors, create_graph=True)
    second = torch.autograd.grad((first * draw(first)).sum(), (vectors, *g), materialize_grads=True)
    return *values, first, *second


def assert_equal(found, expected, tolerance):
    """`tolerance` is relative to the largest entry expected, or to one."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert not a.numel() or (a - b).abs().max() <= tolerance * max(float(b.detach().abs().max()), 1.0)


class EdgeGeometryLaws:
    """Of every implementation; `tolerances` by dtype."""

    tolerances: dict

    @pytest.mark.parametrize("l_max", range(4))
    @pytest.mark.parametrize("n_rows", [0, 1, 7])
    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_kernel_equals_reference_through_second_derivatives(self, l_max, n_rows, shared, dtype, all_kernels):
        inputs = make(l_max, n_rows, dtype, shared)
        expected = derivatives(by_reference, *inputs)
        assert_equal(derivatives(edge_geometry, *inputs), expected, self.tolerances[dtype])

    @pytest.mark.usefixtures("needs_mace")
    @pytest.mark.parametrize("normalization", ["component", "norm", "integral"])
    def test_equals_e3nns_harmonics(self, normalization, kernels):
        from e3nn import o3

        from pathtune.backbones._geometry import harmonics_factors

        module = o3.SphericalHarmonics(o3.Irreps.spherical_harmonics(3), True, normalization)
        vectors, _, graph, sign = make(3, shared=False)
        factors = harmonics_factors(module)
        assert factors is not None
        _, y = edge_geometry(vectors, factors, graph, sign)
        assert torch.allclose(y, module(vectors), rtol=0, atol=1e-13)

    def test_an_edge_against_its_row_has_the_harmonics_of_the_reversed_vector(self, kernels):
        vectors, c, graph, sign = make(3)
        _, y = edge_geometry(vectors, c, graph, sign)
        _, reverse = edge_geometry(-vectors, c, graph, -sign)
        assert torch.allclose(y, reverse, rtol=0, atol=1e-14)

    def test_a_vector_of_length_zero_has_finite_values_and_derivatives(self, kernels):
        vectors, c, graph, sign = make(3, 3)
        with torch.no_grad():
            vectors[1] = 0
        lengths, y = edge_geometry(vectors, c, graph, sign)
        (first,) = torch.autograd.grad(lengths.sum() + y.pow(2).sum(), vectors, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), vectors)
        assert lengths[1] == 0
        assert not y[1, 1:].any()
        assert all(torch.isfinite(t).all() for t in (y, first, second))

    def test_gradcheck_and_gradgradcheck(self, kernels):
        vectors, c, graph, sign = make(3, 3)
        function = lambda v: edge_geometry(v, c, graph, sign)  # noqa: E731
        assert torch.autograd.gradcheck(function, (vectors,))
        assert torch.autograd.gradgradcheck(function, (vectors,))

    def test_third_derivatives_are_refused(self, kernels):
        vectors, c, graph, sign = make(2)
        value = edge_geometry(vectors, c, graph, sign)[1].pow(2).sum()
        for _ in range(2):
            (value,) = torch.autograd.grad(value, vectors, create_graph=True)
            value = value.pow(2).sum()
        with pytest.raises(NotImplementedError, match="third"):
            torch.autograd.grad(value, vectors)

    def test_opcheck(self, kernels):
        vectors, c, graph, sign = make(3)
        lengths, y = (torch.randn_like(t).requires_grad_() for t in edge_geometry(vectors, c, graph, sign))
        rows = (graph.row_ptr, graph.row_edges, sign, c)
        torch.library.opcheck(_forward.registered, (vectors, *rows))
        torch.library.opcheck(_first_backward.registered, (vectors, lengths, y, *rows))
        torch.library.opcheck(_second_backward.registered,
                              (vectors, lengths, y, torch.randn_like(vectors), *rows, True),
                              test_utils="test_schema")  # fmt: skip
