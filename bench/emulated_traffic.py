"""Bytes that the emulated CUDA kernels move, against bench/cost_model.py: bench/results/emulated_traffic.json.

    python bench/emulated_traffic.py

The tables are those of MACE-MP-0b3 medium's second layer, the batch a few nodes with as many edges each as a real one;
every access of a kernel to a tensor goes through a function that counts. Caches are not modelled: a byte asked for
twice counts twice.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import sys

import torch

from cost_model import (
    EDGES_PER_ATOM,
    Cost,
    contraction_costs,
    conv_costs,
    geometry_costs,
    linear_costs,
    radial_costs,
    radial_tables,
)
from pathtune import load
from pathtune.benchmark import cases
from pathtune.ops import (
    RadialTable,
    _kernels,
    conv_graph,
    edge_conv,
    edge_geometry,
    group_by_species,
    radial_table,
    species_linear,
    symmetric_contraction,
)

ROOT = pathlib.Path(__file__).parent.parent
N_NODES, N_PRESENT = 8, 2
N_TABLES = N_PRESENT * (N_PRESENT + 1) // 2  # pairs of species


def emulated():
    """The emulated kernels, in the CPU's place from now on."""
    sys.path.insert(0, str(ROOT / "tests" / "emulation"))
    from build import build

    spec = importlib.util.spec_from_file_location("emulated", build())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _kernels.emulated = module
    return module


def counted(module, function) -> tuple[float, object]:
    """Bytes that the function's kernels load and store, and its value."""
    module.reset()
    value = function()
    return float(sum(module.bytes_moved())), value


def passes(module, function, tensors, names: list[str], wanted: list[int]) -> dict[str, float]:
    """Bytes of the forward, of the force pass, and of the two halves of a loss's pass, by the names of the costs."""
    found = {}
    found[names[0]], out = counted(module, lambda: function(*tensors))
    g = torch.randn_like(out).requires_grad_()
    backward = lambda: torch.autograd.grad(out, [tensors[i] for i in wanted], g, create_graph=True)  # noqa: E731
    found[names[1]], first = counted(module, backward)
    adjoints = [torch.randn_like(t) for t in first]
    again = lambda: torch.autograd.grad(first, [g, tensors[0]], adjoints, retain_graph=True, allow_unused=True)  # noqa: E731
    found[names[2]], _ = counted(module, again)
    found[names[3]], _ = counted(module, lambda: torch.autograd.grad(out, tensors[0], g))
    return found


def three_passes(module, function, x: torch.Tensor) -> list[float]:
    """Bytes of a function's forward, of its gradient to x, and of the latter's gradient to the cotangents."""
    forward, out = counted(module, lambda: function(x))
    g = [torch.randn_like(t).requires_grad_() for t in out]
    backward, (first,) = counted(module, lambda: torch.autograd.grad(out, x, g, create_graph=True))
    again, _ = counted(module, lambda: torch.autograd.grad(first, g, torch.randn_like(first)))
    return [forward, backward, again]


def of_rows(module, layer, coefficients: torch.Tensor, graph) -> list[tuple[list[Cost], list[float]]]:
    """radial_table and edge_geometry on the rows of the graph: the model's costs, and the bytes counted."""
    n_rows, n_edges = graph.row_ptr.numel() - 1, graph.sender.numel()
    per_table = coefficients.shape[0] // N_TABLES
    n_segments = torch.full((N_TABLES,), per_table)
    width = torch.full((N_TABLES,), 5.5 / per_table, dtype=torch.float64)
    table = RadialTable(coefficients, n_segments.cumsum(0) - n_segments, n_segments, torch.full_like(width, 0.5), width)
    r = (0.5 + 5.5 * torch.rand(n_rows)).requires_grad_()
    slot = torch.arange(n_rows) % N_TABLES
    vectors, sign = torch.randn(n_rows, 3).requires_grad_(), torch.ones(n_edges)
    c = [1.0] * int(layer.conv.dim_y**0.5)
    return [
        (radial_costs(coefficients, n_rows), three_passes(module, lambda r: (radial_table(r, table, slot),), r)),
        (geometry_costs(layer.conv.dim_y, n_rows, n_edges),
         three_passes(module, lambda v: edge_geometry(v, c, graph, sign), vectors)),
    ]  # fmt: skip


def batch_of(n_nodes: int):
    """A graph in which every node has EDGES_PER_ATOM neighbours, edges in pairs that share a row of w."""
    sender = torch.arange(n_nodes).repeat_interleave(EDGES_PER_ATOM)
    receiver = (sender + 1 + torch.arange(EDGES_PER_ATOM).repeat(n_nodes)) % n_nodes
    order = receiver.argsort(stable=True)
    row = torch.arange(sender.numel()) // 2
    return conv_graph(sender[order], receiver[order], n_nodes, row)


def row_of(cost: Cost, n_bytes: float) -> dict:
    return {"kernel": cost.kernel, "call": cost.call, "counted_bytes": n_bytes, "model_bytes": cost.n_bytes,
            "ratio": round(n_bytes / cost.n_bytes, 3)}  # fmt: skip


def measure(module) -> list[tuple[Cost, float]]:
    """The calls of a step, as the cost model has them, and what `module` counted of each."""
    torch.manual_seed(0)
    forward = load(cases.build("mp-0b3-medium"), backend="cpu").backbone._forward
    layer, coefficients = forward.layers[1], radial_tables(forward, N_PRESENT)["w1"]
    graph, species = batch_of(N_NODES), torch.arange(N_NODES) % N_PRESENT
    n_edges = graph.sender.numel()
    groups = group_by_species(species, layer.species_linear.n_species)
    table, contraction, linear = layer.conv, forward.products[1].contraction, layer.species_linear
    mul = int(table.paths[0, 5])

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).requires_grad_()

    x, y, w = leaf(N_NODES, table.dim_in), leaf(n_edges, table.dim_y), leaf(n_edges // 2, table.weight_numel)
    a, c = leaf(N_NODES, contraction.n_ell, mul), torch.randn(N_PRESENT, contraction.n_terms, mul)
    v, weights = leaf(N_NODES, linear.dim_in), torch.randn(linear.weight_numel)
    runs = [
        (conv_costs(table, N_NODES, n_edges), lambda *t: edge_conv(*t, graph, table), (x, y, w), [0, 1, 2]),
        (contraction_costs(contraction, N_NODES, mul),
         lambda t: symmetric_contraction(t, c, groups, contraction), (a,), [0]),
        (linear_costs(linear, N_NODES, N_PRESENT), lambda t: species_linear(t, weights, groups, linear), (v,), [0]),
    ]  # fmt: skip
    rows = []
    for costs, function, tensors, wanted in runs:
        names = [f"{i} {cost.call}" for i, cost in enumerate(costs)]
        found = passes(module, function, tensors, names, wanted)
        rows += [(cost, found[name]) for cost, name in zip(costs, names)]
    for costs, found in of_rows(module, layer, coefficients, graph):
        rows += list(zip(costs, found))
    return rows


def main() -> None:
    rows = [row_of(cost, n_bytes) for cost, n_bytes in measure(emulated())]
    result = {"n_nodes": N_NODES, "n_edges": N_NODES * EDGES_PER_ATOM, "rows": rows}
    (ROOT / "bench" / "results" / "emulated_traffic.json").write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
