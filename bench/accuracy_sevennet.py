"""Accuracy and forgetting of SevenNet-0, tuned on four sets: every arm with the same three learning rates, and full
fine-tuning with a fourth, smaller one.

    python bench/accuracy_sevennet.py --out bench/results/accuracy_sevennet.jsonl [--sets agau si] [--seeds 0]
    python bench/accuracy_sevennet.py --out bench/results/accuracy_sevennet.jsonl --sets agau --seeds 1 2 --best-lr

One line of JSON for each finished run, and one for each set's untuned model; a run whose line is there already is
not repeated, so that the whole can be interrupted and continued. Frames are taken evenly from each split, as many
as SETS says. The forces on MPtrj, which SevenNet-0 was trained on, are measured for a run only when its validation
loss is the lowest so far of its set, arm and seed: the others are not reported. Every run has a process of its own.

    python bench/accuracy_sevennet.py --memory --out bench/results/memory_sevennet.json

The peak memory of one epoch of every set and arm, above that of the loaded model and data.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import pathlib
import time

import torch

import pathtune
from pathtune.benchmark.memory import reset_peak, resident
from pathtune.data import Structure, elements_of
from pathtune.ops.allocator import keep_large_blocks

DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
# folder, frames of train, valid and test, epochs, batch size
SETS = {
    "agau": ("lam/agau_pbed3", 52, 34, 71, 28, 4),
    "si": ("crystals/mlearn_Si", 48, 22, 25, 16, 4),
    "cu": ("crystals/dnp_Cu", 60, 30, 30, 16, 4),
    "h2o": ("lam/h2o_pbe0ts", 12, 4, 10, 8, 1),
}
ARMS = {"full": None, "sparse 3 %": {"active_share": 0.03}, "sparse 1 %": {"active_share": 0.01}}
LRS = (0.01, 0.06, 0.12)
LRS_FULL = (0.003, *LRS)
N_RETENTION = 200
BASE = "sevennet:7net-0"
METRICS = ("energy_mae_mev_atom", "forces_mae_mev_a", "stress_mae_gpa")


def evenly(structures: list[Structure], n: int) -> list[Structure]:
    """n of them, evenly spaced."""
    return [structures[i * len(structures) // n] for i in range(min(n, len(structures)))]


def frames(name: str) -> dict[str, list[Structure]]:
    """The three splits of a set."""
    folder, *sizes = SETS[name][:4]
    return {split: evenly(pathtune.read_structures(DATA / folder / f"{split}.extxyz.xz"), n)
            for split, n in zip(("train", "valid", "test"), sizes)}  # fmt: skip


def errors(model: pathtune.Potential, structures: list[Structure]) -> dict[str, float]:
    """Mean absolute errors, rounded."""
    scores = pathtune.evaluate(model, structures, batch_size=4)
    return {key: round(scores[key], 4) for key in METRICS if key in scores}


def arm_model(base: pathtune.Potential, arm: str, elements: tuple[int, ...], seed: int) -> pathtune.Potential:
    """The model that the arm trains."""
    options = ARMS[arm]
    if options is None:
        return pathtune.unfreeze(base, "full", elements)
    return pathtune.sparsify(base, pathtune.SparseDelta(**options), elements, seed)


def untrained(name: str) -> tuple[dict, pathtune.Potential, pathtune.Potential]:
    """A set's splits, the model, and the model with E0 refitted to the set."""
    sets, base = frames(name), pathtune.load(BASE)
    return sets, base, pathtune.refit_e0(base, sets["train"])[0]


