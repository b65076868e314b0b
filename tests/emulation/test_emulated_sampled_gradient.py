"""The CUDA kernels of sampled_gradient, emulated: laws of the call, and of the deltas' node that makes it."""

import dataclasses

import pytest
import torch
from test_delta_node import Model, assert_close
from test_sampled_gradient import shapes_of

from laws.irreps import irreps
from pathtune import reference
from pathtune.ops import DeltaCotangent, _sampled_cuda, delta_gradients, group_by_species, group_candidates
from pathtune.ops import sampled_gradient as sampled
from pathtune.ops._sampled_layer import tables_of
from pathtune.tables.species_linear import species_linear_table

N_SPECIES = 5
CASES = {
    "ragged": ("5x0e+33x1o", "33x0e+5x1o", [(0, 0, 0.5), (1, 1, -0.7)]),
    "packs": ("8x0e+36x1o", "36x0e+4x1o", [(0, 0, 0.5), (1, 1, 2.0)]),
    "packs of x only": ("8x1o", "7x1o", [(0, 0, 1.5)]),
    "two paths into one irrep": ("4x0e+2x0e", "17x0e", [(0, 0, 1.0), (1, 0, 0.5)]),
    "an irrep without a path": ("4x0e+2x1o", "5x0e+6x1o", [(0, 0, 1.0)]),
    "more channels than an item spans": ("131x0e", "195x0e", [(0, 0, 0.1)]),
}
SPECIES = {  # as many as a layer tells apart, and those of the nodes
    "several, two absent": (N_SPECIES, [2, 0, 2, 4, 4, 4, 0, 2, 2, 2, 2, 2, 2, 0, 2, 2, 2, 2, 2]),
    "a path linear": (1, [0] * 17),
    "one node": (N_SPECIES, [3]),
    "no node": (N_SPECIES, []),
}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


def table_of(case, n_species=N_SPECIES):
    irreps_in, irreps_out, paths = CASES[case]
    return species_linear_table(irreps(irreps_in), irreps(irreps_out), n_species, paths)


def candidates_of(table, share):
    n = min(table.weight_numel, max(int(share * table.weight_numel), int(share > 0)))
    return group_candidates(torch.randperm(table.weight_numel)[:n].sort().values, shapes_of(table))


def rows(n_nodes, table, dtype=torch.float64):
    return torch.randn(n_nodes, table.dim_in, dtype=dtype), torch.randn(n_nodes, table.dim_out, dtype=dtype)


def layer_of(case="ragged", share=0.2, n_terms=2, n_thresholds=0, has_other=False, species="several, two absent",
             dtype=torch.float64):  # fmt: skip
    """A layer's cotangent, and its dL/dD and dL/dd by the dense reference in float64."""
    n_species, nodes = SPECIES[species]
    table = table_of(case, n_species)
    candidates = candidates_of(table, share)
    n = candidates.indices.numel()
    terms, total = [], torch.zeros(n, dtype=torch.float64)
    for i in range(n_terms):  # nodes of their own in each term
        own = torch.tensor(nodes[i:], dtype=torch.int64)
        x, g = rows(own.numel(), table, dtype)
        terms.append((x, g, group_by_species(own, n_species)))
        total += reference.sampled_gradient(x.double(), g.double(), candidates.indices, own, table)
    other = torch.randn(n, dtype=dtype) if has_other else None
    total += other.double() if has_other else 0
    delta, segment = torch.randn(n, dtype=dtype), torch.randint(0, max(n_thresholds, 1), (n,))
    by_threshold = torch.zeros(n_thresholds, dtype=torch.float64)
    if n_thresholds:
        delta = reference.soft_threshold(delta, torch.rand(n_thresholds, dtype=dtype), segment)
        total *= delta != 0
        by_threshold.index_add_(0, segment, -delta.sign().double() * total)
    layer = DeltaCotangent(delta=delta, n_thresholds=n_thresholds, segment=segment if n_thresholds > 1 else None,
                           other=other, terms=terms, candidates=candidates, table=table)  # fmt: skip
    return layer, total, by_threshold


