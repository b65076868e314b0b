"""Factors between labels and a pretrained model's predictions on real sets, and planted mistakes that must be named.

    python bench/conventions.py mace_spice_32x0e      # in an environment with mace-torch
    python bench/conventions.py sevennet:7net-0       # in one with sevenn

Every set of PATHTUNE_DATA with a training split whose elements the model knows: no alarm is expected, neither before a
training nor from three epochs by `pathtune fit` on some 40 evenly spaced frames. Then mistakes are planted in sets that
were not looked at when the thresholds of pathtune/conventions.py were chosen; each must be named. (Positions are tried
before labels since copper in bohr was missed at first.) Forces in meV/A are refused when they are read. All goes to
bench/results/conventions.json under the model's name.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

import pathtune
from accuracy import model_of
from pathtune.conventions import check_conventions, compare_labels
from pathtune.data import as_source

DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
RESULTS = pathlib.Path(__file__).parent / "results" / "conventions.json"
UNSEEN = {
    "mace_spice_32x0e": ("molecules/ethanol_botnet/test_methanol", "retention/spice_subset/test"),
    "sevennet:7net-0": (
        "crystals/mlearn_Cu/test",
        "crystals/mlearn_Ni/test",
        "retention/spice_subset/test",
        "retention/mptrj_random_1k/test",
    ),
}
EPOCHS, N_TRAIN, N_VALID = 3, 40, 20
PARTS = ("sets", "planted", "trained")


def scaled(**factors: float):
    """A mistake: labels times a factor."""

    def change(s):
        return dataclasses.replace(s, labels={k: v * factors.get(k, 1.0) for k, v in s.labels.items()})

    return change


def in_bohr(s):
    return dataclasses.replace(s, positions=s.positions / 0.529177, cell=s.cell / 0.529177)


def with_virial(sign: float):
    def change(s):
        volume = abs(np.linalg.det(s.cell))
        return dataclasses.replace(s, labels=s.labels | {"stress": sign * volume * s.labels["stress"]})

    return change


# The mistake, the label, and a word that must be in the message.
PLANTED = {
    "forces in kcal/mol/A": (scaled(forces=23.0605), "forces", "kcal/mol/A"),
    "forces in hartree/bohr": (scaled(forces=1 / 51.4221), "forces", "in hartree/bohr"),
    "forces in Ry/bohr": (scaled(forces=1 / 25.7110), "forces", "in Ry/bohr"),
    "forces in meV/A": (scaled(forces=1e3), "forces", "units?"),  # over 1000 eV/A: refused when they are read
    "forces converted from hartree/bohr twice": (scaled(forces=51.4221), "forces", "once too often"),
    "gradients for forces": (scaled(forces=-1.0), "forces", "opposite sign"),
    "energies in kcal/mol": (scaled(energy=23.0605), "energy", "kcal/mol"),
    "energies in kJ/mol": (scaled(energy=96.4853), "energy", "kJ/mol"),
    "energies in hartree": (scaled(energy=1 / 27.2114), "energy", "hartree"),
    "energies in Ry": (scaled(energy=1 / 13.6057), "energy", "Ry"),
    "positions in bohr": (in_bohr, "forces", "in bohr"),
    "stress in GPa": (scaled(stress=160.2177), "stress", "in GPa"),
    "pressure in kbar": (scaled(stress=-1602.177), "stress", "opposite sign and in kbar"),
    "pressure": (scaled(stress=-1.0), "stress", "opposite sign"),
    "stress times volume": (with_virial(1.0), "stress", "multiplied by the volume"),
    "virial": (with_virial(-1.0), "stress", "minus stress times volume"),
}


def table(model) -> list[dict]:
    rows = []
    for file in sorted(DATA.glob("*/*/train.extxyz.xz")):
        source = as_source(file)
        if not set(source.elements) <= set(model.atomic_numbers):
            continue
        found = compare_labels(model, source)
        row = {"set": str(file.parent.relative_to(DATA)), "alarm": message(model, source)}
        for c in found:
            row[c.label.name] = {"factor": round(c.factor, 4), "correlation": round(c.correlation, 4), "n": c.n_values}
        rows.append(row)
        numbers = "  ".join(f"{c.label.name} {c.factor:8.3f} ({c.correlation:6.3f})" for c in found)
        print(f"{row['set']:34s} {numbers}  {row['alarm'] or 'no alarm'}", flush=True)
    return rows


def trained(name: str, model, result: dict) -> Iterator[dict]:
    """What `pathtune fit` says of each set in three epochs, on evenly spaced frames; `result`: what is known."""
    for file in sorted(DATA.glob("*/*/train.extxyz.xz")):
        source = as_source(file)
        if not set(source.elements) <= set(model.atomic_numbers) or str(file.parent.relative_to(DATA)) in result:
            continue
        n_valid = len(as_source(file.with_name("valid.extxyz.xz")))
        slices = [f"@::{max(1, n // most)}" for n, most in ((len(source), N_TRAIN), (n_valid, N_VALID))]
        with tempfile.TemporaryDirectory() as folder:
            command = [
                *(sys.executable, "-m", "pathtune", "fit", "--model", str(model_of(name)), "--epochs", str(EPOCHS)),
                *("--train", f"{file}{slices[0]}", "--valid", f"{file.with_name('valid.extxyz.xz')}{slices[1]}"),
                *("--out", f"{folder}/run", "--json", "--no-report"),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
        key = str(file.parent.relative_to(DATA))
        result[key] = {"status": done.returncode}
        if done.returncode in (0, 1):
            metrics = json.loads(done.stdout)
            result[key] |= {name: metrics[name] for name in ("n_structures", "is_worse", "warnings")}
            errors = {k: (metrics["valid_before"][k], v) for k, v in metrics["valid"].items() if "rmse" in k}
            result[key]["before_after"] = {k: [round(x, 3) for x in v] for k, v in errors.items()}
        else:
            result[key]["said"] = done.stderr.strip().splitlines()[-1:]
        print(f"{key:34s} {result[key]}", flush=True)
        yield result


def message(model, data) -> str | None:
    """What is said of the data, if anything."""
    try:
        check_conventions(model, as_source(data))
    except pathtune.InputError as error:
        return str(error)
    return None


def planted(model, sets) -> list[dict]:
    rows = []
    for name in sets:
        frames = pathtune.read_structures(DATA / f"{name}.extxyz.xz")
        frames = [s for s in frames if set(s.atomic_numbers.tolist()) <= set(model.atomic_numbers)]
        for mistake, (change, label, words) in PLANTED.items():
            if not all(label in s.labels for s in frames):
                continue
            said = message(model, [change(s) for s in frames])
            rows.append({"set": name, "mistake": mistake, "is_named": bool(said and words in said), "said": said})
            print(f"{name:40s} {mistake:42s} {'named' if rows[-1]['is_named'] else f'NOT NAMED: {said}'}", flush=True)
        said = message(model, frames)
        rows.append({"set": name, "mistake": None, "is_named": said is None, "said": said})
        print(f"{name:40s} {'nothing planted':42s} {said or 'no alarm'}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=tuple(UNSEEN))
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--resume", action="store_true", help="keep the trainings that are there")
    args = parser.parse_args()
    model = pathtune.load(model_of(args.model))

    def keep(part: str, found) -> None:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results.setdefault(args.model, {})[part] = found
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")

    if "sets" in args.part:
        keep("sets", table(model))
    if "planted" in args.part:
        keep("planted", planted(model, UNSEEN[args.model]))
    if "trained" in args.part:
        known = json.loads(RESULTS.read_text()).get(args.model, {}).get("trained", {}) if args.resume else {}
        for found in trained(args.model, model, known):
            keep("trained", found)


if __name__ == "__main__":
    main()
