"""Accuracy of fine-tuning arms on one data set: every arm with three learning rates, the best by validation.

    python bench/accuracy.py ethanol --out bench/results/accuracy_ethanol.json

Every learning rate is tried with the first seed; the one with the lowest validation loss runs with all seeds.
Resumable: finished runs are kept in the output file. Zero-shot errors are with and without the E0 refit.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch

import pathtune
from pathtune.data import elements_of

DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
CASES = {
    "ethanol": {"model": "mace_spice_32x0e", "data": "rmd17/ethanol", "train": 50, "test": None, "epochs": 100},
    "3bpa": {"model": "mace_spice_32x0e", "data": "molecules/3bpa", "train": 50, "test": None, "epochs": 60,
             "test_split": "test_mixedT"},
    "ge": {"model": "mace_gst_64x0e_64x1o", "data": "crystals/mlearn_Ge", "train": None, "test": None, "epochs": 20},
    "ethanol_sevennet": {"model": "sevennet:7net-0", "data": "rmd17/ethanol", "train": 50, "test": 200, "epochs": 60},
}  # fmt: skip
NARROWED, FIXED = [0.06, 0.12, 0.24], [0.03, 0.06, 0.12]
# An arm: options of the delta (None: all weights are trained) and the learning rates to try.
ARMS = {
    "full": (None, [1e-3, 3e-3, 1e-2]),
    "sparse 3 %": ({"active_share": 0.03}, NARROWED),
    "sparse 1 %": ({"active_share": 0.01}, NARROWED),
    "L": ({"schedule": "L"}, [3e-3, 1e-2, 3e-2]),
    "H": ({"schedule": "H"}, [3e-3, 1e-2, 3e-2]),
    "paper start, 3 %": ({"start": "paper", "active_share": 0.03}, [1e-2, 3e-2, 1e-1]),
    "fisher, 3 %": ({"active_share": 0.03, "score": "fisher"}, NARROWED),
    "gradient, 3 %": ({"active_share": 0.03, "score": "gradient"}, NARROWED),
    "gradient x weight, 3 %": ({"active_share": 0.03, "score": "gradient_weight"}, NARROWED),
    "all candidates at first, 3 %": ({"active_share": 0.03, "initial_share": 1.0}, NARROWED),
    "fixed fisher set, 3 %": ({"active_share": 0.03, "initial_share": 0.03, "score": "fisher"}, FIXED),
    "fixed random set, 3 %": ({"active_share": 0.03, "initial_share": 0.03}, FIXED),
    "regrow, 3 %": ({"active_share": 0.03, "regrow": 0.1}, NARROWED),
    "all scopes, 3 %": ({"active_share": 0.03, "scope": ("linear", "contraction", "radial")}, NARROWED),
}


def model_of(name: str) -> pathlib.Path | str:
    """A name that pathtune knows, or the `.model` file of weights in the data folder, made by its own script."""
    if ":" in name:
        return name
    file = pathlib.Path(tempfile.gettempdir()) / f"{name}.model"
    if not file.exists():
        command = [sys.executable, str(DATA / "weights" / "to_mace.py"), name, str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return file


def errors(scores: dict) -> dict:
    return {k: round(v, 4) for k, v in scores.items() if k.endswith(("mae_mev_atom", "mae_mev_a", "mae_gpa"))}


def make_model(base, arm: str, elements, seed: int):
    options, _ = ARMS[arm]
    if options is None:
        return pathtune.unfreeze(base, "full", elements)
    return pathtune.sparsify(base, pathtune.SparseDelta(**options), elements, seed)


def one_run(base, arm: str, lr: float, seed: int, epochs: int, batch_size: int, sets: dict) -> dict:
    model = make_model(base, arm, elements_of(sets["train"]), seed)
    config = pathtune.FitConfig(epochs=epochs, lr=lr, seed=seed, batch_size=batch_size, refit_e0=False)
    step_0 = errors(pathtune.evaluate(model, sets["valid"]))
    began = time.perf_counter()
    history = pathtune.fit(model, sets["train"], sets["valid"], config)
    seconds = time.perf_counter() - began
    best = history.epochs[history.best_epoch - 1]
    return {
        "arm": arm,
        "lr": lr,
        "seed": seed,
        "epochs": epochs,
        "seconds": round(seconds, 1),
        "valid_loss": best["valid_loss"],
        "best_epoch": history.best_epoch,
        "counts": model.counts(),
        "valid_at_step_0": step_0,
        "valid": errors(pathtune.evaluate(model, sets["valid"])),
        "test": errors(pathtune.evaluate(model, sets["test"])),
        "curve": [round(line["valid_loss"], 6) for line in history.epochs],
    }


def load_sets(case: dict) -> dict:
    read = lambda split, n: pathtune.read_structures(DATA / case["data"] / f"{split}.extxyz.xz", max_frames=n)  # noqa: E731
    test = read(case.get("test_split", "test"), case["test"])
    return {"train": read("train", case["train"]), "valid": read("valid", None), "test": test}


def best_lr(runs: list[dict]) -> float:
    """The learning rate with the lowest validation loss at the first seed."""
    first = min(r["seed"] for r in runs)
    return min((r for r in runs if r["seed"] == first), key=lambda r: r["valid_loss"])["lr"]


def table(runs: list[dict]) -> list[dict]:
    """Per arm, at its best learning rate: mean and spread over the seeds on test."""
    rows = []
    for arm in ARMS:
        mine = [r for r in runs if r["arm"] == arm]
        if not mine:
            continue
        lr = best_lr(mine)
        chosen = [r for r in mine if r["lr"] == lr]
        row = {"arm": arm, "lr": lr, "lrs": sorted({r["lr"] for r in mine}), "n_seeds": len(chosen)}
        for key in chosen[0]["test"]:
            values = [r["test"][key] for r in chosen]
            row[key] = [round(statistics.mean(values), 3), round(max(values) - min(values), 3)]
        if ARMS[arm][0] is not None:
            for name in ("reachable_weights", "adapted_weights", "all_weights"):
                shares = [r["counts"]["active"] / r["counts"][name] for r in chosen]
                row[f"active_share_of_{name}"] = round(statistics.mean(shares), 5)
        row["valid_forces_at_step_0"] = chosen[0]["valid_at_step_0"].get("forces_mae_mev_a")
        row["seconds"] = statistics.median(r["seconds"] for r in chosen)
        rows.append(row)
    return rows


def runs_to_do(arm: str, lrs: list[float], seeds: list[int], done):
    """(lr, seed) one after the other; the later seeds once the first has chosen the rate."""
    for lr in lrs:
        yield lr, seeds[0]
    for seed in seeds[1:]:
        yield best_lr([r for r in done() if r["arm"] == arm]), seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--arms", nargs="+", default=["full", "sparse 3 %", "sparse 1 %"], choices=ARMS)
    parser.add_argument("--lrs", nargs="+", type=float, help="instead of the arms' own three")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="instead of the case's own")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    case = CASES[args.case]
    epochs, sets = args.epochs or case["epochs"], load_sets(case)
    base = pathtune.load(model_of(case["model"]), dtype="float32")
    refitted, _ = pathtune.refit_e0(base, sets["train"])
    result = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    result.update({"case": args.case, **case, "epochs": epochs, "batch_size": args.batch_size,
                   "threads": torch.get_num_threads()})  # fmt: skip
    if "zero_shot" not in result:
        result["zero_shot"] = errors(pathtune.evaluate(base, sets["test"]))
        result["zero_shot_e0"] = errors(pathtune.evaluate(refitted, sets["test"]))
    for arm in args.arms:
        for lr, seed in runs_to_do(arm, args.lrs or ARMS[arm][1], args.seeds, lambda: result["runs"]):
            if any((r["arm"], r["lr"], r["seed"], r["epochs"]) == (arm, lr, seed, epochs) for r in result["runs"]):
                continue
            run = one_run(refitted, arm, lr, seed, epochs, args.batch_size, sets)
            result["runs"].append(run)
            result["table"] = table(result["runs"])
            args.out.write_text(json.dumps(result, indent=1) + "\n")
            print(arm, lr, seed, run["test"], run["counts"]["active"], f"{run['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