def assert_layers_equal(layers, dtype):
    given, *expected = zip(*layers)
    for found, exact in zip(delta_gradients(given), expected):
        assert all(f.dtype == dtype for f in found)
        assert_close([f.double() for f in found], exact, TOLERANCES[dtype])


def options_of_many(n, dtype):
    """Ever other small layers."""
    return [{"case": list(CASES)[i % 5], "n_terms": i % 4, "n_thresholds": i % 3, "has_other": i % 2 == 0,
             "share": 0.1 * (i % 3), "species": list(SPECIES)[i % 3], "dtype": dtype} for i in range(n)]  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_equals_reference(case, dtype, forward_kernels):
    for species in SPECIES:
        assert_layers_equal([layer_of(case, 0.05, 1, species=species, dtype=dtype)], dtype)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_any_share_of_candidates_equals_reference(share, cuda_kernels):
    assert_layers_equal([layer_of("ragged", share, 2)], torch.float64)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_layers_of_one_call_equal_reference(dtype, cuda_kernels):
    options = [{"n_thresholds": 1}, {"case": "packs", "n_thresholds": 3, "has_other": True, "n_terms": 1},
               {"n_terms": 0, "n_thresholds": 2, "has_other": True}, {"n_terms": 3, "has_other": True},
               {"share": 0.0, "n_thresholds": 2}, {"n_terms": 0, "n_thresholds": 1},
               {"case": "two paths into one irrep", "n_terms": 5, "n_thresholds": 1}]  # fmt: skip
    assert_layers_equal([layer_of(**o, dtype=dtype) for o in options], dtype)


@pytest.mark.parametrize("n", [16, 17, 40])
def test_layers_of_more_than_one_launch_equal_reference(n, forward_kernels):
    assert_layers_equal([layer_of(**options) for options in options_of_many(n, torch.float64)], torch.float64)


@pytest.mark.parametrize("n_nodes", [1, 15, 16, 17, 47, 129])
def test_rows_are_cut_into_chunks_and_tiles_without_a_remainder(n_nodes, forward_kernels, monkeypatch):
    table = table_of("packs")
    for min_rows in (1, 24, 64):
        monkeypatch.setattr(_sampled_cuda, "MIN_ROWS", min_rows)
        (x, g), species = rows(n_nodes, table), torch.randint(0, 2, (n_nodes,))
        candidates = candidates_of(table, 0.1)
        found = sampled(x, g, candidates, group_by_species(species, N_SPECIES), table)
        assert_close([found], [reference.sampled_gradient(x, g, candidates.indices, species, table)])


@pytest.mark.parametrize("n_blocks", [1, 8])  # one long chunk, and several
def test_many_rows_keep_their_digits_in_float32(n_blocks, forward_kernels, monkeypatch):
    monkeypatch.setattr(_sampled_cuda, "N_BLOCKS", n_blocks)
    table, n = table_of("packs of x only", 1), 20000
    x, g = torch.rand(n, table.dim_in), torch.rand(n, table.dim_out)  # all of one sign: sums grow
    candidates, species = candidates_of(table, 0.1), torch.zeros(n, dtype=torch.int64)
    found = sampled(x, g, candidates, group_by_species(species, 1), table).double()
    expected = reference.sampled_gradient(x.double(), g.double(), candidates.indices, species, table)
    assert ((found - expected).abs() <= 2e-7 * expected.abs()).all()


def test_rows_that_do_not_begin_at_16_bytes_are_read_one_by_one(forward_kernels):
    table = table_of("packs")
    candidates, species = candidates_of(table, 0.2), torch.tensor([1, 0, 1, 1])
    x, g = (torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t) for t in rows(4, table, torch.float32))
    assert x.is_contiguous()
    assert x.data_ptr() % 16
    found = sampled(x, g, candidates, group_by_species(species, N_SPECIES), table)
    assert_close([found], [reference.sampled_gradient(x, g, candidates.indices, species, table)], 1e-5)


def test_candidates_of_absent_species_get_zero(forward_kernels):
    table, species = table_of("ragged"), torch.tensor([0, 2, 2, 4])
    found = sampled(*rows(4, table), candidates_of(table, 1.0), group_by_species(species, N_SPECIES), table)
    found = found[: 5 * 5 * 33].reshape(5, 5, 33)
    assert (found[:, [1, 3]] == 0).all()
    assert (found[:, [0, 2, 4]] != 0).all()


