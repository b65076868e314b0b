"""Laws of sampled_gradient, on fresh random inputs."""

import pytest
import torch
from test_species_linear import CASES, SPECIES, make

from pathtune import reference
from pathtune.ops import group_by_species, group_candidates, sampled_gradient
from pathtune.ops.sampled_gradient import index_of, sizes_of

SHARES = [0.0, 0.03, 0.3, 1.0]


def shapes_of(table):
    return [(row[4], table.n_species, row[5]) for row in table.paths.tolist()]


def candidates_of(table, share, seed=0):
    """A random share of the weights, at least one where the share is above zero."""
    generator = torch.Generator().manual_seed(seed)
    n = min(table.weight_numel, max(int(share * table.weight_numel), int(share > 0)))
    indices = torch.randperm(table.weight_numel, generator=generator)[:n].sort().values
    return group_candidates(indices, shapes_of(table))


def inputs(case, species_case, share, dtype=torch.float64):
    x, _, species, table = make(case, species_case, dtype)
    g = torch.randn(species.numel(), table.dim_out, dtype=dtype)
    return x.detach(), g, candidates_of(table, share), species, table


def kernel(x, g, candidates, species, table):
    return sampled_gradient(x, g, candidates, group_by_species(species, table.n_species), table)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("species_case", SPECIES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_kernel_equals_reference(case, species_case, share, dtype, tolerance, isa):
    x, g, candidates, species, table = inputs(case, species_case, share, dtype)
    found = kernel(x, g, candidates, species, table)
    dense = reference.sampled_gradient(x.double(), g.double(), slice(None), species, table)
    assert found.shape == candidates.indices.shape
    assert found.dtype == dtype
    scale = max(dense.abs().max().item(), 1e-30)
    assert ((found.double() - dense[candidates.indices]).abs() <= tolerance * scale).all()


@pytest.mark.parametrize("n_nodes", [1, 15, 16, 17, 127, 128, 129, 1000])
def test_tiles_of_rows_may_be_ragged(n_nodes, isa):
    x, _, _, table = make("ragged tails", "no node")
    species = torch.randint(0, 5, (n_nodes,))
    x, g = (torch.randn(n_nodes, n, dtype=torch.float64) for n in (table.dim_in, table.dim_out))
    candidates = candidates_of(table, 0.2)
    expected = reference.sampled_gradient(x, g, candidates.indices, species, table)
    assert torch.allclose(kernel(x, g, candidates, species, table), expected, rtol=1e-12, atol=1e-11)


def test_many_rows_keep_their_digits_in_float32(isa):
    x, _, _, table = make("wide", "no node", torch.float32)
    species = torch.full((20000,), 2)
    x, g = torch.rand(20000, table.dim_in), torch.rand(20000, table.dim_out)  # all of one sign: sums grow
    candidates = candidates_of(table, 0.001)
    expected = reference.sampled_gradient(x.double(), g.double(), candidates.indices, species, table)
    found = kernel(x, g, candidates, species, table).double()
    assert ((found - expected).abs() <= 1e-6 * expected.abs()).all()


def test_candidates_of_absent_species_get_zero():
    x, g, candidates, species, table = inputs("vectors", "several", 1.0)
    found = kernel(x, g, candidates, species, table)[: 8 * 5 * 8].reshape(8, 5, 8)
    assert found[:, [1, 3]].abs().max() == 0
    assert found[:, [0, 2, 4]].abs().min() > 0


def test_a_candidate_set_is_a_part_of_a_larger_one():
    x, g, candidates, species, table = inputs("wide", "several", 0.02)
    everything = kernel(x, g, candidates_of(table, 1.0), species, table)
    found = kernel(x, g, candidates, species, table)
    assert torch.allclose(found, everything[candidates.indices], rtol=1e-13)


def test_repeats_bitwise():
    arguments = inputs("wide", "several", 0.1, torch.float32)
    runs = [kernel(*arguments) for _ in range(3)]
    assert all(torch.equal(runs[0], run) for run in runs[1:])


def test_one_thread_agrees_with_two():
    x, g, candidates, species, table = inputs("wide", "several", 0.1)
    before = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(kernel(x, g, candidates, species, table))
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(*results, rtol=1e-13)


def test_opcheck():
    x, g, candidates, species, table = inputs("ragged tails", "several", 0.2)
    index = index_of(candidates, group_by_species(species, table.n_species), table)
    arguments = (x.requires_grad_(), g.requires_grad_(), *index, sizes_of(x, table))
    torch.library.opcheck(torch.ops.pathtune.sampled_gradient, arguments)


@pytest.mark.parametrize(("indices", "words"), [
    ([3, 2], "ascend"), ([2, 2], "ascend"),
    ([-1, 2], "-1 to 2, expected 0 to 39"), ([0, 40], "expected 0 to 39"),
])  # fmt: skip
def test_wrong_candidates_are_named(indices, words):
    with pytest.raises(ValueError, match=words):
        group_candidates(torch.tensor(indices), [(4, 1, 5), (2, 2, 5)])


@pytest.mark.parametrize(("change", "error", "words"), [
    (lambda x, g: (x.float(), g), TypeError, "float64"),
    (lambda x, g: (x[:, 1:], g), ValueError, "row length of x is 22, expected 23"),
    (lambda x, g: (x, g[:, 1:]), ValueError, "row length of g"),
    (lambda x, g: (x, g[1:]), ValueError, "number of rows of g is 12, expected 13"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, error, words):
    x, g, candidates, species, table = inputs("ragged tails", "several", 0.2)
    with pytest.raises(error, match=words):
        kernel(*change(x, g), candidates, species, table)
