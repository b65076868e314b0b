"""Time whole training steps against the stock package, in one process on identical inputs."""

from __future__ import annotations

import argparse
import json
import pathlib

from pathtune.benchmark.cases import NAMES
from pathtune.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune bench`."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    step = verbs.add_parser("step", help="one training step and one inference")
    step.add_argument("--model", default="mp-0b3-medium", choices=NAMES, help="shapes to bench")
    step.add_argument("--atoms", type=int, default=64, metavar="N", help="about so many atoms (default 64)")
    arms = ("sparse", "full", "kron")
    step.add_argument("--arm", default="sparse", choices=arms, help="what we train; stock trains all")
    step.add_argument("--active-share", type=float, default=0.03, help="of the reachable weights (default 0.03)")
    step.add_argument("--rounds", type=int, default=9, metavar="N", help="timed rounds (default 9)")
    step.add_argument("--no-memory", action="store_true", help="skip the peak memory, measured in subprocesses")
    step.add_argument("--json", metavar="FILE", help="write every figure to this file")


def run(args: argparse.Namespace) -> int:
    """Measure, print the ratios, write the file."""
    from pathtune.benchmark.step import bench_step

    result = bench_step(args.model, args.atoms, args.arm, args.active_share, args.rounds, not args.no_memory)
    print(f"{result['model']}, {result['n_atoms']} atoms, {result['n_edges']} edges, {result['threads']} threads")
    for name, seconds in result["median_seconds"].items():
        print(f"  {name:20s} {1000 * seconds:9.1f} ms")
    for name, ratio in result["ratio"].items():
        print(f"  {name:20s} {ratio:9.2f} x")
    if "peak_bytes" in result:
        print(f"  {'peak memory':20s} {result['peak_bytes']['ratio']:9.2f} x less")
    floor = result["floor"]
    print(f"  {'from the floor':20s} {floor['distance']:9.2f} x (at {floor['gemm_gflops']:.0f} GFLOP/s)")
    print(f"  agreement {result['agreement']}")
    if args.json:
        write_text(pathlib.Path(args.json), json.dumps(result, indent=1) + "\n")
    return 0