def test_inactive_entries_get_exactly_zero(cuda_kernels):
    layer, *_ = layer_of(n_thresholds=2, has_other=True)
    layer.delta[::2] = 0
    ((values,), _) = delta_gradients([layer])
    assert (values[::2] == 0).all()
    assert (values[1::2] != 0).any()


def test_where_nothing_is_active_no_rows_are_read(forward_kernels):
    layer, *_ = layer_of(n_thresholds=1)
    loaded = []
    for delta in (layer.delta, torch.zeros_like(layer.delta)):
        forward_kernels.reset()
        ((values,), (thresholds,)) = delta_gradients([dataclasses.replace(layer, delta=delta)])
        loaded.append(forward_kernels.bytes_moved()[0])
    assert (values == 0).all()
    assert (thresholds == 0).all()
    assert loaded[0] - loaded[1] > sum(x.nbytes + g.nbytes for x, g, _ in layer.terms)


def test_the_order_of_threads_and_blocks_changes_no_bit(forward_kernels, monkeypatch):
    monkeypatch.setattr(_sampled_cuda, "MIN_ROWS", 16)
    layers = [layer_of(**options)[0] for options in options_of_many(8, torch.float32)]
    runs = []
    for order in ((0, 0), (1, 0), (2, 1), (2, 2), (2, 3)):
        forward_kernels.set_order(*order)
        runs.append([t for part in delta_gradients(layers) for t in part])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


@pytest.mark.parametrize("case", CASES)
def test_every_candidate_is_in_one_item_whose_channels_hold_it(case):
    table = table_of(case)
    candidates = candidates_of(table, 0.9)
    found = _sampled_cuda.make_table(tables_of(candidates, table), torch.device("cpu"))
    assert sorted(found.place.tolist()) == list(range(candidates.indices.numel()))
    items, next_first = found.items.long(), 0
    for x_begin, x_width, mul_in, g_begin, g_width, mul_out, _, species, first, last in items[:, :10].tolist():
        assert first == next_first
        assert 0 < last - first <= _sampled_cuda.ITEM_SIZE
        assert 0 < x_width <= _sampled_cuda.U_CHANNELS
        assert 0 < g_width <= _sampled_cuda.V_CHANNELS
        path = next(p for p in table.paths.tolist() if p[0] <= x_begin < p[0] + p[3] * p[4]
                    and p[1] <= g_begin < p[1] + p[3] * p[5])  # fmt: skip
        u, v = (found.channels[first:last].long() + torch.tensor([x_begin - path[0], g_begin - path[1]])).unbind(1)
        weights = path[2] + (u * N_SPECIES + species) * mul_out + v
        assert torch.equal(weights, candidates.indices[found.place[first:last].long()])
        assert (mul_in, mul_out) == (path[4], path[5])
        next_first = last
    assert next_first == candidates.indices.numel()


@pytest.mark.parametrize("kind", ["energy", "both"])
@pytest.mark.parametrize("thresholds", ["none", "one", "several"])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_gradients_through_the_deltas_node_equal_reference(kind, thresholds, dtype, cuda_kernels):
    model = Model(thresholds, dtype)
    assert_close(model.gradients(model.sparse(), kind), model.gradients(model.dense(), kind), TOLERANCES[dtype])


def test_a_differentiated_pass_equals_reference(forward_kernels):
    model, found = Model("several"), []
    for weights in (model.sparse, model.dense):
        gradients = model.gradients(weights(), create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in gradients), model.parameters()))
    assert_close(*found)


def test_tables_are_made_once_and_dropped_with_their_candidates(forward_kernels, monkeypatch):
    made, original = [], _sampled_cuda.make_table
    monkeypatch.setattr(_sampled_cuda, "make_table", lambda *given: made.append(1) or original(*given))
    before, model = len(_sampled_cuda._tables), Model()
    for _ in range(3):
        model.gradients(model.sparse())
        model.gradients(model.sparse(), create_graph=True)  # by the operators themselves
    assert len(made) == 2
    assert len(_sampled_cuda._tables) == before + 2
    del model
    assert len(_sampled_cuda._tables) == before