def run_alone(name: str, arm: str, lr: float, seed: int, lowest: float) -> dict:
    """A run's line, with the forces on MPtrj where its validation loss is below `lowest`; for its own process."""
    keep_large_blocks()
    *_, epochs, batch_size = SETS[name]
    sets, _, base = untrained(name)
    began = time.perf_counter()
    model = arm_model(base, arm, elements_of(sets["train"]), seed)
    config = pathtune.FitConfig(epochs=epochs, lr=lr, seed=seed, batch_size=batch_size, refit_e0=False)
    history = pathtune.fit(model, sets["train"], sets["valid"], config)
    seconds = time.perf_counter() - began
    line = {
        "set": name, "arm": arm, "lr": lr, "seed": seed, "epochs": epochs, "batch_size": batch_size,
        "n_train": len(sets["train"]), "n_valid": len(sets["valid"]), "n_test": len(sets["test"]),
        "seconds": round(seconds, 1), "threads": torch.get_num_threads(),
        "valid_loss": history.epochs[history.best_epoch - 1]["valid_loss"], "best_epoch": history.best_epoch,
        "counts": model.counts(), "curve": [round(line["valid_loss"], 6) for line in history.epochs],
        "valid": errors(model, sets["valid"]), "test": errors(model, sets["test"]),
    }  # fmt: skip
    if line["valid_loss"] < lowest:
        line["retention_forces_mae_mev_a"] = errors(model, retention_frames())["forces_mae_mev_a"]
    return line


def peak_alone(name: str, arm: str) -> int:
    """Bytes that one epoch takes above the loaded model and data; for its own process, which keeps no blocks."""
    sets, base = frames(name), pathtune.load(BASE)
    model = arm_model(base, arm, elements_of(sets["train"]), 0)
    before = resident("VmRSS")
    reset_peak()
    pathtune.fit(model, sets["train"], sets["valid"], pathtune.FitConfig(epochs=1, batch_size=SETS[name][-1]))
    return resident("VmHWM") - before


def in_own_process(function, *arguments):
    """Its result."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(function, arguments)


def retention_frames() -> list[Structure]:
    """What the model was trained on."""
    return evenly(pathtune.read_structures(DATA / "retention/mptrj_random_1k/test.extxyz.xz"), N_RETENTION)


def untuned(name: str) -> dict:
    """The line of a set's model before any training."""
    sets, base, refitted = untrained(name)
    return {"set": name, "arm": "zero-shot", "test": errors(base, sets["test"]),
            "test_e0": errors(refitted, sets["test"]),
            "retention_forces_mae_mev_a": errors(base, retention_frames())["forces_mae_mev_a"]}  # fmt: skip


def key_of(line: dict) -> tuple:
    """What a run is known by."""
    return line["set"], line["arm"], line.get("lr"), line.get("seed")


def best_lr(lines: list[dict], name: str, arm: str) -> float:
    """The learning rate of the lowest validation loss with seed 0."""
    runs = [r for r in lines if (r["set"], r["arm"], r.get("seed")) == (name, arm, 0)]
    return min(runs, key=lambda r: r["valid_loss"])["lr"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--best-lr", action="store_true", help="only the learning rate that did best with seed 0")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    args = parser.parse_args()
    if args.memory:
        peaks = {name: {arm: in_own_process(peak_alone, name, arm) for arm in args.arms} for name in args.sets}
        result = {"epochs": 1, "threads": torch.get_num_threads(), "peak_bytes": peaks}
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        return
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []

    def add(function, *arguments) -> None:
        line = in_own_process(function, *arguments)
        lines.append(line)
        with open(args.out, "a") as stream:
            stream.write(json.dumps(line) + "\n")
        print(*key_of(line), line["test"], line.get("retention_forces_mae_mev_a"), line.get("seconds"), flush=True)

    for seed, name, arm in itertools.product(args.seeds, args.sets, args.arms):
        if (name, "zero-shot", None, None) not in map(key_of, lines):
            add(untuned, name)
        for lr in LRS_FULL if arm == "full" else LRS:
            if (name, arm, lr, seed) in map(key_of, lines) or (args.best_lr and lr != best_lr(lines, name, arm)):
                continue
            rivals = [r["valid_loss"] for r in lines if (r["set"], r["arm"], r.get("seed")) == (name, arm, seed)]
            add(run_alone, name, arm, lr, seed, min(rivals, default=float("inf")))


if __name__ == "__main__":
    main()
