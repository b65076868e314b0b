"""Laws of edge_conv, on fresh random inputs."""

import itertools

import pytest
import torch

from pathtune import reference
from pathtune.ops import conv_graph, edge_conv
from pathtune.ops.edge_conv import index_of
from pathtune.tables.edge_conv import edge_conv_table
from pathtune.tables.irreps import layout_permutation


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


# irreps of x, y, out; paths (i_in1, i_in2, i_out)
CASES = {
    "scalars": ("4x0e", "1x0e", "4x0e", [(0, 0, 0)]),
    "layer 2 of mace": (
        "48x0e+48x1o", "1x0e+1x1o+1x2e+1x3o", "48x0e+48x0e+48x1o+48x1o+48x1o+48x2e+48x2e+48x2e+48x3o+48x3o",
        [(0, 0, 0), (1, 1, 1), (0, 1, 2), (1, 0, 3), (1, 2, 4), (0, 2, 5), (1, 1, 6), (1, 3, 7), (0, 3, 8),
         (1, 2, 9)],
    ),
    "sevennet": ("32x0e+16x1e+8x2e", "1x0e+1x1e+1x2e", "32x0e+32x1e+16x0e+16x1e+16x2e+8x1e+8x2e+8x2e",
                 [(0, 0, 0), (0, 1, 1), (1, 1, 2), (1, 2, 3), (1, 1, 4), (2, 1, 5), (2, 2, 6), (2, 0, 7)]),
    "ragged tails, both parities": ("3x0o+5x1e+19x2o", "1x1o+1x2e", "3x1e+19x1e+5x3e+3x2o",
                                    [(0, 0, 0), (1, 1, 2), (2, 0, 1), (0, 1, 3)]),
    "paths that add into one block": ("20x0e+20x1o", "1x0e+1x1o", "20x1o+20x0e",
                                      [(0, 1, 0), (1, 0, 0), (1, 1, 1), (0, 0, 1)]),
    "a block without a path": ("17x0e+2x1o", "1x0e", "2x1o+17x0e+7x2e", [(0, 0, 1)]),
    "one channel": ("1x0e+1x3o", "1x1o+1x2e", "1x1o+1x2e", [(0, 0, 0), (1, 0, 1)]),
    "l up to 5": ("17x4e+3x3o", "1x4e+1x5o", "17x4e+3x4e+17x5o", [(0, 0, 0), (1, 1, 1), (0, 1, 2)]),
    "sevennet, joined": ("32x0e+16x1e+8x2e", "1x0e+1x1e+1x2e", "32x0e+16x0e+32x1e+16x1e+16x1e+8x1e+16x2e+8x2e+8x2e",
                         [(0, 0, 0), (1, 1, 1), (0, 1, 2), (1, 0, 3), (1, 2, 4), (2, 1, 5), (1, 1, 6), (2, 0, 7),
                          (2, 2, 8)]),
    "ragged, joined": ("3x0e+19x1o+5x4e", "1x0e+1x1o", "3x1o+19x1o+19x1o+5x4e+3x0e",
                       [(0, 1, 0), (1, 0, 2), (1, 0, 1), (2, 0, 3), (0, 0, 4)]),
    "wide": ("128x1o", "1x0e+1x2e", "128x1o+128x3o", [(0, 0, 0), (0, 1, 1)]),
}  # fmt: skip
GRAPHS = {  # sender, receiver, n_nodes
    "several": ([3, 1, 0, 2, 0, 4, 0, 1, 3, 3], [0, 0, 1, 1, 2, 3, 3, 3, 3, 3], 6),  # node 5 is isolated
    "many neighbours": ([1, 2] * 10 + [0] * 20, [0] * 20 + [1, 2] * 5 + [2] * 10, 3),
    "one node": ([], [], 1),
    "one node, its images": ([0, 0, 0], [0, 0, 0], 1),
    "no node": ([], [], 0),
    "no edge": ([], [], 4),
}


