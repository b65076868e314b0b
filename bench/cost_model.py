"""Bytes and FLOPs of every CUDA kernel in a sparse training step, and the floor they set on a device.

    python bench/cost_model.py            # rewrites bench/results/cost_model.json

On paper: nothing here was timed. Bytes are those the kernels ask for (as tests/emulation counts them), FLOPs follow
from the shapes; a kernel's floor is the larger of bytes / bandwidth and FLOPs / rate. Calls are those of a sparse step
with frozen radial networks and contractions: a forward, the force pass, and the loss's pass through both.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import torch

from pathtune import load
from pathtune.backbones._radial_tables import ANY_PAIR
from pathtune.benchmark import cases

RESULTS = pathlib.Path(__file__).parent / "results"
# bytes/s and float32 FLOP/s of an H100 SXM (NVIDIA's data sheet)
H100 = {"bytes_per_s": 3.35e12, "flops_per_s": 67e12}
EDGES_PER_ATOM = 78  # of MP-0b3 at r_max = 6 A (bench/results/step_mp-0b3-medium.json: 4,992 edges, 64 atoms)
ACTIVE_SHARE = 0.03
FLOAT, INDEX = 4, 8  # bytes
NODE_TILE = 4  # nodes that share a load of the contraction's coefficients


@dataclasses.dataclass(frozen=True)
class Cost:
    """One call of an operator in one layer."""

    kernel: str
    call: str
    n_bytes: float
    flops: float


def conv_costs(table, n_nodes: int, n_edges: int) -> list[Cost]:
    """edge_conv: out; then gx, gy, gw; then gg and gx of the double backward; then gx."""
    paths = table.paths.tolist()  # ends with mul, dim1, dim2, dim3, out_mul
    n_i = n_edges * sum(mul * d1 for *_, mul, d1, _, _, _ in paths)
    n_ik = n_edges * 2 * sum(mul * d1 * d3 for *_, mul, d1, _, d3, _ in paths)
    x, y, w, g = n_edges * table.dim_in, n_edges * table.dim_y, n_edges * table.weight_numel, n_nodes * table.dim_out
    index = INDEX * 2 * n_edges
    return [
        Cost("edge_conv", "forward", FLOAT * (x + y + w + g) + index, n_i + n_ik),
        Cost("edge_conv", "backward: x, y, w", FLOAT * (2 * (x + y + w) + g) + index, 5 * n_i + 2 * n_ik),
        Cost("edge_conv", "double backward: g, x", FLOAT * (2 * (x + y + w) + 2 * g + x) + index, 8 * n_i + 4 * n_ik),
        Cost("edge_conv", "backward: x", FLOAT * (y + w + g + x) + index, 2 * n_i + n_ik),
    ]


def contraction_costs(table, n_nodes: int, mul: int) -> list[Cost]:
    """symmetric_contraction with frozen coefficients; `last` counts a monomial's factors."""
    a, out = n_nodes * table.n_ell * mul, n_nodes * table.n_out * mul
    c = -(-n_nodes // NODE_TILE) * table.n_terms * mul
    terms, monomials = n_nodes * mul * table.n_terms, n_nodes * mul * table.n_monomials
    return [
        Cost("symmetric_contraction", "forward", FLOAT * (a + c + out), 5 * terms),
        Cost("symmetric_contraction", "backward: a", FLOAT * (2 * a + c + out), 2 * terms + 9 * monomials),
        Cost("symmetric_contraction", "double backward: g, a", FLOAT * (3 * a + 2 * c + 2 * out),
             9 * terms + 2 * terms + 18 * monomials),
        Cost("symmetric_contraction", "backward: a", FLOAT * (2 * a + c + out), 2 * terms + 9 * monomials),
    ]  # fmt: skip


def linear_costs(table, n_nodes: int, n_present: int) -> list[Cost]:
    """species_linear: forward, force pass, and each once more in the loss's pass; the gradient is sampled."""
    flops = n_nodes * sum(2 * k * u * v for _, _, _, k, u, v in table.paths.tolist())
    weights = n_present * sum(u * v for *_, u, v in table.paths.tolist())
    n_bytes = FLOAT * (n_nodes * (table.dim_in + table.dim_out) + weights) + INDEX * n_nodes
    calls = ("forward", "grad_x", "grad_x's adjoint", "grad_x")
    return [Cost("species_linear", call, n_bytes, flops) for call in calls]


def sampled_costs(table, n_nodes: int, n_present: int) -> list[Cost]:
    """sampled_gradient, both terms: x and g once each for every term, two FLOPs a candidate and row."""
    flops, candidates = 0.0, 0.0
    for _, _, _, k, u, v in table.paths.tolist():
        flops += 2 * 2 * ACTIVE_SHARE * u * v * n_nodes * k
        candidates += ACTIVE_SHARE * u * v * n_present
    n_bytes = FLOAT * 2 * n_nodes * (table.dim_in + table.dim_out) + 3 * FLOAT * candidates
    return [Cost("sampled_gradient", "both terms", n_bytes, flops),
            Cost("soft_threshold", "write", candidates * (5 * FLOAT + INDEX), 3 * candidates)]  # fmt: skip


def radial_costs(coefficients: torch.Tensor, n_rows: int) -> list[Cost]:
    """radial_table of a frozen network: w; its slope in the force pass; the slope's adjoint in the loss's pass.

    A table is read from memory once, or where rows are few as often as they ask; what they ask again comes from L2.
    """
    n_segments, n_terms, n_columns = coefficients.shape
    w = n_rows * n_columns
    n_bytes = FLOAT * (w + min(n_segments * n_terms * n_columns, n_terms * w)) + n_rows * (2 * FLOAT + INDEX)
    calls = (("expand", 2 * n_terms), ("contract, slope", 3 * n_terms), ("expand, slope", 3 * n_terms))
    return [Cost("radial_table", call, n_bytes, flops * w) for call, flops in calls]


def geometry_costs(dim_y: int, n_rows: int, n_edges: int) -> list[Cost]:
    """edge_geometry: lengths and harmonics, their slope, and the slope's adjoint; about 100 operations a row."""
    y, index = FLOAT * n_edges * dim_y, 2 * INDEX * n_rows + (INDEX + FLOAT) * n_edges
    calls = (("forward", 4, 100), ("backward", 7, 150), ("double backward", 7, 200))
    return [Cost("edge_geometry", call, y + index + FLOAT * reals * n_rows, flops * n_rows + 3 * n_edges * dim_y)
            for call, reals, flops in calls]  # fmt: skip


def radial_tables(forward, n_present: int) -> dict[str, torch.Tensor]:
    """Coefficients of the tables that a frozen model makes for all pairs of its first species, by function."""
    pairs = [(a, b) for a in range(n_present) for b in range(a, n_present)] if forward.tables.by_species else [ANY_PAIR]
    made = forward.tables.made_for(pairs, torch.device("cpu"))
    return {name: table.coefficients for name, table in (made or {}).items()}


def step_costs(name: str, n_atoms: int, n_edges: int, n_present: int) -> list[Cost]:
    """Every call of a sparse step of the case `name`."""
    forward = load(cases.build(name), backend="cpu").backbone._forward
    n_rows = n_edges // 2 if forward.by_pair else n_edges
    costs = geometry_costs(forward.layers[0].conv.dim_y, n_rows, n_edges)
    for coefficients in radial_tables(forward, n_present).values() if forward.tables else ():
        costs += radial_costs(coefficients, n_rows)
    for layer, product in zip(forward.layers, forward.products):
        costs += conv_costs(layer.conv, n_atoms, n_edges)
        costs += contraction_costs(product.contraction, n_atoms, product.mul)
        costs += linear_costs(layer.species_linear, n_atoms, n_present)
        for table in (layer.species_linear, *(linear.table for linear in (*layer.linears, product.linear))):
            costs += sampled_costs(table, n_atoms, n_present if table is layer.species_linear else 1)
    return costs


def by_kernel(costs: list[Cost], device: dict[str, float]) -> list[dict]:
    """Sums over layers of each kernel and call, with the floor in microseconds and what sets it."""
    rows: dict[tuple[str, str], list[float]] = {}
    for cost in costs:
        total = rows.setdefault((cost.kernel, cost.call), [0.0, 0.0])
        total[0] += cost.n_bytes
        total[1] += cost.flops
    result = []
    for (kernel, call), (n_bytes, flops) in rows.items():
        by_bytes, by_flops = n_bytes / device["bytes_per_s"], flops / device["flops_per_s"]
        result.append({"kernel": kernel, "call": call, "mbytes": round(n_bytes / 1e6, 3),
                       "mflop": round(flops / 1e6, 3), "floor_us": round(1e6 * max(by_bytes, by_flops), 2),
                       "bound": "bytes" if by_bytes > by_flops else "FLOPs"})  # fmt: skip
    return result


def main() -> None:
    result = {"device": "H100 SXM, on paper", **H100, "model": "mp-0b3-medium", "edges_per_atom": EDGES_PER_ATOM,
              "active_share": ACTIVE_SHARE, "tables": {}}  # fmt: skip
    for n_atoms in (1000, 100_000):
        costs = step_costs("mp-0b3-medium", n_atoms, n_atoms * EDGES_PER_ATOM, n_present=3)
        result["tables"][str(n_atoms)] = by_kernel(costs, H100)
    (RESULTS / "cost_model.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
