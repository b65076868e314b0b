"""species_linear on the CPU: its laws, and what is the same on every device."""

import pytest
import torch

from laws.species_linear import SpeciesLinearLaws, kernel, make
from pathtune.ops import group_by_species
from pathtune.ops.species_linear import index_of, sizes_of
from pathtune.tables.irreps import layout_permutation
from pathtune.tables.species_linear import species_linear_table

TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6}


class TestOnCpu(SpeciesLinearLaws):
    tolerances = TOLERANCES


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
    instructions = [
        (i.i_in1, i.i_out, i.path_weight / dense.irreps_out[i.i_out].ir.dim ** 0.5) for i in dense.instructions
    ]
    table = species_linear_table(dense.irreps_in1, dense.irreps_out, 4, instructions)
    species = torch.tensor([1, 3, 1, 0])
    x = torch.randn(4, dense.irreps_in1.dim, dtype=torch.float64)
    one_hot = torch.nn.functional.one_hot(species, 4).double()
    to_ir_mul = layout_permutation(dense.irreps_in1)
    found = kernel(x[:, to_ir_mul], dense.weight.detach(), species, table)
    expected = dense(x, one_hot)[:, layout_permutation(dense.irreps_out)]
    # e3nn keeps its 3j in float32 after .double(): 2e-8
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, w: (x.float(), w), TypeError, "float64"),
        (lambda x, w: (x.half(), w.half()), TypeError, "float16"),
        (lambda x, w: (x[:, 1:], w), ValueError, "row length of x is 22, expected 23"),
        (lambda x, w: (x, w[1:]), ValueError, "number of weights"),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    x, weights, species, table = make("ragged tails", "several")
    with pytest.raises(error, match=words):
        kernel(*change(x.detach(), weights.detach()), species, table)


def test_a_species_outside_the_model_is_named():
    with pytest.raises(ValueError, match="expected 0 to 4"):
        group_by_species(torch.tensor([0, 7]), 5)
