"""What a finished run did, as one paragraph for the methods section of a paper."""

from __future__ import annotations

import argparse
import textwrap

from pathtune.training.folder import RunFolder
from pathtune.training.methods import describe, read_config, read_metrics

WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune describe`."""
    parser.add_argument("run", metavar="RUN", help="the folder that pathtune fit made")


def run(args: argparse.Namespace) -> int:
    """Print the paragraph."""
    folder = RunFolder(args.run)
    metrics = read_metrics(folder.metrics)
    print(textwrap.fill(describe(metrics, read_config(folder.config)), WIDTH, break_long_words=False))
    return 0
