"""Errors of a model on labelled structures: energy, forces, stress; per element and config_type."""

from __future__ import annotations

import argparse

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
from pathtune.data import LabelKeys, check_elements, read_structures
from pathtune.evaluation import evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune evaluate`."""
    parser.add_argument("--data", metavar="FILE", help="labelled structures (extxyz, .xz, anything ASE reads)")
    parser.add_argument("--adapter", metavar="FILE", help="an adapter of the model")
    parser.add_argument("--e0-from", metavar="FILE", help="refit the energy of each element to this file first")
    parser.add_argument("--max-frames", type=int, metavar="N", help="only the first N structures")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="structures at once (default 16)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_options(parser, ModelOptions, LabelKeys)


def run(args: argparse.Namespace) -> int:
    """Print the errors."""
    options = options_from(args, model=ModelOptions, data=LabelKeys)
    data = required(args.data, "--data", "a file of structures")
    structures = read_structures(data, options["data"], args.max_frames)
    model = load_model(options["model"], args.adapter)
    if args.e0_from:
        reference = read_structures(args.e0_from, options["data"])
        check_elements(reference, model.atomic_numbers)
        model, fit = refit_e0(model, reference)
        if not args.json:
            print(fit)
    scores = evaluate(model, structures, batch_size=args.batch_size)
    if args.json:
        print_json(scores)
        return 0
    print(f"{scores['n_structures']} structures")
    print("\n".join(score_lines(scores)))
    for element, s in scores["per_element"].items():
        print(f"  {element:10s} force MAE {s['forces_mae_mev_a']:10.3f} meV/A   {s['n_atoms']} atoms")
    if len(scores["per_config_type"]) > 1:
        for name, s in scores["per_config_type"].items():
            energy, forces = s.get("energy_mae_mev_atom", float("nan")), s.get("forces_mae_mev_a", float("nan"))
            print(f"  {name:24s} {s['n_structures']:5d}  {energy:10.3f} meV/atom {forces:10.3f} meV/A")
    return 0
