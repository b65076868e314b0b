"""Accuracy of fine-tuning arms on one data set: every arm, learning rate and seed; the best rate by validation.

    python bench/accuracy.py ethanol --out bench/results/accuracy_ethanol.json

Resumable: finished runs are kept in the output file. Zero-shot errors are with and without the E0 refit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

import torch

import pathtune
from pathtune.data import elements_of

DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
CASES = {
    "ethanol": {"model": "mace_spice_32x0e", "data": "rmd17/ethanol", "train": 50, "test": None},
    "ge": {"model": "mace_gst_64x0e_64x1o", "data": "crystals/mlearn_Ge", "train": None, "test": None},
}
ARMS = ("full", "L", "H")


def build_model(name: str, folder: pathlib.Path) -> pathlib.Path:
    """The stock `.model` file of weights in the data folder, made by the folder's own script."""
    file = folder / f"{name}.model"
    if not file.exists():
        command = [sys.executable, str(DATA / "weights" / "to_mace.py"), name, str(file)]
        import subprocess

        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return file


def errors(scores: dict) -> dict:
    return {k: round(v, 4) for k, v in scores.items() if k.endswith(("mae_mev_atom", "mae_mev_a", "mae_gpa"))}


def one_run(base, arm: str, lr: float, seed: int, epochs: int, batch_size: int, sets: dict) -> dict:
    refitted, _ = pathtune.refit_e0(base, sets["train"])
    elements = elements_of(sets["train"])
    if arm == "full":
        model = pathtune.unfreeze(refitted, "full", elements)
    else:
        model = pathtune.sparsify(refitted, pathtune.SparseDelta(schedule=arm), elements, seed)
    config = pathtune.FitConfig(epochs=epochs, lr=lr, seed=seed, batch_size=batch_size, refit_e0=False)
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
        "valid": errors(pathtune.evaluate(model, sets["valid"])),
        "test": errors(pathtune.evaluate(model, sets["test"])),
        "curve": [round(line["valid_loss"], 6) for line in history.epochs],
    }


def load_sets(case: dict) -> dict:
    read = lambda split, n: pathtune.read_structures(DATA / case["data"] / f"{split}.extxyz.xz", max_frames=n)  # noqa: E731
    return {"train": read("train", case["train"]), "valid": read("valid", None), "test": read("test", case["test"])}


def table(result: dict) -> list[dict]:
    """Per arm: the learning rate with the lowest mean validation loss, mean and spread over seeds on test."""
    rows = []
    for arm in result["arms"]:
        by_lr = {}
        for run in result["runs"]:
            if run["arm"] == arm:
                by_lr.setdefault(run["lr"], []).append(run)
        if not by_lr:
            continue
        lr, runs = min(by_lr.items(), key=lambda item: statistics.mean(r["valid_loss"] for r in item[1]))
        row = {"arm": arm, "lr": lr, "n_seeds": len(runs)}
        for key in runs[0]["test"]:
            values = [r["test"][key] for r in runs]
            row[key] = [round(statistics.mean(values), 3), round(max(values) - min(values), 3)]
        if arm != "full":
            shares = [r["counts"]["active"] / r["counts"]["reachable_weights"] for r in runs]
            row["active_share_of_reachable"] = round(statistics.mean(shares), 4)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--lrs", nargs="+", type=float, default=[3e-3, 1e-2, 3e-2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    case = CASES[args.case]
    sets = load_sets(case)
    base = pathtune.load(build_model(case["model"], pathlib.Path(tempfile.gettempdir())), dtype="float32")
    result = json.loads(args.out.read_text()) if args.out.exists() else {"runs": []}
    settings = {"case": args.case, **case, "epochs": args.epochs, "batch_size": args.batch_size, "lrs": args.lrs,
                "arms": args.arms, "threads": torch.get_num_threads()}  # fmt: skip
    result.update(settings)
    if "zero_shot" not in result:
        result["zero_shot"] = errors(pathtune.evaluate(base, sets["test"]))
        result["zero_shot_e0"] = errors(pathtune.evaluate(pathtune.refit_e0(base, sets["train"])[0], sets["test"]))
    done = {(r["arm"], r["lr"], r["seed"], r["epochs"]) for r in result["runs"]}
    for seed, arm, lr in itertools.product(args.seeds, args.arms, args.lrs):
        if (arm, lr, seed, args.epochs) in done:
            continue
        run = one_run(base, arm, lr, seed, args.epochs, args.batch_size, sets)
        result["runs"].append(run)
        result["table"] = table(result)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(arm, lr, seed, run["test"], run["counts"]["active"], f"{run['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
