"""Spin layers on the magnetic sets: SevenNet-0, started by least squares, and trained with every arm.

    python bench/magnetism.py start               # before any step of training: bench/results/magnetism.jsonl
    python bench/magnetism.py train [SEED ...]    # trained: bench/results/magnetism_trained.jsonl

Both need sevenn and PATHTUNE_DATA, write line by line and skip the lines that are there. Seed 0 trains each arm with
two learning rates, its default times RATES (at their defaults, full and sparse fine-tuning diverge here); other seeds
with the rate of the lower validation loss.
"""

import dataclasses
import functools
import math
import os
import pathlib
import sys
import time
import warnings

import torch

import kept
import magnetism_frozen
import pathtune
from pathtune.data import as_source, batches
from pathtune.ops.allocator import keep_large_blocks
from pathtune.training.options import learning_rate

DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data")) / "magnetic"
RESULTS = pathlib.Path(__file__).parent / "results"
STARTS, TRAINED = RESULTS / "magnetism.jsonl", RESULTS / "magnetism_trained.jsonl"
STATES = pathlib.Path(os.environ.get("PATHTUNE_STATES", "/tmp/pathtune_magnetism"))  # of tuned models: to go on from
NIO = {"magforces_part": "perpendicular", "magforces_scale": "fit"}
START_CASES = (
    ("nio_deepspin", "none", {}),
    ("nio_deepspin", "start", {}),
    ("nio_deepspin", "start, perpendicular", {"magforces_part": "perpendicular"}),
    ("nio_deepspin", "start, perpendicular, fitted scale", NIO),
    ("fe_fcc_deepspin", "none", {}),
    ("fe_fcc_deepspin", "start", {}),
    ("fe_fcc_defect_deepspin", "none", {}),
    ("fe_fcc_defect_deepspin", "start", {}),
)
RATES = {"full": (0.3, 0.1), "sparse": (0.3, 0.1), "spin": (1.0, 0.3)}  # by the first kind of an arm
BATCH = 4
FORCES_WEIGHT = 200.0  # twice the default: each label's error is divided by its spread, and forces are the hardest
GROUPS = {
    "cold": ("FCC_Fe/iter-1", "FCC_Fe/iter-2", "FCC_Fe/iter-3", "FCC_Fe/iter-7"),
    "warm": ("FCC_Fe/iter-4",),
    "hot": ("FCC_Fe/iter-5", "FCC_Fe/iter-6"),
}
FE, DEFECT = "fe_fcc_deepspin", "fe_fcc_defect_deepspin"
PAIR, MANY = {}, {"spin_order": "many-body"}
# set, arm: kinds, options of the spin layer, epochs, and what else
CASES = {
    (FE, "full + spin"): (("full", "spin"), PAIR, 5, {}),
    (FE, "full"): (("full",), None, 5, {}),
    (FE, "3 % + spin"): (("sparse", "spin"), PAIR, 5, {}),
    (FE, "frozen + pair"): (("spin",), PAIR, 180, {"keeps": True}),  # less processor time than full + spin
    (FE, "frozen + many-body"): (("spin",), MANY, 45, {"keeps": True}),
    (FE, "full + spin, no T labels"): (("full", "spin"), PAIR, 5, {"drops": "magforces"}),
    ("nio_deepspin", "frozen + pair"): (("spin",), NIO, 45, {"keeps": True}),
    ("nio_deepspin", "frozen + many-body"): (("spin",), {**NIO, **MANY}, 45, {"keeps": True}),
    (DEFECT, "full, after fe_fcc"): (("full",), None, 6, {"after": (FE, "full")}),
    (DEFECT, "full + spin, after fe_fcc"): (("full", "spin"), PAIR, 6, {"after": (FE, "full + spin")}),
}


def splits_of(name):
    """Training, validation and test frames of a set."""
    return {split: as_source(DATA / name / f"{split}.extxyz.xz") for split in ("train", "valid", "test")}


def element_of(name):
    return "Ni" if name.startswith("nio") else "Fe"


def spin_of(model):
    return next((c for c in model.adaptation.parts() if c.kind == "spin"), None)


def errors(scores, element):
    """Mean absolute errors, T of the magnetic atoms, and those of the groups."""
    found = {key: scores[key] for key in scores if "_mae_" in key}
    found |= {key: value for key, value in scores["per_element"].get(element, {}).items() if "magforces_mae_" in key}
    for group, types in GROUPS.items():
        mine = [scores["per_config_type"][t] for t in types if t in scores["per_config_type"]]
        n = sum(one["n_structures"] for one in mine)  # of as many atoms each
        keys = [key for key in found if n and key in mine[0]]
        found |= {f"{group} {k}": sum(one["n_structures"] * one[k] for one in mine) / n for k in keys}
    return {key: float(f"{value:.5g}") for key, value in found.items()}


