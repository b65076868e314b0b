"""Error against the share of the weights that may change, for three amounts of data.

    python bench/frontier.py ethanol 3bpa     # MACE_SPICE
    python bench/frontier.py titanium         # with sevenn: SevenNet-0

Default settings but for the arm, the share and the scope; one seed. Results are kept one by one in
bench/results/frontier.jsonl and not repeated. PATHTUNE_DATA as in CONTRIBUTING.md; one thread. bench/tables.py writes
the table.
"""

import functools
import pathlib
import sys
import time

import numpy as np
import torch

import kept
import optimiser
import pathtune
from pathtune.data import elements_of
from pathtune.ops.allocator import keep_large_blocks

RESULTS = pathlib.Path(__file__).parent / "results" / "frontier.jsonl"
SHARES = (0.1, 0.3, 1.0, 0.03, 0.01, 0.005)
SHARES_OF_ALL = (0.03, 0.1)
ALL = ("linear", "contraction", "radial")
OF_CRYSTALS = ("linear", "radial")
# set of bench/optimiser.py whose splits are drawn from -> training frames and their epochs
AMOUNTS = {
    "ethanol": ("ethanol450", {50: 100, 200: 60, 450: 40}),
    "3bpa": ("3bpa", {50: 100, 200: 60, 450: 40}),
    "titanium": ("titanium", {50: 28, 200: 12, 450: 8}),
}


def arms_of(name):
    """Full fine-tuning, every share of the linear weights, some shares of all that can be adapted.

    SevenNet has no contraction.
    """
    yield None, None
    for share in SHARES:
        yield share, ("linear",)
    for share in SHARES_OF_ALL:
        yield share, OF_CRYSTALS if name == "titanium" else ALL


def read(name, n_frames):
    """The splits of a set with `n_frames` training frames, drawn by seed 0, and its batch size."""
    of, _ = AMOUNTS[name]
    splits, _, batch_size = optimiser.read_set(of, all_training=True)
    order = np.random.RandomState(0).permutation(len(splits["train"]))[:n_frames]
    splits["train"] = [splits["train"][i] for i in order]
    return splits, batch_size


def run(name, n_frames, share, scope, seed=0):
    """Train with default settings and test."""
    epochs = AMOUNTS[name][1][n_frames]
    splits, batch_size = read(name, n_frames)
    options = {"delta": pathtune.SparseDelta(active_share=share, scope=scope)} if share else {}
    base = optimiser.load_base(AMOUNTS[name][0])
    model = pathtune.adapt(base, ["sparse" if share else "full"], elements_of(splits["train"]), options, seed)
    config = pathtune.FitConfig(epochs=epochs, batch_size=batch_size, seed=seed)
    began = time.process_time()
    history = pathtune.fit(model, splits["train"], splits["valid"], config)
    seconds = time.process_time() - began
    scores = pathtune.evaluate(model, splits["test"])
    return {
        "set": name,
        "frames": n_frames,
        "share": share,
        "scope": scope and "+".join(scope),
        "seed": seed,
        "steps": epochs * -(-n_frames // batch_size),
        "values": model.counts()["active"],
        "valid_loss": round(min(line["valid_loss"] for line in history.epochs if line["is_eligible"]), 6),
        **{key: round(value, 4) for key, value in scores.items() if "mae" in key},
        "cpu_seconds": round(seconds, 1),
    }


def main(names):
    """Every run that is not there yet."""
    torch.set_num_threads(1)
    keep_large_blocks()
    for name in names:
        for n_frames in AMOUNTS[name][1]:
            for share, scope in arms_of(name):
                of = {"set": name, "frames": n_frames, "share": share, "scope": scope and "+".join(scope)}
                kept.keep(RESULTS, of, functools.partial(run, name, n_frames, share, scope))


if __name__ == "__main__":
    main(sys.argv[1:])
