"""The CUDA kernels of sampled_gradient, emulated: its laws, those of its launches, and of the deltas' node."""

import dataclasses

import pytest
import torch
from test_delta_node import Model, assert_close

from laws.sampled_gradient import LAYERS, SampledGradientLaws, assert_layers_equal, candidates_of, cotangent, kernel
from laws.species_linear import CASES, N_SPECIES, make
from pathtune import reference
from pathtune.ops import _sampled_cuda, delta_gradients
from pathtune.ops._sampled_layer import tables_of

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
PACKED = "vectors of 16 bytes"


class TestEmulated(SampledGradientLaws):
    tolerances = TOLERANCES

    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_any_share_of_candidates_equals_reference_in_any_order_of_threads(self, share, cuda_kernels):
        assert_layers_equal([cotangent("a tail beyond a tile", share, 2, 0)], 1e-12)

    @pytest.mark.parametrize("dtype", TOLERANCES)
    def test_layers_of_one_call_equal_reference_in_any_order_of_threads(self, dtype, cuda_kernels):
        assert_layers_equal([cotangent(*arguments, dtype) for arguments in LAYERS], TOLERANCES[dtype])


def table_of(case):
    *_, table = make(case, "no node")
    return table


def rows(n_nodes, table, dtype=torch.float64):
    return torch.randn(n_nodes, table.dim_in, dtype=dtype), torch.randn(n_nodes, table.dim_out, dtype=dtype)


@pytest.mark.parametrize("n_nodes", [1, 15, 16, 17, 47, 129])
def test_rows_are_cut_into_chunks_and_tiles_without_a_remainder(n_nodes, forward_kernels, monkeypatch):
    table = table_of(PACKED)
    for min_rows in (1, 24, 64):
        monkeypatch.setattr(_sampled_cuda, "MIN_ROWS", min_rows)
        (x, g) = rows(n_nodes, table)
        species = torch.randint(0, 2, (n_nodes,))
        candidates = candidates_of(table, 0.1)
        found = kernel(x, g, candidates, species, table)
        assert_close([found], [reference.sampled_gradient(x, g, candidates.indices, species, table)])


@pytest.mark.parametrize("n_blocks", [1, 8])  # one long chunk, and several
def test_long_chunks_keep_their_digits_in_float32(n_blocks, forward_kernels, monkeypatch):
    monkeypatch.setattr(_sampled_cuda, "N_BLOCKS", n_blocks)
    table = table_of("vectors of 16 bytes in x only")
    n = 20000
    x = torch.rand(n, table.dim_in)  # all of one sign: sums grow
    g = torch.rand(n, table.dim_out)
    candidates = candidates_of(table, 0.1)
    species = torch.zeros(n, dtype=torch.int64)
    found = kernel(x, g, candidates, species, table).double()
    expected = reference.sampled_gradient(x.double(), g.double(), candidates.indices, species, table)
    assert ((found - expected).abs() <= 2e-7 * expected.abs()).all()


def test_rows_that_do_not_begin_at_16_bytes_are_read_one_by_one(forward_kernels):
    table = table_of(PACKED)
    candidates = candidates_of(table, 0.2)
    species = torch.tensor([1, 0, 1, 1])
    x, g = (torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t) for t in rows(4, table, torch.float32))
    assert x.is_contiguous()
    assert x.data_ptr() % 16
    found = kernel(x, g, candidates, species, table)
    assert_close([found], [reference.sampled_gradient(x, g, candidates.indices, species, table)], 1e-5)


def test_where_nothing_is_active_no_rows_are_read(forward_kernels):
    layer, *_ = cotangent("a tail beyond a tile", 0.2, 2, 1)
    loaded = []
    for delta in (layer.delta, torch.zeros_like(layer.delta)):
        forward_kernels.reset()
        delta_gradients([dataclasses.replace(layer, delta=delta)])
        loaded.append(forward_kernels.bytes_moved()[0])
    assert loaded[0] - loaded[1] > sum(x.nbytes + g.nbytes for x, g, _ in layer.terms)


def test_the_order_of_threads_and_blocks_changes_no_bit(forward_kernels, monkeypatch):
    monkeypatch.setattr(_sampled_cuda, "MIN_ROWS", 16)
    layers = [cotangent(*arguments, torch.float32)[0] for arguments in LAYERS]
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
    items = found.items.long()
    next_first = 0
    for x_begin, x_width, mul_in, g_begin, g_width, mul_out, _, species, first, last in items[:, :10].tolist():
        assert first == next_first
        assert 0 < last - first <= _sampled_cuda.ITEM_SIZE
        assert 0 < x_width <= _sampled_cuda.U_CHANNELS
        assert 0 < g_width <= _sampled_cuda.V_CHANNELS
        path = next(
            p
            for p in table.paths.tolist()
            if p[0] <= x_begin < p[0] + p[3] * p[4] and p[1] <= g_begin < p[1] + p[3] * p[5]
        )
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
    model = Model("several")
    found = []
    for weights in (model.sparse, model.dense):
        gradients = model.gradients(weights(), create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in gradients), model.parameters()))
    assert_close(*found)


def test_tables_are_made_once_and_dropped_with_their_candidates(forward_kernels, monkeypatch):
    made = []
    original = _sampled_cuda.make_table
    monkeypatch.setattr(_sampled_cuda, "make_table", lambda *given: made.append(1) or original(*given))
    before = len(_sampled_cuda._tables)
    model = Model()
    for _ in range(3):
        model.gradients(model.sparse())
        model.gradients(model.sparse(), create_graph=True)  # by the operators themselves
    assert len(made) == 2
    assert len(_sampled_cuda._tables) == before + 2
    del model
    assert len(_sampled_cuda._tables) == before
