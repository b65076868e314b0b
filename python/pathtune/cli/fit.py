"""Fine-tune a model. Leaves a folder with an adapter, a plain merged model, the log and the errors."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys
import tomllib
from typing import Any

from pathtune.adaptations.sparse.options import AUTO, DEFAULT_SHARE, SWEEP, SparseDelta
from pathtune.cli._common import (
    add_options,
    load_model,
    options_from,
    print_json,
    required,
    score_lines,
)
from pathtune.conventions import check_conventions
from pathtune.data import Source, as_source, check_cutoff, check_elements, split_off, subset
from pathtune.energy_offsets import said, settle_energies
from pathtune.errors import InputError
from pathtune.files import write_text
from pathtune.guidance import choose_share, draw_sweep, share_for
from pathtune.model import Potential
from pathtune.ops.allocator import keep_large_blocks
from pathtune.options import to_toml
from pathtune.processes import is_restarted, started, world
from pathtune.report.contents import run_report
from pathtune.report.page import write_report
from pathtune.report.run import FinishedRun, read_lines
from pathtune.training import FitConfig
from pathtune.training.agreement import check_same
from pathtune.training.folder import RunFolder
from pathtune.training.loggers import check_loggers
from pathtune.training.progress import Progress
from pathtune.training.provenance import file_hash
from pathtune.training.run import RunOptions, adapt_as, check_arm, run_arm, sections
from pathtune.training.stopping import STATUS, StoppedError

REPORT = "report"  # folder of the page, within that of the run
DENOMINATORS = (("reachable_weights", "reachable"), ("adapted_weights", "adapted"), ("all_weights", "all"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune fit`."""
    parser.add_argument("--config", metavar="FILE", help="TOML with sections run, model, data, delta, fit; flags win")
    parser.add_argument(
        "--from-mace",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="mace_run_train's YAML file, its flags, or both, to the end of the line: prints them as flags of pathtune "
        "and runs these (with --dry_run it only prints), and says what stands in the place of each that it lacks",
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run of the same command")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_options(parser, *sections().values())


def run(args: argparse.Namespace) -> int:
    """Read, check, train, save."""
    if args.from_mace is not None and _is_dry(args):
        return 0
    keep_large_blocks()
    options = options_from(args, **sections())
    check_arm(options)
    with contextlib.ExitStack() as held:  # the processes, and the run's folder, until the end
        held.enter_context(started(options["model"].device, 60 * options["run"].timeout_minutes))
        try:
            return _run(args, options, held)
        except StoppedError as stop:
            print(f"pathtune fit: {stop}; the same command with --resume continues it", file=sys.stderr)
            return STATUS


def _is_dry(args: argparse.Namespace) -> bool:
    """Take up the flags of mace, print what they become, and whether that was all that was asked."""
    from pathtune.cli import from_mace

    parser = argparse.ArgumentParser(prog="pathtune fit")
    add_arguments(parser)
    translation = from_mace.apply(args, parser)
    print("\n".join(translation.lines()), file=sys.stderr if args.json else sys.stdout, flush=True)
    return translation.is_dry


def _run(args: argparse.Namespace, options: dict[str, Any], held: contextlib.ExitStack) -> int:
    run_options: RunOptions = options["run"]
    out = required(run_options.out, "--out", "a folder for the run")
    check_loggers(run_options.logger)
    sets, split = _sets(options)
    train, valid = sets["train"], sets["valid"]
    base = load_model(options["model"])
    for source in sets.values():
        check_elements(source, base.atomic_numbers)
        check_cutoff(source, base.backbone.r_max)
    config: FitConfig = options["fit"]
    config.check_config_types(train)
    if config.check_units:
        check_conventions(base, train)
    base, e0_fit, sets, offsets = settle_energies(base, sets, config.energy_offsets, config.e0, config.refit_e0)
    train, valid = sets["train"], sets["valid"]
    folder = RunFolder(out)
    is_swept = "sparse" in run_options.arm and options["delta"].active_share == SWEEP
    of_share = ""
    if "sparse" in run_options.arm:
        options["delta"], of_share = _by_data(base, train, options["delta"])
    model = None if is_swept else adapt_as(base, train, options, sets.get("replay"))
    check_same(world(), base, sets, config)
    is_resumed = args.resume or is_restarted()
    toml = to_toml(**options)
    world().first(lambda: held.enter_context(folder.start(toml, is_resumed)) and None)
    folder.options = world().first(lambda: folder.options)
    world().first(lambda: folder.open_loggers(run_options.logger))
    if split:
        world().first(lambda: write_text(folder.split, json.dumps(split) + "\n"))
    for note in dict.fromkeys(note for source in sets.values() for note in getattr(source, "notes", ())):
        print(f"pathtune fit: {note}", file=sys.stderr)
    for line in () if args.json else filter(None, (said(offsets), e0_fit, of_share)):
        print(line, flush=True)
    if model is None:
        options["delta"] = _decide(base, train, valid, options, folder, args.json)
        model = adapt_as(base, train, options, sets.get("replay"))
    progress = Progress(config.epochs, quiet=args.json)
    facts = {
        "model": options["model"].model,
        "model_sha256": file_hash(options["model"].model),
        "units": list(options["data"].units or ()),
        "energy_offsets_ev_atom": offsets,
    }
    metrics = run_arm(model, base, sets, config, folder, e0_fit, progress, facts)
    page = _report(model, base, sets, options, folder, metrics) if run_options.report else None
    if args.json:
        print_json(metrics)
    else:
        _print(metrics, folder, page)
    for warning in metrics["warnings"]:
        print(f"pathtune fit: {warning}", file=sys.stderr)
    return 1 if metrics["is_start"] else 0


def _sets(options: dict[str, Any]) -> tuple[dict[str, Source], dict[str, Any] | None]:
    """train, valid and, where asked, test and replay; and how train was split where there is no --valid."""
    run_options, keys, seed = options["run"], options["data"], options["fit"].seed
    files = required(run_options.train, "--train", "a file of structures")
    split = None
    sets: dict[str, Source] = {"train": as_source(files, keys, run_options.max_frames)}
    if run_options.valid_fraction is None:
        sets["valid"] = as_source(required(run_options.valid, "--valid", "a file, or --valid-fraction"), keys)
    elif run_options.valid is not None:
        raise InputError("--valid and --valid-fraction are both given, expected one of them")
    else:
        whole = sets["train"]
        train, valid = split_off(whole, run_options.valid_fraction, seed)
        split = {"seed": seed, "fingerprint": whole.fingerprint, "train": train, "valid": valid}
        sets = {"train": subset(whole, train), "valid": subset(whole, valid)}
    if run_options.test is not None:
        sets["test"] = as_source(run_options.test, keys)
    if run_options.replay is not None:
        sets["replay"] = as_source(run_options.replay, keys, needs_labels=options["fit"].replay_labels == "own")
    return sets, split


def _by_data(base: Potential, train: Source, delta: SparseDelta) -> tuple[SparseDelta, str]:
    """The delta with the share that the amount of data asks for, if that was asked, and a sentence on it."""
    if delta.is_paper or delta.active_share not in (None, AUTO):
        return delta, ""
    choice = share_for(base, train, delta)
    if delta.active_share == AUTO:
        return dataclasses.replace(delta, active_share=choice.share), f"active share: {choice.reason}"
    return delta, (
        f"active share: {100 * DEFAULT_SHARE:g} % by default; --active-share auto would take {choice.reason}"
    )


def _decide(
    base: Potential, train: Source, valid: Source, options: dict[str, Any], folder: RunFolder, is_quiet: bool
) -> SparseDelta:
    """The delta with the share that a sweep finds; sweep.json and sweep.png stay in the folder."""
    report = None if is_quiet else lambda line: print(line, flush=True)
    delta, file = options["delta"], folder.folder / "sweep.json"
    epochs = world().first(lambda: folder.planned_epochs(options["fit"].epochs))
    config = dataclasses.replace(options["fit"].after_e0(), epochs=epochs)
    choice = choose_share(base, train, valid, delta, config, file=file, report=report)
    world().first(lambda: draw_sweep(choice, file.with_suffix(".png")))
    if report:
        report(f"active share: {choice.reason}")
    return dataclasses.replace(delta, active_share=choice.share)


def _report(
    model: Potential,
    base: Potential,
    sets: dict[str, Source],
    options: dict[str, Any],
    folder: RunFolder,
    metrics: dict[str, Any],
) -> pathlib.Path | None:
    """The page with the panels that cost little; None, with a note, where it cannot be written: the run is done."""
    config = tomllib.loads(to_toml(**options))
    run = FinishedRun(folder, metrics, config, read_lines(folder), base, model, sets["valid"], model.elements)
    try:
        return write_report(run_report(run, is_full=False), folder.folder / REPORT, folder.folder)
    except (InputError, ImportError) as error:
        print(f"pathtune fit: no report: {error}", file=sys.stderr)
        return None


def _print(metrics: dict[str, Any], folder: RunFolder, page: pathlib.Path | None) -> None:
    after = f"after {metrics['best_epoch']} of {metrics['epochs']} epochs"
    if metrics["is_start"]:
        after = f"the start again, since {after} it was worse (--keep-worse keeps it)"
    print(f"\nvalidation, before -> {after}")
    for old, new in zip(score_lines(metrics["valid_before"]), score_lines(metrics["valid"])):
        print(f"  {old}  ->  {new.split(maxsplit=2)[2]}")
    if "test" in metrics:
        print("test\n  " + "\n  ".join(score_lines(metrics["test"])))
    print(f"{metrics['best_reason']}")
    counts = metrics["counts"]
    if "adapter_bytes" in metrics:
        active = counts["active"]
        shares = ", ".join(
            f"{100 * active / counts[name]:.2f} % of {counts[name]:,d} {label}" for name, label in DENOMINATORS
        )
        print(f"changed {active:,d} weights: {shares}")
        if counts["added"]:
            print(f"added   {counts['added']:,d} values beside them")
        print(f"adapter {folder.adapter} ({metrics['adapter_bytes'] / 1000:.0f} kB)")
    if "spin" in metrics:
        print(f"magforces_scale {metrics['spin']['magforces_scale']:.4g}")
    if folder.merged.exists():
        print(f"merged  {folder.merged}")
    if page is not None:
        print(f"report  {page} (pathtune report {folder.folder} adds importance)")