def graph_of(name, weight_row=None):
    sender, receiver, n_nodes = GRAPHS[name]
    order = sorted(range(len(sender)), key=lambda e: receiver[e])
    sender, receiver = ([index[e] for e in order] for index in (sender, receiver))
    as_tensor = lambda index: torch.tensor(index, dtype=torch.int64)  # noqa: E731
    return conv_graph(as_tensor(sender), as_tensor(receiver), n_nodes, weight_row)


def table_of(case):
    x, y, out, paths = CASES[case]
    x, y, out = irreps(x), irreps(y), irreps(out)
    dims = lambda *irs: [2 * ir.l + 1 for _, ir in irs]  # noqa: E731
    # any tensor will do for the kernel; some zeros, as 3j symbols have
    c = [torch.randn(dims(x[a], y[b], out[k]), dtype=torch.float64) for a, b, k in paths]
    c = [t * (torch.rand_like(t) < 0.6) for t in c]
    return edge_conv_table(x, y, out, [(*path, t) for path, t in zip(paths, c)], joined=case.endswith("joined"))


def make(case, graph="several", dtype=torch.float64, weight_row=None):
    table, graph = table_of(case), graph_of(graph, weight_row)
    random = lambda *shape: torch.randn(*shape, dtype=dtype, requires_grad=True)  # noqa: E731
    n_edges, n_rows = graph.sender.numel(), graph.row_ptr.numel() - 1
    x, y = random(graph.n_nodes, table.dim_in), random(n_edges, table.dim_y)
    return x, y, random(n_rows, table.weight_numel), graph, table


def derivatives(function, x, y, w, graph, table, first_of=(0, 1, 2), second_of=(0, 1, 2), probed=None):
    """Value, chosen first derivatives, and chosen second derivatives of the `probed` ones."""
    inputs = (x, y, w)
    generator = torch.Generator().manual_seed(1)
    random = lambda t: torch.randn(t.shape, dtype=torch.float64, generator=generator).to(t.dtype)  # noqa: E731
    out = function(x, y, w, graph, table)
    cotangent = random(out).requires_grad_()
    first = torch.autograd.grad(out, [inputs[i] for i in first_of], cotangent, create_graph=True)
    scalar = sum((g * random(g)).sum() for i, g in zip(first_of, first) if probed is None or i in probed)
    wanted = [inputs[i] for i in second_of] + [cotangent]
    second = torch.autograd.grad(scalar, wanted, allow_unused=True, materialize_grads=True)
    return out, *first, *second


def assert_equal(found, expected, tolerances):
    for f, e, tolerance in zip(found, expected, tolerances, strict=True):
        assert f.shape == e.shape
        if e.numel():
            assert (f - e).abs().max().item() <= tolerance * max(e.abs().max().item(), 1e-300)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_reference_through_second_derivatives(case, graph, isa):
    inputs = make(case, graph)
    found, expected = derivatives(edge_conv, *inputs), derivatives(reference.edge_conv, *inputs)
    assert_equal(found, expected, [1e-12] * 8)


@pytest.mark.parametrize("graph", ["several", "many neighbours"])
@pytest.mark.parametrize("case", CASES)
def test_float32_equals_the_float64_reference(case, graph, isa):
    x, y, w, graph, table = make(case, graph, torch.float32)
    found = derivatives(edge_conv, x, y, w, graph, table)
    wide = [t.detach().double().requires_grad_() for t in (x, y, w)]
    expected = derivatives(reference.edge_conv, *wide, graph, table)
    # the probes of `derivatives` are drawn in float64 and rounded to float32: 3e-8 of each
    assert_equal(found, expected, [1e-6] * 8)


SUBSETS = [c for n in (1, 2, 3) for c in itertools.combinations(range(3), n)]


