"""Ratios of every operator to the stock module, alternating in one process: bench/results/operators.json.

python bench/operators.py
"""

from __future__ import annotations

import json
import pathlib
import statistics
import time

import torch

import bench_edge_conv
import bench_sampled_gradient
import bench_soft_threshold
import bench_species_linear
import bench_symmetric_contraction


def ratio(stock, ours, rounds: int = 15, repeats: int = 5) -> dict:
    """Medians in ms and their ratio; ours runs `repeats` times in each round, because it is short."""
    times = ([], [])
    for i in range(rounds + 2):
        for function, spent, n in ((stock, times[0], 1), (ours, times[1], repeats)):
            for _ in range(n):
                began = time.perf_counter()
                function()
                if i >= 2:
                    spent.append(1e3 * (time.perf_counter() - began))
    stock_ms, ours_ms = (statistics.median(t) for t in times)
    return {"stock_ms": round(stock_ms, 4), "ours_ms": round(ours_ms, 4), "ratio": round(stock_ms / ours_ms, 2)}


def rows() -> list[dict]:
    result = []
    arms, difference = bench_species_linear.build()
    shape = "89 species, 64 nodes, 128 channels"
    result.append({"operator": "species_linear", "shape": shape, "pass": "forward + backward",
                   "difference": difference(), **ratio(arms["e3nn"], arms["pathtune"])})  # fmt: skip
    for case in bench_edge_conv.CONV_CASES:
        compared = bench_edge_conv.compare(case, rounds=5, shared_rows=False)
        for name, value in compared["ratio"].items():
            ms = {f"{who}_ms": compared["ms"][key][name] for who, key in (("stock", "e3nn"), ("ours", "pathtune"))}
            result.append({"operator": "edge_conv", "shape": case, "pass": name, **ms, "ratio": value})
    for case, shape in bench_symmetric_contraction.CONTRACTIONS.items():
        batch = bench_symmetric_contraction.Batch(shape)
        for which, name in (("_frozen", "forward + gradient of A"), ("", "forward + all gradients")):
            measured = ratio(getattr(batch, f"stock{which}"), getattr(batch, f"ours{which}"), 7, 10)
            result.append({"operator": "symmetric_contraction", "shape": case, "pass": name, **measured})
    for shape, sizes in bench_sampled_gradient.SHAPES.items():
        for share in bench_sampled_gradient.SHARES:
            product = bench_sampled_gradient.Product(sizes, share)
            result.append({"operator": "sampled_gradient", "shape": shape, "pass": f"{100 * share:g} % active",
                           **ratio(product.dense, product.sampled, 40, 2)})  # fmt: skip
            result.append({"operator": "sampled_gradient", "shape": shape,
                           "pass": f"{100 * share:g} % active, both terms and threshold",
                           **ratio(product.dense_force_loss, product.sampled_force_loss, 40, 2)})  # fmt: skip
    for n_candidates in bench_soft_threshold.CANDIDATES:
        deltas = bench_soft_threshold.Deltas(n_candidates)
        result.append({"operator": "soft_threshold", "shape": f"8 layers, {n_candidates} candidates each",
                       "pass": "W' = W + S(D, d)", **ratio(deltas.torch, deltas.kernel, 20, 5)})  # fmt: skip
    return result


def main() -> None:
    torch.manual_seed(0)
    result = {"threads": torch.get_num_threads(), "rows": rows()}
    file = pathlib.Path(__file__).parent / "results" / "operators.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        print(row)


if __name__ == "__main__":
    main()
