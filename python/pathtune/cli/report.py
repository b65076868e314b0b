"""Write the report of a run: what was changed, what it gained, what it forgot. Of several runs: how they compare."""

from __future__ import annotations

import argparse
import pathlib

from pathtune.cli._common import add_options, options_from, print_json
from pathtune.data import LabelKeys, Source, as_source
from pathtune.errors import InputError
from pathtune.ops.allocator import keep_large_blocks
from pathtune.report.compare import check_same_base, comparison
from pathtune.report.contents import MOST_FRAMES, run_report
from pathtune.report.page import check_folder, write_report
from pathtune.report.run import FinishedRun, read_run

DEFAULT_OUT, DEFAULT_COMPARISON = "report", "pathtune-comparison"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune report`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder that pathtune fit made, which names the model to load (a pickle: only of runs you trust); "
        "several are compared",
    )
    parser.add_argument("--data", nargs="+", metavar="FILE", help="labelled structures, in place of the validation set")
    parser.add_argument("--retention", nargs="+", metavar="FILE", help="labelled structures of what the base knows")
    parser.add_argument(
        "--out", metavar="DIR", help=f"folder of the page (RUN/{DEFAULT_OUT}; of several runs {DEFAULT_COMPARISON})"
    )
    parser.add_argument(
        "--max-frames",
        type=int,
        default=MOST_FRAMES,
        metavar="N",
        help=f"importance: at most N structures, evenly spaced (default {MOST_FRAMES})",
    )
    parser.add_argument("--json", action="store_true", help="print what report.json holds")
    add_options(parser, LabelKeys)


def run(args: argparse.Namespace) -> int:
    """Read, measure, write."""
    keep_large_blocks()
    keys = options_from(args, data=LabelKeys)["data"]
    if args.max_frames < 1:
        raise InputError(f"--max-frames is {args.max_frames}, expected at least 1")
    if args.retention and len(args.runs) > 1:
        raise InputError(f"--retention is given with {len(args.runs)} runs, expected it with one")
    runs = _runs(args.runs)
    data = _source(args.data, keys)
    if len(runs) > 1:
        out = check_folder(pathlib.Path(args.out or DEFAULT_COMPARISON))
        report = comparison(runs, data, args.max_frames)
        page = write_report(report, out)
    else:
        out = check_folder(pathlib.Path(args.out) if args.out else runs[0].folder.folder / DEFAULT_OUT)
        report = run_report(runs[0], True, data, _source(args.retention, keys), args.max_frames)
        page = write_report(report, out, runs[0].folder.folder)
    if args.json:
        print_json(report)
    else:
        print(report["sentence"])
        print(f"written {page}")
    return 0


def _runs(folders: list[str]) -> list[FinishedRun]:
    """All runs, on one base, which is loaded once."""
    if len({pathlib.Path(folder).resolve() for folder in folders}) < len(folders):
        raise InputError(f"runs are {' '.join(folders)}, expected each once")
    first = read_run(folders[0])
    plain = first.plain_base()
    runs = [first]
    for folder in folders[1:]:
        runs.append(read_run(folder, plain))
    check_same_base(runs)
    return runs


def _source(files: list[str] | None, keys: LabelKeys) -> Source | None:
    return as_source(files, keys) if files else None