@pytest.mark.parametrize("rows", ["own rows", "shared rows"])
@pytest.mark.parametrize("first_of", SUBSETS)
def test_any_subset_of_gradients_equals_reference(first_of, rows, isa):
    weight_row = None if rows == "own rows" else torch.tensor([0, 1, 2, 0, 1, 4, 4, 4, 2, 5])
    inputs = make("paths that add into one block", weight_row=weight_row)
    for second_of in [(), *SUBSETS]:
        found = derivatives(edge_conv, *inputs, first_of, second_of)
        expected = derivatives(reference.edge_conv, *inputs, first_of, second_of)
        assert_equal(found, expected, [1e-12] * len(found))


@pytest.mark.parametrize("probed", SUBSETS)
def test_absent_adjoints_equal_reference(probed):
    inputs = make("layer 2 of mace")
    found = derivatives(edge_conv, *inputs, probed=probed)
    assert_equal(found, derivatives(reference.edge_conv, *inputs, probed=probed), [1e-12] * 8)


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
    forward, backward = [True, False, False, False], [False, True, False, True]
    assert asked == [forward, backward, [True, *(i in second_of for i in range(3))]]


@pytest.mark.parametrize("case", ["paths that add into one block", "one channel"])
def test_gradcheck_and_gradgradcheck(case):
    x, y, w, graph, table = make(case)
    function = lambda x, y, w: edge_conv(x, y, w, graph, table)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, y, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (x, y, w), fast_mode=True)


