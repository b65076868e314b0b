"""Laws of edge_conv, on fresh random inputs."""

import itertools

import pytest
import torch

from laws.compare import assert_all_close
from laws.irreps import irreps
from pathtune import reference
from pathtune.ops import conv_graph, edge_conv
from pathtune.tables.edge_conv import edge_conv_table


def layer_2(n):
    """Of a mace model with n channels."""
    out = "{0}x0e+{0}x0e+{0}x1o+{0}x1o+{0}x1o+{0}x2e+{0}x2e+{0}x2e+{0}x3o+{0}x3o"
    paths = [(0, 0, 0), (1, 1, 1), (0, 1, 2), (1, 0, 3), (1, 2, 4), (0, 2, 5), (1, 1, 6), (1, 3, 7), (0, 3, 8)]
    return f"{n}x0e+{n}x1o", "1x0e+1x1o+1x2e+1x3o", out.format(n), [*paths, (1, 2, 9)]


# irreps of x, y, out; paths (i_in1, i_in2, i_out)
CASES = {
    "scalars": ("4x0e", "1x0e", "4x0e", [(0, 0, 0)]),
    "layer 2 of mace": layer_2(48),
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
    "layer 1, 5 channels": ("5x0e", "1x0e+1x1o+1x2e+1x3o", "5x0e+5x1o+5x2e+5x3o", [(0, 0, 0), (0, 1, 1), (0, 2, 2),
                                                                                  (0, 3, 3)]),
    **{f"layer 2, {n} channels": layer_2(n) for n in (5, 32, 33, 40)},
    "ragged, a block without a path": ("3x0o+5x1e+19x3o", "1x1o+1x2e", "3x1e+19x1e+5x3e+3x2o+4x0e",
                                       [(0, 0, 0), (1, 1, 2), (2, 0, 1), (0, 1, 3)]),
    # one block of x in several batches of paths; neither all channels nor, in float64, a warp's fit into shared memory
    "crowded": ("33x3e", "1x0e+1x1e+1x2e+1x3e", "+".join(["33x5e"] * 12), [(0, k % 4, k) for k in range(12)]),
    "several chunks": ("288x0e+4x1o", "1x0e+1x1o", "288x1o+4x1o", [(0, 1, 0), (1, 0, 1)]),
}  # fmt: skip
GRAPHS = {  # sender, receiver, n_nodes
    "several": ([3, 1, 0, 2, 0, 4, 0, 1, 3, 3], [0, 0, 1, 1, 2, 3, 3, 3, 3, 3], 6),  # node 5 is isolated
    "many neighbours": ([1, 2] * 10 + [0] * 20, [0] * 20 + [1, 2] * 5 + [2] * 10, 3),
    "uneven neighbours": ([1, 0, 3, 2, 1, 1, 3, 0, 0, 2, 3, 1, 2, 0, 3, 3, 1, 2, 2, 0], [0] * 13 + [2] + [3] * 6, 4),
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


def table_from(x, y, out, paths, joined=False):
    """A table with any tensors C, which will do for the kernel; with some zeros, as 3j symbols have."""
    x = irreps(x)
    y = irreps(y)
    out = irreps(out)
    shapes = [(2 * x[a][1].l + 1, 2 * y[b][1].l + 1, 2 * out[k][1].l + 1) for a, b, k in paths]
    c = [torch.randn(shape, dtype=torch.float64) * (torch.rand(shape) < 0.6) for shape in shapes]
    return edge_conv_table(x, y, out, [(*path, t) for path, t in zip(paths, c)], joined)


def inputs_of(table, graph, dtype=torch.float64):
    """x, y, w, graph, table."""
    random = lambda *shape: torch.randn(*shape, dtype=dtype, requires_grad=True)  # noqa: E731
    n_edges = graph.sender.numel()
    n_rows = graph.row_ptr.numel() - 1
    x = random(graph.n_nodes, table.dim_in)
    y = random(n_edges, table.dim_y)
    return x, y, random(n_rows, table.weight_numel), graph, table


def make(case, graph="several", dtype=torch.float64, weight_row=None):
    """The same of a case and a graph by their names."""
    table = table_from(*CASES[case], joined=case.endswith("joined"))
    return inputs_of(table, graph_of(graph, weight_row), dtype)


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


SUBSETS = [c for n in (1, 2, 3) for c in itertools.combinations(range(3), n)]
SHARED = [0, 1, 3, 0, 1, 4, 4, 2, 3, 5]  # of the graph "several": rows of one edge and of two
# and a row that is read by many edges, beside rows that are read by none, as many rows as edges
UNEVEN = [0, 0, 2, 3, 4, 0, 6, 7, 9, 9]


class EdgeConvLaws:
    """Of every implementation; `tolerances` by dtype."""

    tolerances: dict

    def check(self, x, y, w, graph, table, **options):
        """That value and derivatives are the reference's in float64."""
        found = derivatives(edge_conv, x, y, w, graph, table, **options)
        wide = [t.detach().double().requires_grad_() for t in (x, y, w)]
        expected = derivatives(reference.edge_conv, *wide, graph, table, **options)
        assert all(f.dtype == x.dtype for f in found)
        assert_all_close([f.double() for f in found], expected, self.tolerances[x.dtype])

    @pytest.mark.parametrize("graph", GRAPHS)
    @pytest.mark.parametrize("case", CASES)
    def test_kernel_equals_reference_through_second_derivatives(self, case, graph, all_kernels):
        self.check(*make(case, graph))

    @pytest.mark.parametrize("graph", ["several", "many neighbours"])
    @pytest.mark.parametrize("case", CASES)
    def test_float32_equals_the_float64_reference(self, case, graph, all_kernels):
        self.check(*make(case, graph, torch.float32))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("case", ["layer 2 of mace", "sevennet, joined", "paths that add into one block"])
    @pytest.mark.parametrize("rows", [SHARED, UNEVEN], ids=["shared rows", "uneven rows"])
    def test_shared_rows_of_weights_equal_reference(self, case, rows, dtype, all_kernels):
        self.check(*make(case, dtype=dtype, weight_row=torch.tensor(rows)))

    @pytest.mark.parametrize("rows", [None, SHARED], ids=["own rows", "shared rows"])
    @pytest.mark.parametrize("first_of", SUBSETS)
    def test_any_subset_of_gradients_equals_reference(self, first_of, rows, all_kernels):
        weight_row = None if rows is None else torch.tensor(rows)
        inputs = make("paths that add into one block", weight_row=weight_row)
        for second_of in [(), *SUBSETS]:
            self.check(*inputs, first_of=first_of, second_of=second_of)

    @pytest.mark.parametrize("probed", SUBSETS)
    def test_absent_adjoints_equal_reference(self, probed, kernels):
        self.check(*make("layer 2 of mace"), probed=probed)

    @pytest.mark.parametrize("case", ["paths that add into one block", "one channel"])
    def test_gradcheck_and_gradgradcheck(self, case, kernels):
        x, y, w, graph, table = make(case)
        function = lambda x, y, w: edge_conv(x, y, w, graph, table)  # noqa: E731
        assert torch.autograd.gradcheck(function, (x, y, w), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, (x, y, w), fast_mode=True)

    def test_third_derivatives_are_refused(self, kernels):
        x, y, w, graph, table = make("scalars")
        (gx,) = torch.autograd.grad(edge_conv(x, y, w, graph, table).pow(2).sum(), x, create_graph=True)
        (gw,) = torch.autograd.grad(gx.pow(2).sum(), w, create_graph=True)
        with pytest.raises(NotImplementedError, match="third derivatives"):
            gw.sum().backward()

    @pytest.mark.parametrize("case", ["layer 2 of mace", "ragged tails, both parities"])
    def test_shared_weight_rows_equal_duplicated_rows(self, case, kernels):
        weight_row = torch.tensor([0, 1, 3, 0, 1, 4, 4, 4, 3, 5])  # row 2 is read by no edge
        x, y, w, graph, table = make(case, weight_row=weight_row)

        def duplicated(x, y, w, graph, table):
            return edge_conv(x, y, w[weight_row], graph_of("several"), table)

        found = derivatives(edge_conv, x, y, w, graph, table)
        assert_all_close(found, derivatives(duplicated, x, y, w, graph, table), 1e-13)
        assert found[3][2].abs().max() == 0

    def test_views_that_are_not_aligned_equal_reference(self, kernels):
        x, y, w, graph, table = make("layer 2, 32 channels", dtype=torch.float32)
        shifted = [torch.cat([t.new_zeros(1), t.detach().flatten()])[1:].view_as(t).requires_grad_() for t in (x, y, w)]
        assert all(t.data_ptr() % 8 for t in shifted)
        self.check(*shifted, graph, table)

    def test_order_of_edges_within_a_receiver_does_not_matter(self, kernels):
        x, y, w, graph, table = make("layer 2 of mace")
        order = torch.tensor([1, 0, 3, 2, 4, 9, 7, 6, 8, 5])
        permuted = conv_graph(graph.sender[order], graph.receiver, graph.n_nodes)
        found = edge_conv(x, y[order], w[order], permuted, table)
        assert torch.allclose(found, edge_conv(x, y, w, graph, table), rtol=0, atol=1e-12)

    def test_relabelling_nodes_relabels_the_result(self, kernels):
        x, y, w, graph, table = make("layer 2 of mace")
        new_label = torch.randperm(graph.n_nodes)
        order = torch.argsort(new_label[graph.receiver], stable=True)
        relabelled = conv_graph(new_label[graph.sender][order], new_label[graph.receiver][order], graph.n_nodes)
        found = edge_conv(x[torch.argsort(new_label)], y[order], w[order], relabelled, table)
        assert torch.allclose(found[new_label], edge_conv(x, y, w, graph, table), rtol=0, atol=1e-12)
