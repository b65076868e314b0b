"""Laws of species_linear, on fresh random inputs."""

import pytest
import torch

from pathtune import reference
from pathtune.ops import group_by_species, species_linear
from pathtune.ops.species_linear import index_of, sizes_of
from pathtune.tables.irreps import layout_permutation
from pathtune.tables.species_linear import species_linear_table


class Ir:
    def __init__(self, l, p):
        self.l, self.p = l, p


def irreps(text):
    """`2x0e+3x1o` as e3nn iterates it."""
    result = []
    for part in text.split("+"):
        mul, ir = part.split("x")
        result.append((int(mul), Ir(int(ir[:-1]), 1 if ir[-1] == "e" else -1)))
    return result


CASES = {
    "vectors": ("8x0e+8x1o", "8x0e+8x1o", [(0, 0, 0.5), (1, 1, -0.7)]),
    "ragged tails": ("3x0e+5x1o+1x2e", "7x0e+2x1o+19x2e", [(0, 0, 1.0), (1, 1, 2.0), (2, 2, 0.3)]),
    "two paths into one irrep": ("4x0e+2x0e", "17x0e", [(0, 0, 1.0), (1, 0, 0.5)]),
    "an irrep without a path": ("4x0e+2x1o", "5x0e+6x1o", [(0, 0, 1.0)]),
    "wide": ("128x0e+48x1o", "48x0e+128x1o", [(0, 0, 0.1), (1, 1, 0.1)]),
}
SPECIES = {
    "several": torch.tensor([2, 0, 2, 4, 4, 4, 0, 2, 2, 2, 2, 2, 2]),
    "one node": torch.tensor([3]),
    "no node": torch.zeros(0, dtype=torch.int64),
}


def make(case, species_case, dtype=torch.float64):
    irreps_in, irreps_out, paths = CASES[case]
    table = species_linear_table(irreps(irreps_in), irreps(irreps_out), 5, paths)
    species = SPECIES[species_case]
    x = torch.randn(species.numel(), table.dim_in, dtype=dtype, requires_grad=True)
    weights = torch.randn(table.weight_numel, dtype=dtype, requires_grad=True)
    return x, weights, species, table


def kernel(x, weights, species, table):
    return species_linear(x, weights, group_by_species(species, table.n_species), table)


def derivatives(function, x, weights, species, table):
    """Value, first derivatives, and second derivatives of a scalar made of them."""
    generator = torch.Generator().manual_seed(1)
    y = function(x, weights, species, table)
    first = torch.autograd.grad((y**3).sum(), (x, weights), create_graph=True)
    probe = [torch.randn(g.shape, dtype=g.dtype, generator=generator) for g in first]
    second = torch.autograd.grad(sum((g * p).sum() for g, p in zip(first, probe)), (x, weights))
    return y, *first, *second


@pytest.mark.parametrize("species_case", SPECIES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_kernel_equals_reference_through_second_derivatives(case, species_case, dtype, tolerance, isa):
    inputs = make(case, species_case, dtype)
    for found, expected in zip(derivatives(kernel, *inputs), derivatives(reference.species_linear, *inputs)):
        scale = expected.abs().max() if expected.numel() else 1.0
        assert found.shape == expected.shape
        assert (found - expected).abs().max().item() <= tolerance * scale if found.numel() else True


@pytest.mark.parametrize("case", ["ragged tails", "two paths into one irrep"])
def test_gradcheck_and_gradgradcheck(case):
    x, weights, species, table = make(case, "several")
    x, weights = x.detach()[:, :].requires_grad_(), weights.detach().requires_grad_()
    function = lambda x, w: kernel(x, w, species, table)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, weights), fast_mode=True)


def test_opcheck():
    x, weights, species, table = make("ragged tails", "several")
    groups = group_by_species(species, table.n_species)
    rest = (list(index_of(groups, table)), list(sizes_of(x, groups, table)))
    y = torch.randn(x.shape[0], table.dim_out, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.pathtune.species_linear, (x, weights, *rest))
    torch.library.opcheck(torch.ops.pathtune.species_linear_grad_x, (y, weights, *rest))
    torch.library.opcheck(torch.ops.pathtune.species_linear_grad_weights, (x, y, *rest))


@pytest.mark.usefixtures("needs_mace")
def test_equals_e3nn_with_a_one_hot_operand():
    from e3nn import o3

    dense = o3.FullyConnectedTensorProduct("6x0e+5x1o", "4x0e", "7x0e+3x1o").double()
    instructions = [(i.i_in1, i.i_out, i.path_weight / dense.irreps_out[i.i_out].ir.dim**0.5)
                    for i in dense.instructions]  # fmt: skip
    table = species_linear_table(dense.irreps_in1, dense.irreps_out, 4, instructions)
    species = torch.tensor([1, 3, 1, 0])
    x = torch.randn(4, dense.irreps_in1.dim, dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(species, 4).double()
    to_ir_mul = layout_permutation(dense.irreps_in1)
    found = kernel(x[:, to_ir_mul], dense.weight.detach(), species, table)
    expected = dense(x, one_hot)[:, layout_permutation(dense.irreps_out)]
    # e3nn keeps its 3j in float32 after .double(): 2e-8
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)


def test_permuting_nodes_permutes_the_result():
    x, weights, species, table = make("vectors", "several")
    permutation = torch.randperm(species.numel())
    permuted = kernel(x[permutation], weights, species[permutation], table)
    assert torch.allclose(permuted, kernel(x, weights, species, table)[permutation], rtol=0, atol=1e-13)


def test_repeats_bitwise():
    inputs = make("wide", "several", torch.float32)
    runs = [derivatives(kernel, *inputs) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


def test_absent_species_receive_no_gradient():
    x, weights, species, table = make("vectors", "several")
    (gradient,) = torch.autograd.grad(kernel(x, weights, species, table).pow(2).sum(), weights)
    first_path = gradient[: 8 * 5 * 8].reshape(8, 5, 8)
    assert first_path[:, [1, 3]].abs().max() == 0
    assert first_path[:, [0, 2, 4]].abs().min() > 0


@pytest.mark.parametrize(("change", "error", "words"), [
    (lambda x, w: (x.float(), w), TypeError, "float64"),
    (lambda x, w: (x.half(), w.half()), TypeError, "float16"),
    (lambda x, w: (x[:, 1:], w), ValueError, "row length of x is 22, expected 23"),
    (lambda x, w: (x, w[1:]), ValueError, "number of weights"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, error, words):
    x, weights, species, table = make("ragged tails", "several")
    with pytest.raises(error, match=words):
        kernel(*change(x.detach(), weights.detach()), species, table)


def test_a_species_outside_the_model_is_named():
    with pytest.raises(ValueError, match="expected 0 to 4"):
        group_by_species(torch.tensor([0, 7]), 5)
