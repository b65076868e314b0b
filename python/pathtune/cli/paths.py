"""List every adaptable weight of a model: module, path, multiplicities, counts, share and norm."""

from __future__ import annotations

import argparse
import dataclasses

import ase.data

from pathtune.adapting import PathRow, paths
from pathtune.cli._common import ModelOptions, add_options, load_model, options_from, print_json
from pathtune.data import as_source
from pathtune.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune paths`."""
    add_options(parser, ModelOptions)
    parser.add_argument("--data", nargs="+", metavar="FILE", help="structures whose elements decide what is reachable")
    parser.add_argument("--elements", nargs="+", metavar="SYMBOL", help="these elements instead")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    model = load_model(options_from(args, model=ModelOptions)["model"])
    rows = paths(model, _elements(args))
    if args.json:
        print_json([dataclasses.asdict(row) for row in rows])
        return 0
    counts = model.counts()
    print("\n".join(_table(rows)))
    print(f"of {counts['all_weights']:,d} weights of the model")
    return 0


def _table(rows: list[PathRow]) -> list[str]:
    """Lines of at most 80 characters: each module's name, then its paths."""
    lines = [f"{'path':18s} {'mul':>14s} {'weights':>10s} {'reachable':>10s} {'share':>7s} {'norm':>8s}"]
    module = None
    for r in rows:
        if r.module != module:
            lines.append(r.module)
            module = r.module
        lines.append(
            f"  {r.path:16s} {r.mul:>14s} {r.weights:10,d} {r.reachable:10,d} {100 * r.share:5.1f} % {r.norm:8.4f}"
        )
    weights, reachable = sum(r.weights for r in rows), sum(r.reachable for r in rows)
    return [*lines, f"{'total':18s} {'':14s} {weights:10,d} {reachable:10,d}"]


def _elements(args: argparse.Namespace) -> tuple[int, ...] | None:
    if args.elements:
        unknown = [e for e in args.elements if e not in ase.data.atomic_numbers]
        if unknown:
            raise InputError(f"--elements: {unknown[0]!r} is no element, expected symbols such as H C O")
        return tuple(ase.data.atomic_numbers[e] for e in args.elements)
    return as_source(args.data, needs_labels=False).elements if args.data else None
