"""Ratios of every operator to the stock module, alternating in one process: bench/results/operators.json.

    python bench/operators.py
    python bench/operators.py radial_table edge_geometry    # these only; the others' rows stay

The last two are held against their references, by processor time on one thread.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import torch

import bench_edge_conv
import bench_edge_geometry
import bench_radial_table
import bench_sampled_gradient
import bench_soft_threshold
import bench_species_linear
import bench_symmetric_contraction


def ratio(stock, ours, rounds: int = 15, repeats: int = 5, clock: Callable[[], float] = time.perf_counter) -> dict:
    """Medians in ms and their ratio; ours runs `repeats` times in each round, because it is short."""
    times = ([], [])
    for i in range(rounds + 2):
        for function, spent, n in ((stock, times[0], 1), (ours, times[1], repeats)):
            for _ in range(n):
                began = clock()
                function()
                if i >= 2:
                    spent.append(1e3 * (clock() - began))
    stock_ms, ours_ms = (statistics.median(t) for t in times)
    return {"stock_ms": round(stock_ms, 4), "ours_ms": round(ours_ms, 4), "ratio": round(stock_ms / ours_ms, 2)}


def of_species_linear() -> list[dict]:
    arms, difference = bench_species_linear.build()
    return [{"shape": "89 species, 64 nodes, 128 channels", "pass": "forward + backward", "difference": difference(),
             **ratio(arms["e3nn"], arms["pathtune"])}]  # fmt: skip


def of_edge_conv() -> list[dict]:
    result = []
    for case in bench_edge_conv.CONV_CASES:
        compared = bench_edge_conv.compare(case, rounds=5, shared_rows=False)
        for name, value in compared["ratio"].items():
            ms = {f"{who}_ms": compared["ms"][key][name] for who, key in (("stock", "e3nn"), ("ours", "pathtune"))}
            result.append({"shape": case, "pass": name, **ms, "ratio": value})
    return result


def of_symmetric_contraction() -> list[dict]:
    result = []
    for case, shape in bench_symmetric_contraction.CONTRACTIONS.items():
        batch = bench_symmetric_contraction.Batch(shape)
        for which, name in (("_frozen", "forward + gradient of A"), ("", "forward + all gradients")):
            measured = ratio(getattr(batch, f"stock{which}"), getattr(batch, f"ours{which}"), 7, 10)
            result.append({"shape": case, "pass": name, **measured})
    return result


def of_sampled_gradient() -> list[dict]:
    result = []
    for shape, sizes in bench_sampled_gradient.SHAPES.items():
        for share in bench_sampled_gradient.SHARES:
            product = bench_sampled_gradient.Product(sizes, share)
            name = f"{100 * share:g} % active"
            result.append({"shape": shape, "pass": name, **ratio(product.dense, product.sampled, 40, 2)})
            result.append({"shape": shape, "pass": f"{name}, both terms and threshold",
                           **ratio(product.dense_force_loss, product.sampled_force_loss, 40, 2)})  # fmt: skip
    return result


def of_soft_threshold() -> list[dict]:
    result = []
    for n_candidates in bench_soft_threshold.CANDIDATES:
        deltas = bench_soft_threshold.Deltas(n_candidates)
        result.append({"shape": f"8 layers, {n_candidates} candidates each", "pass": "W' = W + S(D, d)",
                       **ratio(deltas.torch, deltas.kernel, 20, 5)})  # fmt: skip
    return result


def against_reference(bench, name: str) -> list[dict]:
    """Rows of a bench whose class Rows has both arms; its warm-up and 15 rounds on one thread."""
    before, result = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for shape in bench.SHAPES:
        arms = bench.Rows(shape)
        measured = ratio(arms.torch, arms.kernel, 15, 5, time.process_time)
        result.append({"shape": shape, "pass": name, "clock": "processor, one thread", **measured})
    torch.set_num_threads(before)
    return result


OPERATORS: dict[str, Callable[[], list[dict]]] = {
    "species_linear": of_species_linear,
    "edge_conv": of_edge_conv,
    "symmetric_contraction": of_symmetric_contraction,
    "sampled_gradient": of_sampled_gradient,
    "soft_threshold": of_soft_threshold,
    "radial_table": lambda: against_reference(bench_radial_table, "w + slope"),
    "edge_geometry": lambda: against_reference(bench_edge_geometry, "lengths, harmonics + slope"),
}


def main() -> None:
    torch.manual_seed(0)
    file = pathlib.Path(__file__).parent / "results" / "operators.json"
    asked = sys.argv[1:] or list(OPERATORS)
    kept = json.loads(file.read_text()) if sys.argv[1:] else {"threads": torch.get_num_threads(), "rows": []}
    found = {name: [{"operator": name, **row} for row in OPERATORS[name]()] for name in asked}
    old = {name: [row for row in kept["rows"] if row["operator"] == name] for name in OPERATORS}
    result = {"threads": kept["threads"], "rows": [row for name in OPERATORS for row in found.get(name, old[name])]}
    file.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        print(row)


if __name__ == "__main__":
    main()
