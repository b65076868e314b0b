"""Check structures once and keep them as a store, which `--train`, `--valid`, `--test` and `--data` take as a file."""

from __future__ import annotations

import argparse
import pathlib
import sys

import ase.data

from pathtune.cli._common import add_options, options_from, print_json, required
from pathtune.data import LabelKeys
from pathtune.data.store import Store, damaged_shards, prepare
from pathtune.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `pathtune prepare`."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILES",
        help="extxyz (.xz), ASE databases (.db, .aselmdb), HDF5 of mace_prepare_data, what ASE reads; globs, folders",
    )
    parser.add_argument("--out", metavar="STORE", help="folder to make, or to go on with after an interruption")
    parser.add_argument("--r-max", type=float, metavar="A", help="cutoff of the models that the store is for (any)")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one for each core)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out bad records; STORE/bad.txt lists them")
    parser.add_argument("--unlabelled", action="store_true", help="structures need no labels")
    parser.add_argument("--info", metavar="STORE", help="say what a store holds, and make none")
    parser.add_argument("--verify", action="store_true", help="with --info: read every shard and compare its checksum")
    parser.add_argument("--json", action="store_true", help="with --info: print JSON")
    add_options(parser, LabelKeys)


def run(args: argparse.Namespace) -> int:
    """Make a store, or say what one holds."""
    if args.info is not None:
        return _inform(pathlib.Path(args.info), args.verify, args.json)
    if not args.files:
        raise InputError("FILES are missing, expected structures to prepare, or --info STORE")
    if args.jobs is not None and args.jobs < 1:
        raise InputError(f"jobs is {args.jobs}, expected at least 1")
    out = required(args.out, "--out", "a folder for the store")
    keys = options_from(args, data=LabelKeys)["data"]
    done = prepare(args.files, out, keys, args.r_max, args.jobs, args.skip_bad, not args.unlabelled)
    for note in done.notes:
        print(f"pathtune prepare: {note}", file=sys.stderr)
    for sentence in done.bad:
        print(sentence, file=sys.stderr)
    if done.bad and not args.skip_bad:
        print(
            f"pathtune prepare: {len(done.bad)} of {len(done.bad) + done.n_structures} records are bad (above, and in "
            f"{out}/bad.txt), expected none; the same command with --skip-bad leaves them out",
            file=sys.stderr,
        )
        return 2
    skipped = f", {len(done.bad)} bad records left out ({out}/bad.txt)" if done.bad else ""
    print(f"{done.n_structures:,d} structures in {out}{skipped}")
    return 0


def _inform(folder: pathlib.Path, verify: bool, as_json: bool) -> int:
    about = Store(folder).manifest
    if as_json:
        print_json({key: value for key, value in about.items() if key not in ("shards", "index", "label_order")})
    else:
        symbols = " ".join(ase.data.chemical_symbols[z] for z in about["elements"])
        n_bytes = sum(shard["bytes"] for shard in about["shards"])
        print(f"{folder}: {about['n']:,d} structures, {about['n_atoms']:,d} atoms of {symbols}")
        print(f"{len(about['shards'])} shards, {n_bytes / 1e6:,.1f} MB; format {about['version']}")
        for name, label in about["labels"].items():
            key = about["keys"].get(name, name)
            print(f"  {name:10s} {label['n']:12,d} structures  {label['unit']:8s} from {key!r}")
        asked = "the cutoff asked" if about["is_r_max_asked"] else "for models of any cutoff"
        print(f"edges counted within {about['r_max']:g} A ({asked}); {about['n_bad']} bad records left out")
    damaged = damaged_shards(folder, about) if verify else []
    for sentence in damaged:
        print(sentence, file=sys.stderr)
    if verify and not damaged and not as_json:
        print("all checksums agree")
    return 2 if damaged else 0
