"""Force errors of nequix-mp-1 after `fit`: 3 % of the weights, `auto` and all of them, at up to four learning rates.

    python bench/nequix_fits.py [--seeds 0] [--sets copper silicon]

The rates are RATES times those of docs/decisions/0010-optimiser.md, of which a nequix model has half by default; the
lower validation loss decides. Copper of crystals/dnp_Cu and silicon of crystals/mlearn_Si, 60 structures, 16 epochs:
sets of bench/optimiser.py. Results are kept one by one in bench/results/nequix_fits.jsonl and not repeated. Seconds are
the processor's, for the training alone. PATHTUNE_DATA as in CONTRIBUTING.md; one thread.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import pathlib
import time

import torch

import kept
import pathtune
from optimiser import ARMS, DATA, read_set
from pathtune.data import elements_of
from pathtune.ops.allocator import keep_large_blocks
from pathtune.training.options import learning_rate

RATES = (0.5, 0.25, 1.0, 2.0)
RESULTS = pathlib.Path(__file__).parent / "results" / "nequix_fits.jsonl"


def scores_of(model, structures):
    """Mean absolute errors by name."""
    return {key: round(value, 4) for key, value in pathtune.evaluate(model, structures).items() if "mae" in key}


def run(name, arm, seed, factor):
    """Train with default settings and test; `before` is the model as it is, with E0 refitted."""
    splits, epochs, batch_size = read_set(name)
    base = pathtune.load(DATA / "weights" / "nequix-mp-1.nqx")
    kind, share = ARMS[arm]
    if share == "auto":
        share = pathtune.share_for(base, splits["train"]).share
    options = {"delta": pathtune.SparseDelta(active_share=share)} if share else {}
    model = pathtune.adapt(base, [kind], elements_of(splits["train"]), options, seed)
    config = pathtune.FitConfig(epochs=epochs, batch_size=batch_size, seed=seed)
    steps = epochs * math.ceil(len(splits["train"]) / batch_size)
    config = dataclasses.replace(config, lr=factor / base.backbone.rate * learning_rate(model, config, steps))
    began = time.process_time()
    history = pathtune.fit(model, splits["train"], splits["valid"], config)
    seconds = round(time.process_time() - began, 1)
    refitted, _ = pathtune.refit_e0(base, splits["train"])
    best = history.epochs[history.best_epoch - 1]
    return {
        **{"set": name, "arm": arm, "share": share, "seed": seed, "factor": factor},
        **{"valid_loss": round(best["valid_loss"], 6), **scores_of(model, splits["test"])},
        **{"values": model.counts()["active"], "processor_seconds": seconds},
        "before": scores_of(refitted, splits["test"]),
    }


def main():
    """Every run that is not there yet, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sets", nargs="+", default=["copper", "silicon"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    for seed, factor, name, arm in itertools.product(args.seeds, RATES, args.sets, ("3 %", "full", "auto")):
        of = {"set": name, "arm": arm, "seed": seed, "factor": factor}
        kept.keep(RESULTS, of, functools.partial(run, name, arm, seed, factor))


if __name__ == "__main__":
    main()
