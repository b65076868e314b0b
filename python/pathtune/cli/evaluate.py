"""Errors of a model on labelled structures: energy, forces, stress; per element and config_type."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pathtune.atomic_energies import refit_e0
from pathtune.cli._common import (
    ModelOptions,
    add_options,
    load_model,
    options_from,
    print_json,
    required,
    score_lines,
)
from pathtune.data import LabelKeys, as_source, check_cutoff, labels
from pathtune.evaluation import evaluate
from pathtune.processes import TIMEOUT_S, started


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune evaluate`."""
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="FILE",
        help="labelled structures (extxyz, .xz, anything ASE reads; folders, globs, slices such as run.traj@:20)",
    )
    parser.add_argument("--adapter", metavar="FILE", help="an adapter of the model")
    parser.add_argument(
        "--e0-from", nargs="+", metavar="FILE", help="refit the energy of each element to this file first"
    )
    parser.add_argument("--max-frames", type=int, metavar="N", help="only the first N structures")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="structures at once (default 16)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_options(parser, ModelOptions, LabelKeys)


def run(args: argparse.Namespace) -> int:
    """Print the errors."""
    options = options_from(args, model=ModelOptions, data=LabelKeys)
    with started(options["model"].device, TIMEOUT_S):
        return _run(args, options)


def _run(args: argparse.Namespace, options: dict[str, Any]) -> int:
    data = required(args.data, "--data", "a file of structures")
    source = as_source(data, options["data"], args.max_frames)
    for note in getattr(source, "notes", ()):
        print(f"pathtune evaluate: {note}", file=sys.stderr)
    model = load_model(options["model"], args.adapter)
    check_cutoff(source, model.backbone.r_max)
    if args.e0_from:
        model, fit = refit_e0(model, args.e0_from, keys=options["data"])
        if not args.json:
            print(fit)
    scores = evaluate(model, source, batch_size=args.batch_size)
    if args.json:
        print_json(scores)
        return 0
    print(f"{scores['n_structures']} structures")
    print("\n".join(score_lines(scores)))
    for element, s in scores["per_element"].items():
        errors = "  ".join(
            f"{label.word} MAE {s[label.mae_key]:10.3f} {label.report_unit}" for label in labels() if label.mae_key in s
        )
        print(f"  {element:10s} {errors}   {s['n_atoms']} atoms")
    if len(scores["per_config_type"]) > 1:
        found = [label for label in labels() if label.mae_key in scores]
        for name, s in scores["per_config_type"].items():
            errors = " ".join(f"{s.get(label.mae_key, float('nan')):10.3f} {label.report_unit}" for label in found)
            print(f"  {name:24s} {s['n_structures']:5d}  {errors}")
    return 0
