"""Fine-tune a model. Leaves a folder with an adapter, a plain merged model, the log and the errors."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from pathtune import __version__
from pathtune._fit import FitConfig, History, fit
from pathtune.adapter import save_adapter
from pathtune.atomic_energies import E0Fit, refit_e0
from pathtune.cli._common import (
    ModelOptions,
    add_options,
    load_model,
    options_from,
    print_json,
    required,
    score_lines,
    to_toml,
)
from pathtune.data import LabelKeys, Structure, check_elements, elements_of, read_structures
from pathtune.evaluation import evaluate
from pathtune.loading import save
from pathtune.model import Potential, merge, sparsify, unfreeze
from pathtune.ops.allocator import keep_large_blocks
from pathtune.options import option
from pathtune.progress import Progress
from pathtune.run_folder import RunFolder, write_text
from pathtune.sparse_delta import SparseDelta


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Data, arm and folder of a run."""

    train: str | None = option(None, "labelled structures to train on")
    valid: str | None = option(None, "labelled structures that choose the best epoch")
    out: str | None = option(None, "folder to make")
    arm: str = option("sparse", "what to train", choices=("sparse", "full", "readout"))
    max_frames: int | None = option(None, "only the first so many training structures")


SECTIONS: dict[str, Any] = {
    "run": RunOptions, "model": ModelOptions, "data": LabelKeys, "delta": SparseDelta, "fit": FitConfig,
}  # fmt: skip


DENOMINATORS = (("reachable_weights", "reachable"), ("adapted_weights", "adapted"), ("all_weights", "all"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune fit`."""
    parser.add_argument("--config", metavar="FILE", help="TOML with sections run, model, data, delta, fit; flags win")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run of the same command")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_options(parser, *SECTIONS.values())


def run(args: argparse.Namespace) -> int:
    """Read, check, train, save."""
    keep_large_blocks()
    options = options_from(args, **SECTIONS)
    run_options: RunOptions = options["run"]
    out = required(run_options.out, "--out", "a folder for the run")
    train_file = required(run_options.train, "--train", "a file of structures")
    train = read_structures(train_file, options["data"], run_options.max_frames)
    valid = read_structures(required(run_options.valid, "--valid", "a file of structures"), options["data"])
    base = load_model(options["model"])
    check_elements([*train, *valid], base.atomic_numbers)
    config: FitConfig = options["fit"]
    e0_fit = None
    if config.refit_e0:
        base, e0_fit = refit_e0(base, train)
    elements = elements_of(train)
    model = (sparsify(base, options["delta"], elements, config.seed) if run_options.arm == "sparse"
             else unfreeze(base, run_options.arm, elements))  # fmt: skip
    folder = RunFolder(out)
    folder.start(to_toml(**options), args.resume)
    if not args.json and e0_fit:
        print(e0_fit, flush=True)
    before = evaluate(base, valid)
    progress = Progress(config.epochs, quiet=args.json)
    history = fit(model, train, valid, dataclasses.replace(config, refit_e0=False), folder=folder, progress=progress)
    metrics = _finish(model, history, before, valid, e0_fit, folder)
    if args.json:
        print_json(metrics)
    else:
        _print(metrics, folder)
    return 0


def _finish(model: Potential, history: History, before: dict, valid: list[Structure], e0_fit: E0Fit | None,
            folder: RunFolder) -> dict[str, Any]:  # fmt: skip
    metrics: dict[str, Any] = {
        "pathtune": __version__,
        "arm": model.arm,
        "valid_before": before,
        "valid": evaluate(model, valid),
        "counts": model.counts(),
        "e0_fit": dataclasses.asdict(e0_fit) if e0_fit else None,
        "best_epoch": history.best_epoch,
        "epochs": len(history.epochs),
        "seconds": history.epochs[-1]["seconds"] if history.epochs else 0.0,
    }
    if model.arm == "sparse":
        summary = {key: metrics[key] for key in ("pathtune", "best_epoch", "epochs")}
        save_adapter(model, folder.adapter, summary)
        metrics["adapter_bytes"] = folder.adapter.stat().st_size
    save(merge(model), folder.merged)
    write_text(folder.metrics, json.dumps(metrics, indent=1) + "\n")
    return metrics


def _print(metrics: dict[str, Any], folder: RunFolder) -> None:
    print(f"\nvalidation, before -> after {metrics['best_epoch']} of {metrics['epochs']} epochs")
    for old, new in zip(score_lines(metrics["valid_before"]), score_lines(metrics["valid"])):
        print(f"  {old}  ->  {new.split(maxsplit=2)[2]}")
    counts = metrics["counts"]
    if metrics["arm"] == "sparse":
        active = counts["active"]
        shares = ", ".join(
            f"{100 * active / counts[name]:.2f} % of {counts[name]:,d} {label}"
            for name, label in DENOMINATORS
        )
        print(f"changed {active:,d} weights: {shares}")
        print(f"adapter {folder.adapter} ({metrics['adapter_bytes'] / 1000:.0f} kB)")
    print(f"merged  {folder.merged}")
