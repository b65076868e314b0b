"""Train several arms alike on your model and data, and say which errs less at which cost.

Every arm gets the same structures, the same steps (or seconds) and the same number of learning rates, the best chosen
on validation. An interrupted comparison goes on when the same command is given again; with other arms, rates or more
seeds it trains what is new. Processes that torchrun starts share the runs.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pathtune.adaptations import option_sections
from pathtune.cli._common import add_options, interrupted, options_from, print_json, required
from pathtune.comparing.arms import Plan
from pathtune.comparing.comparison import run_comparison
from pathtune.comparing.options import CompareOptions
from pathtune.comparing.table import cost_cells, error_cells
from pathtune.data import LabelKeys
from pathtune.ops.allocator import keep_large_blocks
from pathtune.processes import TIMEOUT_S, started
from pathtune.training import FitConfig
from pathtune.training.progress import SeriesProgress
from pathtune.training.run import ModelOptions
from pathtune.training.stopping import StoppedError

# Of other sections: here lists, or the same for every arm.
NOT_ASKED = ("active_share", "rank", "lr", "seed", "keep_worse")
ARM_WIDTH = 24  # of the first column, whose words may go on in the next line


def sections() -> dict[str, type]:
    """Sections of a config file of this verb; a flag is that of the first that has it."""
    first = {"compare": CompareOptions, "model": ModelOptions, "data": LabelKeys}
    return {**first, **option_sections(), "fit": FitConfig}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune compare`."""
    parser.add_argument("--config", metavar="FILE", help="TOML with sections compare, model, data, fit; flags win")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    first, *others = sections().values()
    add_options(parser, first)
    add_options(parser, *others, without=NOT_ASKED)


def run(args: argparse.Namespace) -> int:
    """Train and compare, or go on where an earlier call stopped; then print the table."""
    keep_large_blocks()
    options = options_from(args, **sections())
    asked: CompareOptions = options["compare"]
    out = required(asked.out, "--out", "a folder for the comparison")
    kinds = {name: options[name] for name in option_sections()}
    plan = Plan(asked, options["model"], options["data"], options["fit"], kinds)
    with started(plan.model.device, TIMEOUT_S):
        try:
            result = run_comparison(plan, pathlib.Path(out), SeriesProgress(plan.fit.epochs, quiet=args.json))
        except (KeyboardInterrupt, StoppedError) as stop:
            return interrupted("compare", stop, "the same command")
        if args.json:
            print_json(result)
        else:
            _print(result, out)
    return 0


def _print(result: dict[str, Any], out: str) -> None:
    rows = result["rows"]
    for heading, lines in (error_cells(rows), cost_cells(rows)):
        _print_table(heading, lines)
    equal, reference = result["equal"], result["equal"]["reference"]
    notes = []
    if equal["mode"] == "seconds":
        ratios = ", ".join(f"{arm} {ratio:.2f}" for arm, ratio in equal["step_time_ratio"].items())
        notes.append(f"The same seconds: epochs by the ratio of {reference}'s step to the arm's ({ratios}).")
    if any(row.get("is_edge") for row in rows):
        notes.append("*: the best rate is the lowest or the highest tried; others may be better.")
    for row in rows:
        if row.get("n_diverged"):
            notes.append(f"{row['title']}: {row['n_diverged']} runs at the chosen rate diverged.")
    for note in notes:
        print(textwrap.fill(note, 79))
    print(f"Written to {out}: compare.md  compare.png  compare.json  runs/")


def _print_table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print it as one table, or as several one below the other where the terminal is too narrow for all columns."""
    width = Console().width if sys.stdout.isatty() else 100
    stacked = [head.replace(" /", "\u00a0/").replace(" ", "\n") for head in heading]
    words = [[*head.split("\n"), *(line[i] for line in lines)] for i, head in enumerate(stacked)]
    taken = [1 + max(map(len, column)) for column in words]
    taken[0] = min(taken[0], ARM_WIDTH)
    tables: list[list[int]] = [[]]
    for i in range(1, len(heading)):
        if not any(line[i] for line in lines):
            continue
        if tables[-1] and taken[0] + sum(taken[k] for k in tables[-1]) + taken[i] > width:
            tables.append([])
        tables[-1].append(i)
    for columns in tables:
        table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
        table.add_column(stacked[0])
        for i in columns:
            table.add_column(stacked[i], justify="right", no_wrap=True)
        for line in lines:
            table.add_row(line[0].replace(" %", "\u00a0%"), *(line[i] for i in columns))
        Console(width=width).print(table, highlight=False)