def started(name, layer, options):
    """Test errors of one case before training."""
    splits, element = splits_of(name), element_of(name)
    base, _ = pathtune.refit_e0(pathtune.load("sevennet:7net-0"), splits["train"])
    model, summary = base, {}
    if layer != "none":
        train = splits["train"]
        model = pathtune.adapt(base, ["spin"], train.elements, {"spin": pathtune.SpinLayer(spin=(element,), **options)})
        spin_of(model).begin(model, batches(model, train, 1), None)
        found = spin_of(model).consistency
        summary = {"magforces_scale": spin_of(model).summary()["magforces_scale"]}
        summary["check"] = None if found is None else dataclasses.asdict(found)
    return {"set": name, "layer": layer, "frames": len(splits["train"]), **summary,
            **errors(pathtune.evaluate(model, splits["test"]), element)}  # fmt: skip


def without(source, label):
    """The frames without a label."""
    frames = [source.read(i) for i in range(len(source))]
    for frame in frames:
        frame.labels.pop(label, None)
    return as_source(frames)


def state_file(name, arm, seed):
    return STATES / f"{name}, {arm}, {seed}.pt"


def trained(name, arm, seed, factor):
    """One run and its errors."""
    kinds, layer, epochs, more = CASES[name, arm]
    splits, element = splits_of(name), element_of(name)
    train, valid = splits["train"], splits["valid"]
    if "drops" in more:
        train, valid = without(train, more["drops"]), without(valid, more["drops"])
    options = {"sparse": pathtune.SparseDelta(active_share=0.03)}
    if layer is not None:
        options["spin"] = pathtune.SpinLayer(spin=(element,), **layer)
    base = pathtune.load("sevennet:7net-0")
    model = pathtune.adapt(base, kinds, train.elements, options, seed)
    if "after" in more:
        state = torch.load(state_file(*more["after"], seed), weights_only=False)
        model.adaptation.restore(state["adaptation"])
        model.set_e0(state["e0"])
    steps = epochs * math.ceil(len(train) / BATCH)
    weights = {**pathtune.FitConfig().weights, "forces": FORCES_WEIGHT}
    config = pathtune.FitConfig(
        epochs=epochs, batch_size=BATCH, seed=seed, loss_scale="spread", weights=weights, check_units=False
    )
    rate = factor * learning_rate(model, config, steps)
    config = dataclasses.replace(config, lr=rate)
    began = time.process_time()
    fit = magnetism_frozen.fit if more.get("keeps") else pathtune.fit
    history = fit(model, train, valid, config)
    spent = time.process_time() - began
    spin = spin_of(model)
    n_spin = 0 if spin is None else sum(p.numel() for p in spin.parameters())
    best = history.epochs[history.best_epoch - 1]
    line = {
        "set": name, "arm": arm, "seed": seed, "factor": factor, "lr": float(f"{rate:.4g}"), "steps": steps,
        "batch": BATCH, "best_epoch": history.best_epoch, "valid_loss": float(f"{best['valid_loss']:.5g}"),
        "n_changed": sum(model.counts()[key] for key in ("active", "added")), "n_spin": n_spin,
        **({} if spin is None else spin.summary()),
        "valid": errors(pathtune.evaluate(model, splits["valid"]), element),
        "test": errors(pathtune.evaluate(model, splits["test"]), element), "cpu_s": round(spent, 1),
    }  # fmt: skip
    return line, {"adaptation": model.adaptation.state(), "e0": model.e0}


def best_of(lines, name, arm, seed=0):
    """The line of the lowest validation loss."""
    mine = [r for r in lines if (r["set"], r["arm"], r["seed"]) == (name, arm, seed)]
    return min(mine, key=lambda r: r["valid_loss"], default=None)


def train_all(seeds, only=""):
    """Runs that are not there; the state of the best of each arm and seed is kept for what goes on from it."""
    STATES.mkdir(exist_ok=True)
    order = [(seed, is_after, k) for seed in seeds for is_after in (False, True)
             for k in ((0, 1) if seed == 0 else (None,))]  # fmt: skip
    for seed, is_after, k in order:
        for name, arm in CASES:
            lines = kept.lines_of(TRAINED)
            rates = RATES[CASES[name, arm][0][0]]
            rate = best_of(lines, name, arm)["factor"] if k is None else rates[k]
            is_done = any((r["set"], r["arm"], r["seed"], r["factor"]) == (name, arm, seed, rate) for r in lines)
            if is_done or only not in f"{name}, {arm}" or is_after != (name == DEFECT):
                continue
            line, state = trained(name, arm, seed, rate)
            kept.write(TRAINED, line)
            if best_of(kept.lines_of(TRAINED), name, arm, seed)["factor"] == rate:
                torch.save(state, state_file(name, arm, seed))


def main(what="start", *words):
    """Run what is not there."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_large_blocks()
    if what == "start":
        for name, layer, options in START_CASES:
            kept.keep(STARTS, {"set": name, "layer": layer}, functools.partial(started, name, layer, options))
    else:
        seeds = [int(word) for word in words if word.isdigit()] or [0, 1, 2]
        train_all(seeds, next((word for word in words if not word.isdigit()), ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
