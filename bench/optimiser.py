"""Force errors of `fit` with default settings: no option but the arm, the share and the epochs; three seeds.

    python bench/optimiser.py SET [SET ...]   # ethanol450 ethanol50 3bpa salicylic paracetamol
    python bench/optimiser.py SET [SET ...]   # with sevenn: agau copper lithium tungsten hfo2

Results are kept one by one in bench/results/optimiser.jsonl and not repeated. PATHTUNE_DATA as in CONTRIBUTING.md; one
thread. MACE_SPICE for molecules, SevenNet-0 for crystals. `python bench/tables.py` writes the table of docs/results.md.
"""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch

import kept
import pathtune
from pathtune.data import elements_of
from pathtune.ops.allocator import keep_large_blocks

DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
RESULTS = pathlib.Path(__file__).parent / "results" / "optimiser.jsonl"
SEEDS = (0, 1, 2)
ARMS = {"full": ("full", None), "3 %": ("sparse", 0.03), "10 %": ("sparse", 0.1), "auto": ("sparse", "auto")}
# folder, files of the three splits, frames of each, epochs, batch size
SETS = {
    "ethanol450": ("molecules/ethanol_botnet", ("train", "valid", "test_MD"), (None, 60, 400), 40, 8),
    "ethanol50": ("rmd17/ethanol", ("train", "valid", "test"), (50, None, 400), 100, 8),
    "3bpa": ("molecules/3bpa", ("train", "valid", "test_mixedT"), (None, None, 200), 40, 8),
    "agau": ("lam/agau_pbed3", ("train", "valid", "test"), (52, 34, 71), 28, 4),
    "copper": ("crystals/dnp_Cu", ("train", "valid", "test"), (60, 30, 30), 16, 4),
    # Sets on which nothing was chosen; frames and epochs were fixed before the first run.
    "salicylic": ("rmd17/salicylic", ("train", "valid", "test"), (None, None, 400), 60, 8),
    "paracetamol": ("rmd17/paracetamol", ("train", "valid", "test"), (None, None, 400), 60, 8),
    "lithium": ("crystals/mlearn_Li", ("train", "valid", "test"), (60, None, None), 16, 4),
    "tungsten": ("crystals/w_snap", ("train", "valid", "test"), (60, 30, 60), 16, 4),
    "hfo2": ("lam/hfo2_dpgen", ("train", "valid", "test"), (60, 30, 40), 16, 4),
    "titanium": ("crystals/dnp_Ti", ("train", "valid", "test"), (60, 30, 60), 16, 4),
    "silicon": ("crystals/mlearn_Si", ("train", "valid", "test"), (60, None, None), 16, 4),
}
MOLECULES = ("ethanol450", "ethanol50", "3bpa", "salicylic", "paracetamol")
ONE_SEED = ("lithium", "tungsten", "hfo2")
NO_10 = ("salicylic", "paracetamol", "silicon", "titanium")
DRAWN = 450  # of the 900 frames of ethanol450, by seed 0


def evenly(structures, n):
    """`n` structures at equal distances, as far as there are so many."""
    n = min(n, len(structures))
    return [structures[i * len(structures) // n] for i in range(n)]


def read_set(name, all_training=False):
    """The three splits, the epochs and the batch size; with `all_training` every training frame of the files."""
    folder, files, sizes, epochs, batch_size = SETS[name]
    sizes = (None, *sizes[1:]) if all_training else sizes
    splits = {}
    for split, file, n in zip(("train", "valid", "test"), files, sizes):
        structures = pathtune.read_structures(DATA / folder / f"{file}.extxyz.xz")
        take_first = name.startswith("ethanol")
        splits[split] = structures if n is None else structures[:n] if take_first else evenly(structures, n)
    if name == "ethanol450" and not all_training:
        order = np.random.RandomState(0).permutation(len(splits["train"]))[:DRAWN]
        splits["train"] = [splits["train"][i] for i in order]
    return splits, epochs, batch_size


def load_base(name):
    """The pretrained model of a set, in float32."""
    if name not in MOLECULES:
        return pathtune.load("sevennet:7net-0")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "spice.model"
        command = [sys.executable, str(DATA / "weights" / "to_mace.py"), "mace_spice_32x0e", str(file)]
        subprocess.run(command, check=True, capture_output=True)
        return pathtune.load(file, dtype="float32")


def run(name, arm, seed):
    """Train with default settings and test."""
    splits, epochs, batch_size = read_set(name)
    kind, share = ARMS[arm]
    base = load_base(name)
    if share == "auto":
        share = pathtune.share_for(base, splits["train"]).share
    options = {"delta": pathtune.SparseDelta(active_share=share)} if share else {}
    model = pathtune.adapt(base, [kind], elements_of(splits["train"]), options, seed)
    config = pathtune.FitConfig(epochs=epochs, batch_size=batch_size, seed=seed)
    history = pathtune.fit(model, splits["train"], splits["valid"], config)
    scores = pathtune.evaluate(model, splits["test"])
    kept = {key: round(value, 4) for key, value in scores.items() if "mae" in key}
    seconds = round(history.epochs[-1]["seconds"], 1)
    of = {"set": name, "arm": arm, "share": share, "seed": seed}
    return {**of, **kept, "values": model.counts()["active"], "seconds": seconds}


def main(names):
    """Every run that is not there yet, seed by seed."""
    torch.set_num_threads(1)
    keep_large_blocks()
    for seed in SEEDS:
        for name in names:
            for arm in ARMS:
                if (arm == "10 %" and name in NO_10) or (seed and name in ONE_SEED):
                    continue
                of = {"set": name, "arm": arm, "seed": seed}
                kept.keep(RESULTS, of, functools.partial(run, name, arm, seed))


if __name__ == "__main__":
    main(sys.argv[1:])
