"""Say what an adapter is: its kinds, base, elements, counts, E0 shifts and training. The base is not loaded."""

from __future__ import annotations

import argparse

from pathtune.adapter_tools import describe
from pathtune.cli._common import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune show`."""
    parser.add_argument("adapter", metavar="ADAPTER", help="an adapter file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the description."""
    found = describe(args.adapter)
    if args.json:
        print_json(found)
        return 0
    counts = found["counts"]
    shares = ", ".join(
        f"{100 * counts['active'] / counts[name]:.2f} % of {counts[name]:,d} {name.split('_')[0]}"
        for name in ("reachable_weights", "adapted_weights", "all_weights")
    )
    print(f"{found['file']}: {' + '.join(found['kinds'])}, {found['bytes'] / 1000:.0f} kB, format {found['format']}")
    print(f"of a {found['backbone']}, head {found['head']}, cutoff {found['r_max_a']:g} A")
    print(f"trained on {' '.join(found['elements'])}")
    print(f"{counts['active']:,d} values that say the change: {shares} weights")
    if counts.get("added"):
        print(f"{counts['added']:,.0f} values added beside the weights")
    for element, shift in found["e0_shift_ev"].items():
        print(f"  E0 {element:3s} {shift:+.4f} eV")
    for layer, n in found["values"].items():
        print(f"  {layer:48s} {n:9,d} values")
    for key, value in found["training"].items():
        print(f"  training: {key} {value}")
    return 0
