"""Laws of the sparse linears: the dense ones, with the weight gradient at candidates only."""

import pytest
import torch

from laws.irreps import irreps
from laws.sampled_gradient import candidates_of
from laws.species_linear import CASES, make
from pathtune import reference
from pathtune.ops import SparseWeights, group_by_species, sparse_path_linear, sparse_species_linear
from pathtune.ops._bilinear import index_of
from pathtune.ops.species_linear import sizes_of
from pathtune.tables.species_linear import species_linear_table

N_SPECIES = [1, 5]  # a path linear is a species linear of one species


def problem(case, n_species, dtype=torch.float64, share=0.2):
    """x, base weights, values, candidates, species, table."""
    irreps_in, irreps_out, paths = CASES[case]
    table = species_linear_table(irreps(irreps_in), irreps(irreps_out), n_species, paths)
    species = make(case, "several")[2] % n_species
    x = torch.randn(species.numel(), table.dim_in, dtype=dtype, requires_grad=True)
    candidates = candidates_of(table, share)
    base = torch.randn(table.weight_numel, dtype=dtype)
    values = torch.randn(candidates.indices.numel(), dtype=dtype, requires_grad=True)
    return x, base, values, candidates, species, table


def sparse(x, base, values, candidates, species, table):
    effective = base.index_add(0, candidates.indices, values.detach())
    weights = SparseWeights(effective, values, candidates)
    if table.n_species == 1:
        return sparse_path_linear(x, weights, table)
    return sparse_species_linear(x, weights, group_by_species(species, table.n_species), table)


def dense(x, base, values, candidates, species, table):
    return reference.species_linear(x, base.index_add(0, candidates.indices, values), species, table)


def derivatives(function, x, base, values, *rest):
    """Value, first derivatives, second derivatives of a scalar made of them, and one third."""
    generator = torch.Generator().manual_seed(1)
    y = function(x, base, values, *rest)
    first = torch.autograd.grad((y**3).sum(), (x, values), create_graph=True)
    probe = [torch.randn(g.shape, dtype=g.dtype, generator=generator) for g in first]
    scalar = sum((g * p).sum() for g, p in zip(first, probe))
    second = torch.autograd.grad(scalar, (x, values), create_graph=True)
    third = torch.autograd.grad(sum((g**2).sum() for g in second), values)
    return y, *first, *second, *third


@pytest.mark.parametrize("n_species", N_SPECIES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
def test_sparse_equals_dense_through_third_derivatives(case, n_species, dtype, tolerance, isa):
    arguments = problem(case, n_species, dtype)
    for found, expected in zip(derivatives(sparse, *arguments), derivatives(dense, *arguments)):
        assert found.shape == expected.shape
        assert (found - expected).abs().max().item() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("n_species", N_SPECIES)
@pytest.mark.parametrize("case", ["ragged tails", "two paths into one irrep"])
def test_gradcheck_and_gradgradcheck(case, n_species):
    x, base, values, *rest = problem(case, n_species)
    function = lambda x, values: sparse(x, base, values, *rest)  # noqa: E731  (writes W' from values first)
    assert torch.autograd.gradcheck(function, (x, values), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, values), fast_mode=True)


@pytest.mark.parametrize("n_species", N_SPECIES)
def test_opcheck(n_species):
    x, base, values, candidates, species, table = problem("ragged tails", n_species)
    groups = group_by_species(species, n_species)
    g = torch.randn(x.shape[0], table.dim_out, dtype=x.dtype, requires_grad=True)
    rest = (values, base, list(index_of(candidates, groups, table)), list(sizes_of(x, groups, table)))
    torch.library.opcheck(torch.ops.pathtune.sparse_linear, (x, *rest, False))
    torch.library.opcheck(torch.ops.pathtune.sparse_linear, (g, *rest, True))


def test_rewriting_the_weights_before_the_backward_is_refused():
    x, base, values, *rest = problem("vectors", 5)
    effective = base.clone()
    species, table = rest[1:]
    weights = SparseWeights(effective, values, rest[0])
    y = sparse_species_linear(x, weights, group_by_species(species, 5), table)
    effective.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, base, values: (x[:, 1:], base, values), "row length of x is 22, expected 23"),
        (lambda x, base, values: (x, base[1:], values), "number of weights is"),
        (lambda x, base, values: (x, base, values[1:]), "number of values is"),
    ],
)
def test_wrong_arguments_are_named(change, words):
    x, base, values, candidates, species, table = problem("ragged tails", 5)
    x, base, values = change(x.detach(), base, values.detach())
    with pytest.raises(ValueError, match=words):
        sparse_species_linear(x, SparseWeights(base, values, candidates), group_by_species(species, 5), table)