def test_third_derivatives_are_refused():
    x, y, w, graph, table = make("scalars")
    (gx,) = torch.autograd.grad(edge_conv(x, y, w, graph, table).pow(2).sum(), x, create_graph=True)
    (gw,) = torch.autograd.grad(gx.pow(2).sum(), w, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        gw.sum().backward()


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


@pytest.mark.parametrize("case", ["layer 2 of mace", "ragged tails, both parities"])
def test_shared_weight_rows_equal_duplicated_rows(case):
    weight_row = torch.tensor([0, 1, 3, 0, 1, 4, 4, 4, 3, 5])  # row 2 is read by no edge
    x, y, w, graph, table = make(case, weight_row=weight_row)

    def duplicated(x, y, w, graph, table):
        return edge_conv(x, y, w[weight_row], graph_of("several"), table)

    found = derivatives(edge_conv, x, y, w, graph, table)
    assert_equal(found, derivatives(duplicated, x, y, w, graph, table), [1e-13] * 8)
    assert found[3][2].abs().max() == 0


def test_an_empty_row_beside_a_shared_one_receives_zero_gradient():
    weight_row = torch.tensor([0, 0, 2, 3, 4, 5, 6, 7, 8, 9])  # as many rows as edges
    inputs = make("layer 2 of mace", weight_row=weight_row)
    assert_equal(derivatives(edge_conv, *inputs), derivatives(reference.edge_conv, *inputs), [1e-12] * 8)


def test_order_of_edges_within_a_receiver_does_not_matter():
    x, y, w, graph, table = make("layer 2 of mace")
    order = torch.tensor([1, 0, 3, 2, 4, 9, 7, 6, 8, 5])
    permuted = conv_graph(graph.sender[order], graph.receiver, graph.n_nodes)
    found = edge_conv(x, y[order], w[order], permuted, table)
    assert torch.allclose(found, edge_conv(x, y, w, graph, table), rtol=0, atol=1e-12)


def test_relabelling_nodes_relabels_the_result():
    x, y, w, graph, table = make("layer 2 of mace")
    new_label = torch.randperm(graph.n_nodes)
    order = torch.argsort(new_label[graph.receiver], stable=True)
    relabelled = conv_graph(new_label[graph.sender][order], new_label[graph.receiver][order], graph.n_nodes)
    found = edge_conv(x[torch.argsort(new_label)], y[order], w[order], relabelled, table)
    assert torch.allclose(found[new_label], edge_conv(x, y, w, graph, table), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", ["own rows", "shared rows"])
def test_repeats_bitwise_for_any_number_of_threads(rows):
    weight_row = None if rows == "own rows" else torch.arange(40) // 2
    inputs = make("wide", "many neighbours", torch.float32, weight_row)
    before, runs = torch.get_num_threads(), []
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

    x, y = o3.Irreps(x), o3.Irreps(y)
    out, instructions = [], []
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
    in1, out = layout_permutation(product.irreps_in1), layout_permutation(product.irreps_out)
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
    found, expected = edge_conv(x, y, w, graph, joined), edge_conv(x, y, w, graph, apart)
    blocks = torch.split(expected, [mul * (2 * ir.l + 1) for mul, ir in irreps(out)], dim=1)
    by_l = [[b.reshape(len(b), 2 * ir.l + 1, -1) for b, (_, ir) in zip(blocks, irreps(out)) if ir.l == l]
            for l in range(3)]  # fmt: skip
    assert torch.equal(found, torch.cat([torch.cat(group, dim=2).flatten(1) for group in by_l], dim=1))


@pytest.mark.parametrize(("change", "error", "words"), [
    (lambda x, y, w: (x.float(), y, w), TypeError, "y is torch.float64, but x is torch.float32"),
    (lambda x, y, w: (x.half(), y.half(), w.half()), TypeError, "float16"),
    (lambda x, y, w: (x[:, 1:], y, w), ValueError, "row length of x is 7, expected 8"),
    (lambda x, y, w: (x[1:], y, w), ValueError, "number of rows of x is 5, expected 6"),
    (lambda x, y, w: (x, y[1:], w), ValueError, "number of rows of y is 9, expected 10"),
    (lambda x, y, w: (x, y, w[1:]), ValueError, "number of rows of w is 9, expected 10"),
    (lambda x, y, w: (x, y, w[:, 1:]), ValueError, "row length of w is 1, expected 2"),
    (lambda x, y, w: (x, y, w[0]), ValueError, "number of dimensions of w is 1, expected 2"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, error, words):
    x, y, w, graph, table = make("one channel")
    with pytest.raises(error, match=words):
        edge_conv(*change(x.detach(), y.detach(), w.detach()), graph, table)


@pytest.mark.parametrize(("sender", "receiver", "weight_row", "error", "words"), [
    ([0, 1], [1, 0], None, ValueError, "sorted by receiver, but edge 0 goes to node 1 and edge 1 to node 0"),
    ([0, 3], [0, 1], None, ValueError, "sender spans 0 to 3, with 2 nodes"),
    ([0, 1], [-1, 1], None, ValueError, "receiver spans -1 to 1"),
    ([0], [0, 1], None, ValueError, "number of senders is 1, expected 2"),
    ([0, 1], [0, 1], [0], ValueError, "number of weight rows is 1, expected 2"),
    ([0, 1], [0, 1], [0, -1], ValueError, "weight_row spans -1 to 0"),
    ([0.0, 1.0], [0, 1], None, TypeError, "sender is torch.float32, expected torch.int64"),
])  # fmt: skip
def test_wrong_graphs_are_named(sender, receiver, weight_row, error, words):
    with pytest.raises(error, match=words):
        conv_graph(torch.tensor(sender), torch.tensor(receiver), 2, weight_row and torch.tensor(weight_row))


@pytest.mark.parametrize(("x", "y", "out", "words"), [
    ("4x0e", "2x0e", "4x0e", "multiplicity of y's irrep is 2, expected 1"),
    ("4x0e", "1x0e", "5x0e", "multiplicity of the output is 5, expected 4"),
    ("4x0e", "1x1o", "4x1o", r"C has shape \(1, 1, 1\), expected \(1, 3, 3\)"),
])  # fmt: skip
def test_wrong_instructions_are_named(x, y, out, words):
    with pytest.raises(ValueError, match=words):
        edge_conv_table(irreps(x), irreps(y), irreps(out), [(0, 0, 0, torch.ones(1, 1, 1))])
