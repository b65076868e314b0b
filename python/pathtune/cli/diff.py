"""Compare two adapters of one model: which weights both change, how much, and in which direction."""

from __future__ import annotations

import argparse

from pathtune.adapter_tools import compare
from pathtune.cli._common import ModelOptions, add_options, load_model, options_from, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune diff`."""
    parser.add_argument("first", metavar="A", help="an adapter file")
    parser.add_argument("second", metavar="B", help="another one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_options(parser, ModelOptions)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    base = load_model(options_from(args, model=ModelOptions)["model"])
    rows = compare(base, args.first, args.second)
    if args.json:
        print_json(rows)
        return 0
    width = max(len(row["parameter"]) for row in rows)
    heads = ("A changes", "B changes", "both", "by chance", "norm A", "norm B", "cosine")
    print(f"{'parameter':{width}s} " + " ".join(f"{head:>10s}" for head in heads))
    for row in rows:
        cosine = "" if row["cosine"] is None else f"{row['cosine']:.3f}"
        changed = " ".join(f"{n:10,d}" for n in (*row["changed"], row["both"]))
        norms = " ".join(f"{norm:10.4g}" for norm in row["norms"])
        print(f"{row['parameter']:{width}s} {changed} {row['chance']:10,.0f} {norms} {cosine:>10s}")
    return 0
