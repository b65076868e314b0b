"""Make one adapter of several of one model: the base plus each one's changes times its weight."""

from __future__ import annotations

import argparse

from pathtune.adapter_file import save_adapter
from pathtune.adapter_tools import blend
from pathtune.cli._common import ModelOptions, add_options, load_model, new_file, options_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune blend`."""
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER", help="adapter files of one model")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="one for each (equal ones that sum to 1)")
    parser.add_argument("--out", metavar="FILE", help="the adapter to write; must not exist")
    add_options(parser, ModelOptions)


def run(args: argparse.Namespace) -> int:
    """Write the blend."""
    out = new_file(args.out)
    n = len(args.adapters)
    weights = args.weights or [1 / n] * n
    base = load_model(options_from(args, model=ModelOptions)["model"])
    save_adapter(blend(base, args.adapters, weights), out, {"blend": dict(zip(args.adapters, weights))})
    print(f"wrote {out}")
    return 0
