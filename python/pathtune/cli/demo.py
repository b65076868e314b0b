"""Tune the model that comes with pathtune to another molecule at another level of theory, and compare.

A small MACE, pretrained on organic molecules at GFN2-xTB, meets glycine at PBE/def2-SVP: zero-shot, with E0
refitted, after full fine-tuning and after sparse fine-tuning. Everything is shipped; no network is used.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import textwrap
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pathtune.cli._common import add_options, interrupted, options_from, print_json
from pathtune.demo.comparison import DemoOptions, run_demo
from pathtune.ops.allocator import keep_large_blocks
from pathtune.options import to_mapping
from pathtune.training.progress import SeriesProgress
from pathtune.training.stopping import StoppedError

DEFAULT_OUT = "pathtune-demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune demo`."""
    parser.add_argument(
        "--out", default=DEFAULT_OUT, metavar="DIR", help=f"folder to make, or to go on in (default {DEFAULT_OUT})"
    )
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    add_options(parser, DemoOptions)


def run(args: argparse.Namespace) -> int:
    """Train and compare, or go on where an earlier call stopped; then print the table."""
    keep_large_blocks()
    options: DemoOptions = options_from(args, demo=DemoOptions)["demo"]
    try:
        result = run_demo(pathlib.Path(args.out), options, SeriesProgress(options.epochs, quiet=args.json))
    except (KeyboardInterrupt, StoppedError) as stop:
        return interrupted("demo", stop, _command(args.out, options))
    if args.json:
        print_json(result)
    else:
        _print(result, args.out)
    return 0


def _command(out: str, options: DemoOptions) -> str:
    """The command of this call, without what is default."""
    words, default = ["pathtune", "demo"], to_mapping(DemoOptions())
    if out != DEFAULT_OUT:
        words += ["--out", out]
    for name, value in to_mapping(options).items():
        if value != default.get(name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _print(result: dict[str, Any], out: str) -> None:
    title = f"glycine at PBE/def2-SVP, {result['n_structures']['test']} test structures"
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, title=title)
    table.add_column("arm", no_wrap=True)
    for heading in ("energy MAE\nmeV/atom", "force MAE\nmeV/Å", "weights\nchanged", "to store\nkB", "train\ns"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result["rows"]:
        changed = f"{row['changed']:,d} ({100 * row['share']:.3g} %)" if row["changed"] else "none"
        size, seconds = (f"{row['bytes'] / 1000:.0f}", f"{row['seconds']:.0f}") if row["changed"] else ("", "")
        table.add_row(
            row["arm"], f"{row['energy_mae_mev_atom']:,.2f}", f"{row['forces_mae_mev_a']:.1f}", changed, size, seconds
        )
    Console(width=80).print(table, highlight=False)
    rows = {row["arm"]: row["forces_mae_mev_a"] for row in result["rows"]}
    counts = result["shares"][0]["counts"]
    rates = ", ".join(f"{lr:g}" for lr in result["learning_rates"])
    text = (
        f"%: of the {counts['reachable_weights']:,d} weights that the sparse arm could change. Learning rates: the "
        f"best of {rates} for both trained arms, by validation loss. Energies are far off "
        "before the E0 refit because the pretraining level, GFN2-xTB, has no core electrons. "
        f"Sparse: {rows['sparse'] / rows['full fine-tuning']:.2f} x the force error of full fine-tuning, "
        f"{rows['sparse'] / rows['zero-shot']:.2f} x that of zero-shot."
    )
    print(textwrap.fill(text, 79))
    print(
        f"\n{result['seconds']:.0f} s, at most {result['peak_bytes'] / 1e9:.1f} GB of memory. Written to {out}:\n"
        "  demo.png  demo.json  adapter.safetensors  merged.model (a plain MACE)\n"
        "  runs/     every training run, as `pathtune fit` leaves it"
    )
