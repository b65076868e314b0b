"""`pathtune demo` over three seeds, each in a process of its own: errors, times, memory, learning curves.

    python bench/demo.py            # writes bench/results/demo.json and docs/images/demo.png (of the first seed)

Finished seeds are kept in --work; a seed that was cut short starts anew, so that its time is the time of one call.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

from pathtune.benchmark.step import machine

ROOT = pathlib.Path(__file__).parent.parent
KEYS = ("energy_mae_mev_atom", "forces_mae_mev_a", "changed", "share", "bytes", "seconds")


def spread(values: list[float], digits: int = 4) -> list[float]:
    """Mean, and largest minus smallest."""
    return [round(statistics.mean(values), digits), round(max(values) - min(values), digits)]


def one_seed(seed: int, work: pathlib.Path, more: list[str]) -> tuple[dict, float]:
    """The demo.json of one seed and the wall time of the whole command, s."""
    out = work / f"seed{seed}"
    took = work / f"seed{seed}.seconds"
    if not took.exists():
        shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    command = [sys.executable, "-m", "pathtune", "demo", "--out", str(out), "--seed", str(seed), *more]
    subprocess.run(command, check=True)
    if not took.exists():
        took.write_text(f"{time.perf_counter() - began:.1f}")
    return json.loads((out / "demo.json").read_text()), float(took.read_text())


def summarize(results: list[dict], seconds: list[float], seeds: list[int]) -> dict:
    """Means and spreads over seeds; the curves of every full run and of the chosen sparse one."""
    rows = []
    for i, row in enumerate(results[0]["rows"]):
        mine = [r["rows"][i] for r in results]
        rows.append({"arm": row["arm"], **{k: spread([m[k] for m in mine]) for k in KEYS},
                     "lr": [m.get("lr") for m in mine]})  # fmt: skip
    shares = []
    for i, share in enumerate(results[0]["shares"]):
        mine = [r["shares"][i] for r in results]
        shares.append({"target_share": share["target_share"], "active_share": spread([m["active_share"] for m in mine]),
                       "forces_mae_mev_a": spread([m["test"]["forces_mae_mev_a"] for m in mine], 2)})  # fmt: skip
    first = results[0]
    kept_of_run = ("arm", "lr", "target_share", "best_epoch", "valid_loss", "test", "active_share", "curve")
    curves = [{"seed": seed} | {key: run[key] for key in kept_of_run}
              for seed, r in zip(seeds, results) for run in r["runs"]]  # fmt: skip
    kept = {k: first[k] for k in ("options", "learning_rates", "batch_size", "n_structures", "threads", "torch")}
    kept["share"] = first["runs"][-1]["target_share"]
    kept["reachable_weights"] = first["shares"][0]["counts"]["reachable_weights"]
    return {"seeds": seeds, **kept, "machine": machine(), "rows": rows,
            "shares": shares, "wall_seconds": seconds, "peak_bytes": [r["peak_bytes"] for r in results],
            "curves": curves}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs" / "demo")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench" / "results" / "demo.json")
    parser.add_argument("--image", type=pathlib.Path, default=ROOT / "docs" / "images" / "demo.png")
    args, more = parser.parse_known_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results, seconds = zip(*(one_seed(seed, args.work, more) for seed in args.seeds))
    summary = summarize(list(results), list(seconds), args.seeds)
    args.out.write_text(json.dumps(summary, indent=1) + "\n")
    shutil.copyfile(args.work / f"seed{args.seeds[0]}" / "demo.png", args.image)


if __name__ == "__main__":
    main()
