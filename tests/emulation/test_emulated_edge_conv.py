"""Laws of edge_conv's CUDA kernels, emulated, on fresh random inputs."""

import itertools
import os
import sys

import pytest
import torch

from pathtune import reference
from pathtune.ops import _edge_conv_cuda, conv_graph, edge_conv
from pathtune.tables.edge_conv import edge_conv_table

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "ops"))
from test_edge_conv import GRAPHS, SUBSETS, assert_equal, derivatives, graph_of, irreps

MACE_Y = "1x0e+1x1o+1x2e+1x3o"
LAYER_1 = ("{0}x0e", MACE_Y, "{0}x0e+{0}x1o+{0}x2e+{0}x3o", [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 3, 3)])
LAYER_2 = (
    "{0}x0e+{0}x1o", MACE_Y,
    "{0}x0e+{0}x0e+{0}x1o+{0}x1o+{0}x1o+{0}x2e+{0}x2e+{0}x2e+{0}x3o+{0}x3o",
    [(0, 0, 0), (1, 1, 1), (0, 1, 2), (1, 0, 3), (1, 2, 4), (0, 2, 5), (1, 1, 6), (1, 3, 7), (0, 3, 8), (1, 2, 9)],
)  # fmt: skip
SEVENNET = ("40x0e+16x1e+8x2e", "1x0e+1x1e+1x2e", "40x0e+16x0e+40x1e+16x1e+16x1e+8x1e+16x2e+8x2e+8x2e",
            [(0, 0, 0), (1, 1, 1), (0, 1, 2), (1, 0, 3), (1, 2, 4), (2, 1, 5), (1, 1, 6), (2, 0, 7),
             (2, 2, 8)])  # fmt: skip
# one block of x in several batches of paths; neither all channels nor, in float64, a warp's fit into shared memory
BLOCKS = "+".join(f"1x{l}e" for l in range(4))
CROWDED = ("33x3e", BLOCKS, "+".join(["33x5e"] * 12), [(0, k % 4, k) for k in range(12)])
GATHERED = ("3x0o+5x1e+19x3o", "1x1o+1x2e", "3x1e+19x1e+5x3e+3x2o+4x0e", [(0, 0, 0), (1, 1, 2), (2, 0, 1), (0, 1, 3)])

SMALL = {  # name: irreps and paths, mul
    "layer 1": (LAYER_1, 5), "layer 2, 5 channels": (LAYER_2, 5), "layer 2, 32 channels": (LAYER_2, 32),
    "layer 2, 33 channels": (LAYER_2, 33), "layer 2, 40 channels": (LAYER_2, 40), "sevennet": (SEVENNET, 0),
    "ragged, a block without a path": (GATHERED, 0),
    "paths into one block": (("6x0e+6x1o", "1x0e+1x1o", "6x1o+6x0e",
                              [(0, 1, 0), (1, 0, 0), (1, 1, 1), (0, 0, 1)]), 0),
    "l up to 5": (("17x4e+3x5o", "1x4e+1x5o", "17x4e+3x4e+17x5o", [(0, 0, 0), (1, 1, 1), (0, 1, 2)]), 0),
    "crowded": (CROWDED, 0),
    "several chunks": (("288x0e+4x1o", "1x0e+1x1o", "288x1o+4x1o", [(0, 1, 0), (1, 0, 1)]), 0),
}  # fmt: skip
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
ORDERS = [(0, 0), (1, 0), (2, 1), (2, 2), (2, 3)]  # of threads


def table_of(name, joined=False):
    (x, y, out, paths), mul = SMALL.get(name) or (LAYER_2, int(name))
    x, y, out = (irreps(text.format(mul)) for text in (x, y, out))
    shapes = [(2 * x[a][1].l + 1, 2 * y[b][1].l + 1, 2 * out[k][1].l + 1) for a, b, k in paths]
    c = [torch.randn(shape, dtype=torch.float64) * (torch.rand(shape) < 0.4) for shape in shapes]
    return edge_conv_table(x, y, out, [(*path, t) for path, t in zip(paths, c)], joined)


def inputs_of(table, graph, dtype=torch.float64):
    random = lambda *shape: torch.randn(*shape, dtype=dtype, requires_grad=True)  # noqa: E731
    n_edges, n_rows = graph.sender.numel(), graph.row_ptr.numel() - 1
    x, y = random(graph.n_nodes, table.dim_in), random(n_edges, table.dim_y)
    return x, y, random(n_rows, table.weight_numel), graph, table


def check(x, y, w, graph, table, **options):
    found = derivatives(edge_conv, x, y, w, graph, table, **options)
    wide = [t.detach().double().requires_grad_() for t in (x, y, w)]
    expected = derivatives(reference.edge_conv, *wide, graph, table, **options)
    assert_equal(found, expected, [TOLERANCE[x.dtype]] * len(found))


PAIRS = torch.tensor([0, 1, 3, 0, 1, 4, 4, 2, 3, 5])  # of the graph "several": rows of one edge and of two


@pytest.mark.parametrize("name", ["layer 2, 33 channels", "layer 2, 5 channels", "sevennet"])
def test_kernels_equal_reference_in_any_order_of_threads(name, cuda_kernels):
    graph = graph_of("several", PAIRS if name == "sevennet" else None)
    check(*inputs_of(table_of(name, joined=name == "sevennet"), graph))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", SMALL)
def test_kernels_equal_reference_through_second_derivatives(name, dtype, forward_kernels):
    check(*inputs_of(table_of(name), graph_of("several"), dtype))
    if name != "crowded":
        check(*inputs_of(table_of(name), graph_of("several", PAIRS), dtype))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("graph", GRAPHS)
