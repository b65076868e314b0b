"""The CUDA kernels of edge_conv, emulated: its laws, and those of the order of threads."""

import itertools

import pytest
import torch

from laws.edge_conv import (
    CASES,
    SHARED,
    SUBSETS,
    UNEVEN,
    EdgeConvLaws,
    derivatives,
    graph_of,
    inputs_of,
    layer_2,
    make,
    table_from,
)
from laws.irreps import irreps
from pathtune.ops import _edge_conv_cuda, conv_graph, edge_conv
from pathtune.tables.edge_conv import edge_conv_table

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
ORDERS = [(0, 0), (1, 0), (2, 1), (2, 2), (2, 3)]  # of threads


class TestEmulated(EdgeConvLaws):
    tolerances = TOLERANCES

    @pytest.mark.parametrize("name", ["layer 2, 33 channels", "layer 2, 5 channels", "sevennet, joined"])
    def test_kernels_equal_reference_in_any_order_of_threads(self, name, cuda_kernels):
        rows = torch.tensor(SHARED) if name == "sevennet, joined" else None
        self.check(*make(name, weight_row=rows))

    @pytest.mark.parametrize("name", CASES)
    def test_deterministic_kernels_equal_reference(self, name, forward_kernels, deterministic):
        self.check(*make(name, weight_row=torch.tensor(UNEVEN)))

    def test_deterministic_kernels_equal_reference_with_absent_adjoints(self, forward_kernels, deterministic):
        for probed, graph in itertools.product(SUBSETS, ("several", "no edge", "no node")):
            self.check(*make("layer 2, 5 channels", graph), probed=probed)


def in_all_orders(emulated, inputs):
    runs = []
    for order in ORDERS:
        emulated.set_order(*order)
        runs.append(derivatives(edge_conv, *inputs))
    return runs


@pytest.mark.parametrize("name", ["layer 2, 33 channels", "several chunks"])
def test_all_but_gx_is_bitwise_the_same_in_any_order_of_threads(name, forward_kernels):
    runs = in_all_orders(forward_kernels, make(name, dtype=torch.float32, weight_row=torch.tensor(SHARED)))
    for k in range(8):
        if k not in (1, 4):  # gx of the backward and of the double backward
            assert all(torch.equal(run[k], runs[0][k]) for run in runs)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["layer 2, 33 channels", "sevennet", "several chunks"])
@pytest.mark.parametrize("row", [None, UNEVEN], ids=["own rows", "shared rows"])
def test_deterministic_results_are_bitwise_the_same_in_any_order_of_threads(name, row, forward_kernels, deterministic):
    weight_row = None if row is None else torch.tensor(row)
    runs = in_all_orders(forward_kernels, make(name, dtype=torch.float32, weight_row=weight_row))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0]))


def minimum(graph, table, n_inputs, n_adjoints, outputs):
    """Bytes of float32 and int64 that a pass must move: inputs of each edge, and each result once."""
    n_edges = graph.sender.numel()
    n_nodes = graph.n_nodes
    of_edges = table.dim_in + table.dim_y + table.weight_numel  # x, y, w, or their adjoints
    numbers = n_edges * of_edges * (1 + n_adjoints) + n_nodes * table.dim_out * n_inputs
    sizes = {
        "g": n_nodes * table.dim_out,
        "x": n_nodes * table.dim_in,
        "y": n_edges * table.dim_y,
        "w": n_edges * table.weight_numel,
    }
    return 4 * (numbers + sum(sizes[name] for name in outputs)) + 8 * (2 * n_edges + n_nodes + 1)


@pytest.mark.parametrize("has_gy", [False, True])
def test_traffic_is_within_thirty_percent_of_the_minimum(has_gy, forward_kernels):
    graph = conv_graph(torch.arange(24).repeat(2) % 3, torch.arange(48) // 16, 3)
    x, y, w, graph, table = inputs_of(table_from(*layer_2(128)), graph, torch.float32)
    y.requires_grad_(has_gy)
    first_of = [x, y, w] if has_gy else [x, w]

    def moved(function):
        forward_kernels.reset()
        result = function()
        return sum(forward_kernels.bytes_moved()), result

    bytes_forward, out = moved(lambda: edge_conv(x, y, w, graph, table))
    g = torch.randn_like(out, requires_grad=True)
    bytes_backward, first = moved(lambda: torch.autograd.grad(out, first_of, g, create_graph=True))
    scalar = sum((t * torch.randn_like(t)).sum() for t in first)
    bytes_double, _ = moved(lambda: torch.autograd.grad(scalar, [g, *first_of]))
    results = "xyw" if has_gy else "xw"
    assert bytes_forward <= 1.3 * minimum(graph, table, 0, 0, "g")
    assert bytes_backward <= 1.3 * minimum(graph, table, 1, 0, results)
    assert bytes_double <= 1.3 * minimum(graph, table, 1, 1, "g" + results)


def test_irreps_without_a_kernel_are_named(forward_kernels):
    table = edge_conv_table(irreps("2x6e"), irreps("1x0e"), irreps("2x6e"), [(0, 0, 0, torch.ones(13, 1, 13))])
    with pytest.raises(ValueError, match="a block of x has 13 components, on CUDA expected one of"):
        edge_conv(*inputs_of(table, graph_of("several")))


def test_paths_beyond_shared_memory_are_named(forward_kernels):
    n = 7000
    paths = [(0, 0, k, torch.ones(1, 1, 1)) for k in range(n)]
    table = edge_conv_table(irreps("1x0e"), irreps("1x0e"), irreps("1x0e") * n, paths)
    with pytest.raises(RuntimeError, match="need more than a CUDA block's shared memory"):
        edge_conv(*inputs_of(table, graph_of("several")))


def test_a_table_is_made_once_for_each_dtype(forward_kernels):
    table = table_from(*layer_2(3))
    _edge_conv_cuda._cuda_table.cache_clear()
    for dtype in (torch.float64, torch.float32, torch.float64):
        derivatives(edge_conv, *inputs_of(table, graph_of("several"), dtype))
    assert _edge_conv_cuda._cuda_table.cache_info().misses == 2
