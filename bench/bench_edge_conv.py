"""edge_conv against e3nn: `pytest -n 0 bench/bench_edge_conv.py -o addopts=`; run as a script: ratios.


Passes as in a training step: forward; backward to (x, y, w) in the force pass; the loss's double backward to
(g, x) with all adjoints present. e3nn: gather, o3.TensorProduct 'uvu', index_add, and torch's autograd.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import pytest
import torch

from cases import CONV_CASES, ConvCase, neighbour_graph
from pathtune.backbones._packages import import_mace
from pathtune.ops import conv_graph, edge_conv
from pathtune.tables.edge_conv import edge_conv_table

import_mace()
from e3nn import o3  # noqa: E402

PASSES = ("forward", "backward", "double backward")


def build(case: ConvCase, *, shared_rows: bool = False):
    """Two functions (x, y, w) -> out, pathtune's and e3nn's, and random inputs of both."""
    in1 = o3.Irreps(case.irreps_in1)
    in2 = o3.Irreps(case.irreps_in2)
    out = o3.Irreps([(in1[a].mul, ir) for a, _, ir in case.paths])
    instructions = [(a, b, i, "uvu", True) for i, (a, b, _) in enumerate(case.paths)]
    product = o3.TensorProduct(in1, in2, out, instructions, shared_weights=False, internal_weights=False)
    paths = []
    for i in product.instructions:
        ls = in1[i.i_in1].ir.l, in2[i.i_in2].ir.l, out[i.i_out].ir.l
        paths.append((i.i_in1, i.i_in2, i.i_out, o3.wigner_3j(*ls, dtype=torch.float64) * i.path_weight))
    table = edge_conv_table(in1, in2, out, paths)
    sender, receiver, row = neighbour_graph(case.n_nodes, case.n_neighbours)
    graph = conv_graph(sender, receiver, case.n_nodes, row if shared_rows else None)
    n_rows = graph.row_ptr.numel() - 1
    shapes = (case.n_nodes, in1.dim), (sender.numel(), in2.dim), (n_rows, product.weight_numel)
    inputs = [torch.randn(*shape, requires_grad=True) for shape in shapes]

    def stock(x, y, w):
        weights = w[row] if shared_rows else w
        return x.new_zeros(case.n_nodes, out.dim).index_add(0, receiver, product(x[sender], y, weights))

    return {"pathtune": lambda x, y, w: edge_conv(x, y, w, graph, table), "e3nn": stock}, inputs


def passes(function, inputs):
    """One training step's passes as functions to time; each returns what the next needs."""
    x = inputs[0]
    g = torch.randn_like(function(*inputs)).requires_grad_()
    adjoints = [torch.randn_like(t) for t in inputs]
    state = {}

    def forward():
        state["out"] = function(*inputs)

    def backward():
        state["first"] = torch.autograd.grad(state["out"], inputs, g, create_graph=True)

    def double_backward():
        torch.autograd.grad(state["first"], (g, x), adjoints)

    return dict(zip(PASSES, (forward, backward, double_backward)))


@pytest.mark.parametrize("name", CONV_CASES)
@pytest.mark.parametrize("which", ["pathtune", "e3nn"])
@pytest.mark.parametrize("measured", PASSES)
def test_edge_conv(benchmark, name, which, measured):
    functions, inputs = build(CONV_CASES[name])
    steps = passes(functions[which], inputs)

    def run_those_before():
        for earlier in PASSES[: PASSES.index(measured)]:
            steps[earlier]()

    benchmark.group = f"{name}: {measured}"
    benchmark.pedantic(steps[measured], setup=run_those_before, rounds=20, warmup_rounds=2)


def compare(name: str, *, rounds: int, shared_rows: bool) -> dict:
    """Medians in milliseconds of alternating runs, and their ratios."""
    functions, inputs = build(CONV_CASES[name], shared_rows=shared_rows)
    steps = {which: passes(function, inputs) for which, function in functions.items()}
    times = {which: {p: [] for p in PASSES} for which in steps}
    for _ in range(rounds):
        for which, n_repeats in (("pathtune", 10), ("e3nn", 1)):
            for _ in range(n_repeats):
                for p in PASSES:
                    start = time.perf_counter()
                    steps[which][p]()
                    times[which][p].append(1e3 * (time.perf_counter() - start))
    ms = {which: {p: round(statistics.median(times[which][p]), 3) for p in PASSES} for which in steps}
    ratio = {p: round(ms["e3nn"][p] / ms["pathtune"][p], 1) for p in PASSES}
    n_threads = torch.get_num_threads()
    return {"case": name, "shared_rows": shared_rows, "n_threads": n_threads, "ms": ms, "ratio": ratio}


if __name__ == "__main__":
    torch.manual_seed(0)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name in CONV_CASES:
        for shared_rows in (False, True):
            print(json.dumps(compare(name, rounds=rounds, shared_rows=shared_rows)))