def test_any_graph_equals_reference(graph, dtype, forward_kernels):
    check(*inputs_of(table_of("6"), graph_of(graph), dtype))


@pytest.mark.parametrize("first_of", SUBSETS)
def test_any_subset_of_gradients_equals_reference(first_of, forward_kernels):
    inputs = inputs_of(table_of("paths into one block"), graph_of("several", PAIRS), torch.float32)
    for second_of in [(), *SUBSETS]:
        check(*inputs, first_of=first_of, second_of=second_of)


@pytest.mark.parametrize("probed", SUBSETS)
def test_absent_adjoints_equal_reference(probed, forward_kernels):
    check(*inputs_of(table_of("3"), graph_of("several")), probed=probed)


def test_gradcheck_and_gradgradcheck(forward_kernels):
    x, y, w, graph, table = inputs_of(table_of("2"), graph_of("several", PAIRS))
    function = lambda x, y, w: edge_conv(x, y, w, graph, table)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, y, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, y, w), fast_mode=True)


def test_a_row_read_by_many_edges_and_rows_read_by_none_equal_reference(forward_kernels):
    row = torch.tensor([0, 0, 2, 3, 4, 0, 6, 7, 9, 9])
    check(*inputs_of(table_of("4"), graph_of("several", row)))


def test_views_that_are_not_aligned_equal_reference(forward_kernels):
    x, y, w, graph, table = inputs_of(table_of("32"), graph_of("several"), torch.float32)
    shifted = [torch.cat([t.new_zeros(1), t.detach().flatten()])[1:].view_as(t).requires_grad_() for t in (x, y, w)]
    assert all(t.data_ptr() % 8 for t in shifted)
    check(*shifted, graph, table)


def in_all_orders(emulated, inputs):
    runs = []
    for order in ORDERS:
        emulated.set_order(*order)
        runs.append(derivatives(edge_conv, *inputs))
    return runs


@pytest.mark.parametrize("name", ["33", "several chunks"])
def test_all_but_gx_is_bitwise_the_same_in_any_order_of_threads(name, forward_kernels):
    runs = in_all_orders(forward_kernels, inputs_of(table_of(name), graph_of("several", PAIRS), torch.float32))
    for k in range(8):
        if k not in (1, 4):  # gx of the backward and of the double backward
            assert all(torch.equal(run[k], runs[0][k]) for run in runs)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["33", "sevennet", "several chunks"])
@pytest.mark.parametrize("row", [None, [0, 0, 2, 3, 4, 0, 6, 7, 9, 9]], ids=["own rows", "shared rows"])
def test_deterministic_results_are_bitwise_the_same_in_any_order_of_threads(name, row, forward_kernels, deterministic):
    graph = graph_of("several", None if row is None else torch.tensor(row))
    runs = in_all_orders(forward_kernels, inputs_of(table_of(name), graph, torch.float32))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0]))


@pytest.mark.parametrize("name", SMALL)
def test_deterministic_kernels_equal_reference(name, forward_kernels, deterministic):
    check(*inputs_of(table_of(name), graph_of("several", torch.tensor([0, 0, 2, 3, 4, 0, 6, 7, 9, 9]))))


def test_deterministic_kernels_equal_reference_with_absent_adjoints(forward_kernels, deterministic):
    for probed, graph in itertools.product(SUBSETS, ("several", "no edge", "no node")):
        check(*inputs_of(table_of("3"), graph_of(graph)), probed=probed)


def test_relabelled_receivers_of_many_edges_equal_reference(forward_kernels):
    receiver = torch.arange(4).repeat_interleave(torch.tensor([13, 0, 1, 6]))
    graph = conv_graph(torch.randint(4, (20,)), receiver, 4)
    check(*inputs_of(table_of("6"), graph, torch.float32))


def minimum(graph, table, n_inputs, n_adjoints, outputs):
    """Bytes of float32 and int64 that a pass must move: inputs of each edge, and each result once."""
    n_edges, n_nodes = graph.sender.numel(), graph.n_nodes
    of_edges = table.dim_in + table.dim_y + table.weight_numel  # x, y, w, or their adjoints
    numbers = n_edges * of_edges * (1 + n_adjoints) + n_nodes * table.dim_out * n_inputs
    sizes = {"g": n_nodes * table.dim_out, "x": n_nodes * table.dim_in, "y": n_edges * table.dim_y,
             "w": n_edges * table.weight_numel}  # fmt: skip
    return 4 * (numbers + sum(sizes[name] for name in outputs)) + 8 * (2 * n_edges + n_nodes + 1)


@pytest.mark.parametrize("has_gy", [False, True])
def test_traffic_is_within_thirty_percent_of_the_minimum(has_gy, forward_kernels):
    graph = conv_graph(torch.arange(24).repeat(2) % 3, torch.arange(48) // 16, 3)
    x, y, w, graph, table = inputs_of(table_of("128"), graph, torch.float32)
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


def test_wrong_arguments_are_named(forward_kernels):
    x, y, w, graph, table = inputs_of(table_of("3"), graph_of("several"))
    with pytest.raises(ValueError, match="number of rows of w is 9, expected 10"):
        edge_conv(x, y, w[1:], graph, table)
    with pytest.raises(TypeError, match="y is torch.float64, but x is torch.float32"):
        edge_conv(x.float(), y, w, graph, table)


def test_a_table_is_made_once_for_each_dtype(forward_kernels):
    table = table_of("3")
    _edge_conv_cuda._cuda_table.cache_clear()
    for dtype in (torch.float64, torch.float32, torch.float64):
        derivatives(edge_conv, *inputs_of(table, graph_of("several"), dtype))
    assert _edge_conv_cuda._cuda_table.cache_info().misses == 2
