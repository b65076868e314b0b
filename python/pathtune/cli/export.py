"""Write a MACE as a folder: constructor arguments as text, weights as safetensors. `--model FOLDER` reads it."""

from __future__ import annotations

import argparse

from pathtune.adapting import merge
from pathtune.cli._common import ModelOptions, load_model, required
from pathtune.loading import export


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune export`."""
    parser.add_argument("model", metavar="MODEL", help="a .model file (a pickle: name only files you trust) or a name")
    parser.add_argument("--adapter", metavar="FILE", help="an adapter to fold in")
    parser.add_argument("--head", metavar="HEAD", help="of the adapter")
    parser.add_argument("--out", metavar="FOLDER", help="the folder to make; must not exist")


def run(args: argparse.Namespace) -> int:
    """Write the folder."""
    out = required(args.out, "--out", "a folder to make")
    model = load_model(ModelOptions(model=args.model, head=args.head, backend="reference"), args.adapter)
    export(merge(model), out)
    print(f"wrote {out}")
    return 0
