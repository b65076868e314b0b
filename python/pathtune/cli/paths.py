"""List every adaptable weight of a model: module, path, multiplicities, counts, share and norm."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap

import ase.data

from pathtune.adapting import PathRow, paths
from pathtune.cli._common import ModelOptions, add_options, load_model, options_from, print_json
from pathtune.data import as_source
from pathtune.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune paths`."""
    add_options(parser, ModelOptions)
    parser.add_argument("--adapter", metavar="FILE", help="an adapter of the model: how many weights it changes, where")
    parser.add_argument("--data", nargs="+", metavar="FILE", help="structures whose elements decide what is reachable")
    parser.add_argument("--elements", nargs="+", metavar="SYMBOL", help="these elements instead")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    model = load_model(options_from(args, model=ModelOptions)["model"], args.adapter)
    elements = _elements(args)
    rows = paths(model, elements)
    if args.json:
        print_json([dataclasses.asdict(row) for row in rows])
        return 0
    known = elements or (model.elements if args.adapter else None)
    print("\n".join(_table(rows, known is not None, args.adapter is not None)))
    print(f"of {model.counts()['all_weights']:,d} weights of the model")
    if known is None:
        print("what training can reach depends on the elements: name --elements or --data")
    else:
        names = " ".join(ase.data.chemical_symbols[z] for z in known)
        print(textwrap.fill(f"reachable: what structures of {names} can change; fit counts it in its --scope", 80))
    return 0


def _table(rows: list[PathRow], has_elements: bool, has_adapter: bool) -> list[str]:
    """Lines of at most 80 characters: each module's name, then its paths; then the sums, by what --scope names."""
    last = ("changed", "by") if has_adapter else ("share", "norm")
    lines = [f"{'path':18s} {'mul':>14s} {'weights':>10s} {'reachable':>10s} {last[0]:>9s} {last[1]:>8s}"]
    module = None
    for r in rows:
        if r.module != module:
            lines.append(r.module)
            module = r.module
        reachable = f"{r.reachable:,d}" if has_elements else "?"
        more = f"{100 * r.share:7.1f} % {r.norm:8.4f}"
        if has_adapter:
            more = f"{r.changed:9,d} {100 * r.change / r.norm if r.norm else 0.0:6.1f} %"
        lines.append(f"  {r.path:16s} {r.mul:>14s} {r.weights:10,d} {reachable:>10s} {more}")
    for scope in dict.fromkeys(r.scope for r in rows):
        mine = [r for r in rows if r.scope == scope]
        reachable = f"{sum(r.reachable for r in mine):,d}" if has_elements else "?"
        changed = f" {sum(r.changed for r in mine):9,d}" if has_adapter else ""
        title = f"all of scope {scope}"
        lines.append(f"{title:33s} {sum(r.weights for r in mine):10,d} {reachable:>10s}{changed}")
    return lines


def _elements(args: argparse.Namespace) -> tuple[int, ...] | None:
    if args.elements:
        unknown = [e for e in args.elements if e not in ase.data.atomic_numbers]
        if unknown:
            raise InputError(f"--elements: {unknown[0]!r} is no element, expected symbols such as H C O")
        return tuple(ase.data.atomic_numbers[e] for e in args.elements)
    return as_source(args.data, needs_labels=False).elements if args.data else None
