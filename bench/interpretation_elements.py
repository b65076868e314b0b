"""Element by degree l: the map of the published claim, on one small MACE that covers the periodic table.

    python bench/interpretation_elements.py    # everything that is missing; a killed run goes on
    python bench/interpretation_map.py         # tests of what the runs say

Needs mace-torch. A MACE of 32 channels with species linears of l = 0, 1 and 2 is pretrained on 80 elements
(MatterSim's structures at high temperature and pressure) by demo/pretrain.py's own functions, and then:

sets      tuned to copper, silver with gold, and beryllium with tungsten; two seeds, 3 % of the reachable weights
planted   labels of a copy whose weights of one element and one l were moved: does the map show which?
table     tuned to structures of all these elements near equilibrium (MPtrj): are the cells of l = 2 of transition
          metals fuller than those of other elements, and than the base's Fisher information says?

Runs are kept in bench/results/interpretation_elements.jsonl and not repeated; the pretraining's checkpoint lies in
runs/elements. One thread. PATHTUNE_DATA as in CONTRIBUTING.md.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sys

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

import interpretation
import pathtune
from pathtune.data import elements_of
from pathtune.importance import overlap
from pathtune.ops.allocator import keep_large_blocks
from pathtune.training.folder import RunFolder
from pathtune.training.progress import Progress

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "demo"))
import pretrain  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "interpretation_elements.jsonl"
WORK = ROOT / "runs" / "elements"
DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
PRETRAINING, EVERY = "retention/mpf_TP/test", 15  # every 15th structure is held out
MODEL = pretrain.MODEL | {"hidden_irreps": "32x0e+32x1o", "r_max": 4.5}
TRAINING = pretrain.TRAINING | {"epochs": 40, "batch_size": 8, "check_units": False}
ENOUGH = 24  # epochs, after which the pretraining ends, though its averages are those of a run of 40: what time allowed
SETS = {"copper": "crystals/dnp_Cu", "silver and gold": "lam/agau_pbed3", "beryllium and tungsten": "crystals/bew_snap"}
TABLE, MOST_ATOMS, N_TABLE = "retention/mptrj_random_1k/test", 40, (240, 80)
N_TRAIN, N_VALID, EPOCHS = 40, 16, 8
SEEDS = (0, 1)
sys.modules["pathtune.importance.measure"].FISHER_FRAMES = N_TABLE[1]  # 16 would not hold all elements
PLANTED = [(symbol, degree) for symbol in ("Be", "W") for degree in (0, 1, 2)]


def spaced(structures, n):
    """At most n of them, evenly spaced."""
    n = min(n, len(structures))
    return [structures[i * len(structures) // n] for i in range(n)]


def read(name):
    """Training and validation structures of one of the sets."""
    parts = [pathtune.read_structures(DATA / SETS[name] / f"{split}.extxyz.xz") for split in ("train", "valid")]
    return [spaced(part, n) for part, n in zip(parts, (N_TRAIN, N_VALID))]


def read_table():
    """Training and validation structures of all elements that the base knows."""
    structures = [s for s in pathtune.read_structures(DATA / f"{TABLE}.extxyz.xz") if len(s) <= MOST_ATOMS]
    known = set(elements_of(read_pretraining()[0]))
    structures = [s for s in structures if set(s.atomic_numbers.tolist()) <= known]
    held_out = structures[::5]
    return [spaced([s for i, s in enumerate(structures) if i % 5], N_TABLE[0]), spaced(held_out, N_TABLE[1])]


def read_pretraining():
    """Structures to pretrain on, and those held out."""
    frames = pathtune.read_structures(DATA / f"{PRETRAINING}.extxyz.xz")
    held_out = [s for i, s in enumerate(frames) if i % EVERY == 0]
    train = [s for i, s in enumerate(frames) if i % EVERY]
    known = set(elements_of(train))
    return train, [s for s in held_out if set(s.atomic_numbers.tolist()) <= known]


class EnoughError(Exception):
    """The pretraining has come to its last epoch."""


class Until(Progress):
    """Ends a run after ENOUGH epochs, from whose last checkpoint the weights are taken."""

    def step(self, epoch, *rest):
        """Of a run that goes on."""
        if epoch >= ENOUGH:
            raise EnoughError
        super().step(epoch, *rest)


def base_model():
    """The pretrained model, which is trained first where it is not there."""
    train, held_out = read_pretraining()
    model = MODEL | {"atomic_numbers": sorted(int(z) for z in elements_of(train))}
    stock = pretrain.build(pretrain.constructor_arguments(train, model))
    tuned = pathtune.unfreeze(pathtune.load(stock), "full")
    config, folder = pathtune.FitConfig(**TRAINING), RunFolder(WORK)
    state = folder.load_checkpoint()
    if state is None or state["epoch"] < ENOUGH:
        about = json.dumps({"model": model, "training": TRAINING})
        with contextlib.suppress(EnoughError), folder.start(f"pretraining = {json.dumps(about)}\n", True):
            pathtune.fit(tuned, train, held_out, config, folder=folder, progress=Until(config.epochs))
        state = folder.load_checkpoint()
    tuned.adaptation.restore(state["best"])
    weights = {name: w.detach().clone() for name, w in tuned.backbone.stock.state_dict().items()}
    stock.load_state_dict(weights)
    result = pathtune.load(stock)

    def judged():
        scores = pathtune.evaluate(result, held_out, batch_size=16)
        size = float(np.sqrt(np.mean(np.concatenate([s.forces for s in held_out]) ** 2)))
        digest = hashlib.sha256(b"".join(w.contiguous().numpy().tobytes() for w in weights.values())).hexdigest()
        return {"n_train": len(train), "n_held_out": len(held_out), "elements": len(model["atomic_numbers"]),
                "n_weights": sum(w.numel() for w in result.backbone.parameters.values()), "epochs": state["epoch"],
                "best_epoch": state["best_epoch"], "pretraining_seconds": round(state["seconds"]),
                "forces_mae_mev_a": scores["forces_mae_mev_a"], "energy_mae_mev_atom": scores["energy_mae_mev_atom"],
                "forces_rms_ev_a": size, "weights_sha256": digest, "groups": {}, "completeness": 1.0}  # fmt: skip

    interpretation.keep({"kind": "base"}, judged, RESULTS)
    return result


def measured(model, train, valid, before):
    """One run: errors, and the map of the elements that it was trained on."""
    found = pathtune.importance(model, valid, elements=elements_of(train))
    cells = [dataclasses.asdict(row) for row in found.elements]
    scores = [pathtune.evaluate(m, valid)["forces_mae_mev_a"] for m in (before, model)]
    return {
        "forces_mae_mev_a": scores,
        "loss": [found.loss_base, found.loss_tuned],
        "groups": {g.group: {"shapley_share": g.shapley_share, "changed": g.changed, "reachable": g.reachable}
                   for g in found.groups},
        "cells": cells,
        "completeness": found.completeness,
        "correlation": found.rate_line.correlation if found.rate_line else None,
    }  # fmt: skip


def two_seeds(base, sets):
    """Two runs of one set, how far they change the same weights, and how many atoms of each element it holds."""
    models = [interpretation.tune(base, sets, seed=seed, epochs=EPOCHS) for seed in SEEDS]
    first, second = (measured(model, *sets, base) for model in models)
    kinds, counts = np.unique(np.concatenate([s.atomic_numbers for s in sets[0]]), return_counts=True)
    atoms = {chemical_symbols[z]: int(n) for z, n in zip(kinds, counts)}
    return {**first, "second": second, "overlap": overlap(*models), "atoms": atoms}


def run_all(base):
    """Every run that is missing."""
    for name in SETS:
        interpretation.keep(
            {"kind": "sets", "set": name}, lambda name=name: two_seeds(base, read(name)), RESULTS
        )
    for symbol, degree in PLANTED:
        def make(symbol=symbol, degree=degree):
            sets = read("beryllium and tungsten")
            truth = interpretation.planted_model(base, degree, sets[0], element=atomic_numbers[symbol])
            sets = [interpretation.relabelled(part, truth) for part in sets]
            return two_seeds(base, sets)
        interpretation.keep({"kind": "planted", "element": symbol, "degree": degree}, make, RESULTS)  # fmt: skip
    interpretation.keep({"kind": "table"}, lambda: two_seeds(base, read_table()), RESULTS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_large_blocks()
    run_all(base_model())
