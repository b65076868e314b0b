"""edge_conv on the CPU: its laws, and what is the same on every device."""

import pytest
import torch

from laws.edge_conv import CASES, SUBSETS, EdgeConvLaws, derivatives, graph_of, make
from laws.irreps import irreps
from pathtune.ops import conv_graph, edge_conv
from pathtune.ops.edge_conv import index_of
from pathtune.tables.edge_conv import edge_conv_table
from pathtune.tables.irreps import layout_permutation

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6}


class TestOnCpu(EdgeConvLaws):
    tolerances = TOLERANCES


@pytest.mark.parametrize("second_of", [(), *SUBSETS])
def test_kernels_compute_only_the_gradients_that_the_pass_uses(second_of, monkeypatch):
    asked = []
    module = edge_conv.__globals__
    call = module["_call"]

    def spy(*arguments):
        asked.append([t is not None for t in arguments[-1]])
        call(*arguments)

    monkeypatch.setitem(module, "_call", spy)
    derivatives(edge_conv, *make("scalars"), first_of=(0, 2), second_of=second_of)
    forward = [True, False, False, False]
    backward = [False, True, False, True]
    assert asked == [forward, backward, [True, *(i in second_of for i in range(3))]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck():
    x, y, w, graph, table = make("ragged tails, both parities")
    index = list(index_of(graph, table))
    g = torch.randn(graph.n_nodes, table.dim_out, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.pathtune.edge_conv, (x, y, w, index, [graph.edges_per_row, table.dim_out]))
    for needs in ([True, True, True], [True, False, True]):
        request = [graph.edges_per_row, False, *needs]
        torch.library.opcheck(torch.ops.pathtune.edge_conv_backward, (x, y, w, g, index, request))
    x, y, w, g = (t.detach() for t in (x, y, w, g))
    adjoints = (torch.randn_like(x), None, torch.randn_like(w))
    arguments = (x, y, w, g, *adjoints, index, [graph.edges_per_row, True, True, False, False])
    torch.library.opcheck(torch.ops.pathtune.edge_conv_double_backward, arguments)


@pytest.mark.parametrize("rows", ["own rows", "shared rows"])
def test_repeats_bitwise_for_any_number_of_threads(rows):
    weight_row = None if rows == "own rows" else torch.arange(40) // 2
    inputs = make("wide", "many neighbours", torch.float32, weight_row)
    before = torch.get_num_threads()
    runs = []
    try:
        for n_threads in (1, 2, 3, 2):
            torch.set_num_threads(n_threads)
            runs.append(derivatives(edge_conv, *inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


def e3nn_product(x="6x0e+6x1o", y="1x0e+1x1o+1x2e", lmax=2):
    """A 'uvu' product with all paths, its table (3j in float64), and its irreps."""
    from e3nn import o3

    x = o3.Irreps(x)
    y = o3.Irreps(y)
    out = []
    instructions = []
    for a, (mul, ir1) in enumerate(x):
        for b, (_, ir2) in enumerate(y):
            for ir in ir1 * ir2:
                if ir.l <= lmax:
                    instructions.append((a, b, len(out), "uvu", True))
                    out.append((mul, ir))
    product = o3.TensorProduct(x, y, out, instructions, shared_weights=False, internal_weights=False).double()
    paths = []
    for i in product.instructions:
        ls = x[i.i_in1].ir.l, y[i.i_in2].ir.l, out[i.i_out][1].l
        paths.append((i.i_in1, i.i_in2, i.i_out, o3.wigner_3j(*ls, dtype=torch.float64) * i.path_weight))
    return product, edge_conv_table(x, y, product.irreps_out, paths)


@pytest.mark.usefixtures("needs_mace")
@pytest.mark.parametrize("x", ["6x0e+6x1o", "8x0e+4x1e+2x2e", "3x1o+5x2o"])
def test_equals_e3nn_tensor_product_and_scatter(x):
    product, table = e3nn_product(x)
    graph = graph_of("several")
    x = torch.randn(graph.n_nodes, table.dim_in, dtype=torch.float64)
    y = torch.randn(graph.sender.numel(), table.dim_y, dtype=torch.float64)
    w = torch.randn(graph.sender.numel(), table.weight_numel, dtype=torch.float64)
    messages = product(x[graph.sender], y, w)
    expected = x.new_zeros(graph.n_nodes, table.dim_out).index_add(0, graph.receiver, messages)
    found = edge_conv(x[:, layout_permutation(product.irreps_in1)], y, w, graph, table)
    # e3nn keeps its 3j in float32 after .double(): 2e-8
    assert torch.allclose(found, expected[:, layout_permutation(product.irreps_out)], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("needs_mace")
def test_rotating_the_inputs_rotates_the_result():
    from e3nn import o3

    product, table = e3nn_product("4x0e+4x1o+4x2e", "1x0e+1x1o+1x2e+1x3o", lmax=3)
    graph = graph_of("several")
    x = torch.randn(graph.n_nodes, table.dim_in, dtype=torch.float64)
    w = torch.randn(graph.sender.numel(), table.weight_numel, dtype=torch.float64)
    y = torch.randn(graph.sender.numel(), table.dim_y, dtype=torch.float64)
    rotation = -o3.rand_matrix().double()  # improper: parities count too
    in1 = layout_permutation(product.irreps_in1)
    out = layout_permutation(product.irreps_out)
    rotate = lambda t, irreps: t @ irreps.D_from_matrix(rotation).to(t.dtype).T  # noqa: E731
    found = edge_conv(rotate(x, product.irreps_in1)[:, in1], rotate(y, product.irreps_in2), w, graph, table)
    expected = edge_conv(x[:, in1], y, w, graph, table)
    expected = rotate(expected[:, torch.argsort(out)], product.irreps_out)[:, out]
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)  # D_from_matrix: e3nn's float32 constants


def test_joined_blocks_hold_the_same_numbers_component_by_component():
    x, y, w, graph, joined = make("sevennet, joined")
    in1, in2, out, paths = CASES["sevennet, joined"]
    # the same C in each path
    c = torch.split(joined.coefficients, [int(d[6:9].prod()) for d in joined.paths])
    c = [t.reshape(d[6:9].tolist()) for t, d in zip(c, joined.paths)]
    apart = edge_conv_table(irreps(in1), irreps(in2), irreps(out), [(*path, t) for path, t in zip(paths, c)])
    found = edge_conv(x, y, w, graph, joined)
    expected = edge_conv(x, y, w, graph, apart)
    blocks = torch.split(expected, [mul * (2 * ir.l + 1) for mul, ir in irreps(out)], dim=1)
    by_l = [
        [b.reshape(len(b), 2 * ir.l + 1, -1) for b, (_, ir) in zip(blocks, irreps(out)) if ir.l == l] for l in range(3)
    ]
    assert torch.equal(found, torch.cat([torch.cat(group, dim=2).flatten(1) for group in by_l], dim=1))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, y, w: (x.float(), y, w), TypeError, "y is torch.float64, but x is torch.float32"),
        (lambda x, y, w: (x.half(), y.half(), w.half()), TypeError, "float16"),
        (lambda x, y, w: (x[:, 1:], y, w), ValueError, "row length of x is 7, expected 8"),
        (lambda x, y, w: (x[1:], y, w), ValueError, "number of rows of x is 5, expected 6"),
        (lambda x, y, w: (x, y[1:], w), ValueError, "number of rows of y is 9, expected 10"),
        (lambda x, y, w: (x, y, w[1:]), ValueError, "number of rows of w is 9, expected 10"),
        (lambda x, y, w: (x, y, w[:, 1:]), ValueError, "row length of w is 1, expected 2"),
        (lambda x, y, w: (x, y, w[0]), ValueError, "number of dimensions of w is 1, expected 2"),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    x, y, w, graph, table = make("one channel")
    with pytest.raises(error, match=words):
        edge_conv(*change(x.detach(), y.detach(), w.detach()), graph, table)


@pytest.mark.parametrize(
    ("sender", "receiver", "weight_row", "error", "words"),
    [
        ([0, 1], [1, 0], None, ValueError, "sorted by receiver, but edge 0 goes to node 1 and edge 1 to node 0"),
        ([0, 3], [0, 1], None, ValueError, "sender spans 0 to 3, with 2 nodes"),
        ([0, 1], [-1, 1], None, ValueError, "receiver spans -1 to 1"),
        ([0], [0, 1], None, ValueError, "number of senders is 1, expected 2"),
        ([0, 1], [0, 1], [0], ValueError, "number of weight rows is 1, expected 2"),
        ([0, 1], [0, 1], [0, -1], ValueError, "weight_row spans -1 to 0"),
        ([0.0, 1.0], [0, 1], None, TypeError, "sender is torch.float32, expected torch.int64"),
    ],
)
def test_wrong_graphs_are_named(sender, receiver, weight_row, error, words):
    with pytest.raises(error, match=words):
        conv_graph(torch.tensor(sender), torch.tensor(receiver), 2, weight_row and torch.tensor(weight_row))


@pytest.mark.parametrize(
    ("x", "y", "out", "words"),
    [
        ("4x0e", "2x0e", "4x0e", "multiplicity of y's irrep is 2, expected 1"),
        ("4x0e", "1x0e", "5x0e", "multiplicity of the output is 5, expected 4"),
        ("4x0e", "1x1o", "4x1o", r"C has shape \(1, 1, 1\), expected \(1, 3, 3\)"),
    ],
)
def test_wrong_instructions_are_named(x, y, out, words):
    with pytest.raises(ValueError, match=words):
        edge_conv_table(irreps(x), irreps(y), irreps(out), [(0, 0, 0, torch.ones(1, 1, 1))])
