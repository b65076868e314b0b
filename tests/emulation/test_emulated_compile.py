"""torch.compile traces the operators without a graph break (fullgraph=True) and runs the emulated CUDA kernels."""

import pytest
import torch

import laws.edge_conv
import laws.species_linear
import laws.symmetric_contraction
from pathtune.ops import edge_conv, group_by_species, species_linear, symmetric_contraction

pytestmark = pytest.mark.slow  # torch.compile takes a minute and more


def conv():
    x, y, w, graph, table = laws.edge_conv.make("ragged tails, both parities")
    return (lambda *t: edge_conv(*t, graph, table)), (x, y, w)


def contraction():
    a, coefficients, groups, table = laws.symmetric_contraction.direct("ragged tails", "several")
    return (lambda *t: symmetric_contraction(*t, groups, table)), (a, coefficients)


def linear():
    x, weights, species, table = laws.species_linear.make("ragged tails", "several")
    groups = group_by_species(species, table.n_species)
    return (lambda *t: species_linear(*t, groups, table)), (x, weights)


@pytest.mark.parametrize("operator", [conv, contraction, linear])
def test_compiled_operators_give_the_same_values_and_gradients_without_a_graph_break(operator, forward_kernels):
    function, tensors = operator()
    compiled = torch.compile(lambda *t: function(*t).sin(), fullgraph=True, backend="aot_eager")
    found = compiled(*tensors)
    expected = function(*tensors).sin()
    assert torch.allclose(found, expected, rtol=1e-12)
    for f, e in zip(torch.autograd.grad(found.sum(), tensors), torch.autograd.grad(expected.sum(), tensors)):
        assert torch.allclose(f, e, rtol=1e-11, atol=1e-13)
