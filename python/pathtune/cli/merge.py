"""Fold an adapter into its base: a plain model that needs no pathtune."""

from __future__ import annotations

import argparse

from pathtune.adapting import merge
from pathtune.cli._common import ModelOptions, add_options, load_model, new_file, options_from, required
from pathtune.loading import save


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune merge`."""
    parser.add_argument("--adapter", metavar="FILE", help="the adapter")
    parser.add_argument("--out", metavar="FILE", help="the file to write, for the model's own package; must not exist")
    parser.add_argument(
        "--drop-spin", action="store_true", help="leave out a spin layer; the energy changes, to that of zero moments"
    )
    add_options(parser, ModelOptions)


def run(args: argparse.Namespace) -> int:
    """Write the merged model."""
    adapter = required(args.adapter, "--adapter", "an adapter file")
    out = new_file(args.out)
    model = load_model(options_from(args, model=ModelOptions)["model"], adapter)
    save(merge(model, args.drop_spin), out)
    print(f"wrote {out}")
    return 0
