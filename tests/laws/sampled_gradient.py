"""Laws of sampled_gradient and of delta_gradients, on fresh random inputs."""

import dataclasses

import pytest
import torch

from laws.species_linear import CASES, SPECIES, make
from pathtune import reference
from pathtune.ops import DeltaCotangent, delta_gradients, group_by_species, group_candidates, sampled_gradient

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


def cotangent(case, share, n_terms, n_thresholds, has_other=False, dtype=torch.float64):
    """A layer's DeltaCotangent, and dL/dD and dL/dd of it by the dense reference."""
    x, g, candidates, species, table = inputs(case, "several", share, dtype)
    n = candidates.indices.numel()
    values = torch.randn(n, dtype=dtype)
    segment = torch.randint(0, max(n_thresholds, 1), (n,))
    threshold = torch.rand(n_thresholds, dtype=dtype)
    terms = []
    total = torch.zeros(n, dtype=torch.float64)
    for i in range(n_terms):  # nodes of their own in each term
        own = species[i:]
        pair = torch.randn(own.numel(), x.shape[1], dtype=dtype), torch.randn(own.numel(), g.shape[1], dtype=dtype)
        terms.append((*pair, group_by_species(own, table.n_species)))
        total += reference.sampled_gradient(*(t.double() for t in pair), candidates.indices, own, table)
    other = torch.randn(n, dtype=dtype) if has_other else None
    total += 0 if other is None else other.double()
    delta = reference.soft_threshold(values, threshold, segment) if n_thresholds else values
    expected = total * (delta != 0) if n_thresholds else total
    by_threshold = torch.zeros(n_thresholds, dtype=torch.float64)
    if n_thresholds:
        by_threshold.index_add_(0, segment, -delta.sign().double() * expected)
    layer = DeltaCotangent(
        delta=delta,
        n_thresholds=n_thresholds,
        segment=segment if n_thresholds > 1 else None,
        other=other,
        terms=terms,
        candidates=candidates,
        table=table,
    )
    return layer, expected, by_threshold


LAYERS = [("wide", 0.03, 2, 1, False), ("vectors", 1.0, 1, 3, True), ("ragged tails", 0.3, 0, 2, True),
          ("two paths into one irrep", 0.5, 3, 0, True), ("vectors", 0.0, 2, 1, False), ("vectors", 0.2, 0, 1, False),
          ("an irrep without a path", 0.4, 2, 2, False)]  # fmt: skip


def assert_layers_equal(made, tolerance):
    """dL/dD and dL/dd of layers in one call are the reference's; `made` as `cotangent` makes them."""
    layers, *expected = zip(*made)
    for found, exact in zip(delta_gradients(layers), expected):
        for f, e, layer in zip(found, exact, layers):
            assert f.dtype == layer.delta.dtype
            assert f.shape == e.shape
            assert ((f.double() - e).abs() <= tolerance * e.abs().amax()).all() if e.numel() else True


class SampledGradientLaws:
    """Of every implementation; `tolerances` by dtype."""

    tolerances: dict

    @pytest.mark.parametrize("share", SHARES)
    @pytest.mark.parametrize("species_case", SPECIES)
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_kernel_equals_reference(self, case, species_case, share, dtype, all_kernels):
        x, g, candidates, species, table = inputs(case, species_case, share, dtype)
        found = kernel(x, g, candidates, species, table)
        dense = reference.sampled_gradient(x.double(), g.double(), slice(None), species, table)
        assert found.shape == candidates.indices.shape
        assert found.dtype == dtype
        scale = max(dense.abs().max().item(), 1e-30)
        assert ((found.double() - dense[candidates.indices]).abs() <= self.tolerances[dtype] * scale).all()

    @pytest.mark.parametrize("n_nodes", [1, 15, 16, 17, 47, 127, 128, 129, 1000])
    def test_tiles_of_rows_may_be_ragged(self, n_nodes, all_kernels):
        x, _, _, table = make("ragged tails", "no node")
        species = torch.randint(0, 5, (n_nodes,))
        x, g = (torch.randn(n_nodes, n, dtype=torch.float64) for n in (table.dim_in, table.dim_out))
        candidates = candidates_of(table, 0.2)
        expected = reference.sampled_gradient(x, g, candidates.indices, species, table)
        assert torch.allclose(kernel(x, g, candidates, species, table), expected, rtol=1e-12, atol=1e-11)

    def test_many_rows_keep_their_digits_in_float32(self, all_kernels):
        *_, table = make("wide", "no node", torch.float32)
        species = torch.full((20000,), 2)
        x = torch.rand(20000, table.dim_in)  # all of one sign: sums grow
        g = torch.rand(20000, table.dim_out)
        candidates = candidates_of(table, 0.001)
        expected = reference.sampled_gradient(x.double(), g.double(), candidates.indices, species, table)
        found = kernel(x, g, candidates, species, table).double()
        assert ((found - expected).abs() <= 1e-6 * expected.abs()).all()

    def test_candidates_of_absent_species_get_zero(self, kernels):
        x, g, candidates, species, table = inputs("vectors", "several", 1.0)
        found = kernel(x, g, candidates, species, table)[: 8 * 5 * 8].reshape(8, 5, 8)
        assert found[:, [1, 3]].abs().max() == 0
        assert found[:, [0, 2, 4]].abs().min() > 0

    def test_a_candidate_set_is_a_part_of_a_larger_one(self, kernels):
        x, g, candidates, species, table = inputs("wide", "several", 0.02)
        everything = kernel(x, g, candidates_of(table, 1.0), species, table)
        found = kernel(x, g, candidates, species, table)
        assert torch.allclose(found, everything[candidates.indices], rtol=1e-12)

    def test_repeats_bitwise(self, kernels):
        arguments = inputs("wide", "several", 0.1, torch.float32)
        runs = [kernel(*arguments) for _ in range(3)]
        assert all(torch.equal(runs[0], run) for run in runs[1:])

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_all_layers_in_one_call_equal_reference(self, dtype, all_kernels):
        assert_layers_equal([cotangent(*arguments, dtype) for arguments in LAYERS], self.tolerances[dtype])
        assert delta_gradients([]) == ([], [])

    @pytest.mark.parametrize("n", [16, 17, 40])
    def test_many_layers_in_one_call_equal_reference(self, n, kernels):
        assert_layers_equal([cotangent(*LAYERS[i % len(LAYERS)]) for i in range(n)], self.tolerances[torch.float64])

    def test_where_nothing_is_active_everything_is_zero(self, kernels):
        layer, *_ = cotangent("wide", 0.2, 2, 1)
        layer = dataclasses.replace(layer, delta=torch.zeros_like(layer.delta))
        (values,), (thresholds,) = delta_gradients([layer])
        assert (values == 0).all()
        assert thresholds.tolist() == [0]

    def test_inactive_entries_get_exactly_zero(self, kernels):
        layer, *_ = cotangent("ragged tails", 0.2, 2, 2, has_other=True)
        layer.delta[::2] = 0
        ((values,), _) = delta_gradients([layer])
        assert (values[::2] == 0).all()
        assert (values[1::2] != 0).any()

    def test_layers_repeat_bitwise(self, kernels):
        layers = [cotangent(*arguments, torch.float32)[0] for arguments in LAYERS]
        runs = [[*values, *thresholds] for values, thresholds in (delta_gradients(layers) for _ in range(3))]
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))
