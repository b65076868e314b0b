"""Make an adapter of a model that was tuned elsewhere: what differs from its base. Merged again it is that model."""

from __future__ import annotations

import argparse
import dataclasses

from pathtune.adapter_file import save_adapter
from pathtune.adapter_tools import extract
from pathtune.cli._common import ModelOptions, load_model, new_file, required


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune extract`."""
    parser.add_argument(
        "tuned", metavar="TUNED", help="a .model or checkpoint file (a pickle: name only files you trust)"
    )
    parser.add_argument("--base", metavar="MODEL", help="the model that it was made of: a file or a name")
    parser.add_argument("--head", metavar="HEAD", help="head whose E0 may differ, the first by default; or modality")
    parser.add_argument("--out", metavar="FILE", help="the adapter to write; must not exist")


def run(args: argparse.Namespace) -> int:
    """Write the adapter."""
    out = new_file(args.out)
    base = ModelOptions(model=required(args.base, "--base", "a model file or name"), head=args.head)
    model = extract(load_model(base), load_model(dataclasses.replace(base, model=args.tuned)))
    save_adapter(model, out)
    print(f"wrote {out} ({model.counts()['active']:,d} weights, {out.stat().st_size / 1000:.0f} kB)")
    return 0
