"""Force errors of `fit` at multiples of the default learning rate, with a warm-up, with another beta2.

    python bench/rates.py SET [SET ...] [--factors 1 0.5] [--warm-ups 0 0.1] [--beta2s 0.999] [--arms full auto]

Sets, structures and epochs are those of bench/optimiser.py (agau, copper: the environment of sevenn); `nequix-copper`
is copper with nequix-mp-1. Every other option has its default. `factor` is to the rates of
docs/decisions/0010-optimiser.md, `warm_up` the part of the steps in which the rate rises to it, `beta2` the weight of
the past in the mean of squared gradients. Results are kept one by one in bench/results/rates.jsonl and not repeated.
PATHTUNE_DATA as in CONTRIBUTING.md; one thread.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import pathlib
import unittest.mock

import torch

import kept
import pathtune
from optimiser import ARMS, DATA, load_base, read_set
from pathtune.adaptations.averaging import averaging
from pathtune.data import elements_of
from pathtune.ops.allocator import keep_large_blocks
from pathtune.training.options import learning_rate

RESULTS = pathlib.Path(__file__).parent / "results" / "rates.jsonl"
NEQUIX = "nequix-"
RADIAL = " with radial"  # weights among the reachable
OF = ("seed", "set", "factor", "warm_up", "beta2", "arm")


def run(name, arm, seed, factor, warm_up, beta2):
    """Train at `factor` times the default rate, which is reached after `warm_up` of the steps, and test."""
    data = name.removeprefix(NEQUIX)
    splits, epochs, batch_size = read_set(data)
    base = pathtune.load(DATA / "weights" / "nequix-mp-1.nqx") if name.startswith(NEQUIX) else load_base(data)
    kind, share = ARMS[arm.removesuffix(RADIAL)]
    if share == "auto":
        share = pathtune.share_for(base, splits["train"]).share
    scope = ("linear", "radial") if arm.endswith(RADIAL) else ("linear",)
    options = {"delta": pathtune.SparseDelta(active_share=share, scope=scope)} if share else {}
    model = pathtune.adapt(base, [kind], elements_of(splits["train"]), options, seed)
    config = pathtune.FitConfig(epochs=epochs, batch_size=batch_size, seed=seed)
    steps = epochs * math.ceil(len(splits["train"]) / batch_size)
    lr = factor / getattr(base.backbone, "rate", 1.0) * learning_rate(model, config, steps)
    options_of = functools.partial(_averaging, beta2, round(warm_up * steps))
    with unittest.mock.patch("pathtune.training.options.averaging", options_of):
        history = pathtune.fit(model, splits["train"], splits["valid"], dataclasses.replace(config, lr=lr))
    best = history.epochs[history.best_epoch - 1]
    scores = {key: round(value, 4) for key, value in pathtune.evaluate(model, splits["test"]).items() if "mae" in key}
    of = {"set": name, "arm": arm, "share": share, "seed": seed, "factor": factor}
    of |= {"warm_up": warm_up, "beta2": beta2}
    found = {"lr": round(lr, 6), "valid_loss": round(best["valid_loss"], 6), **scores}
    return {**of, **found, "values": model.counts()["active"]}


def _averaging(beta2, warmup_steps, beta1):
    return averaging(beta1) | {"betas": (beta1, beta2), "warmup_steps": warmup_steps}


def main():
    """Every run that is not there yet, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--warm-ups", type=float, nargs="+", default=[0.0, 0.1])
    arms = [*ARMS, *(f"{arm}{RADIAL}" for arm in ARMS)]
    parser.add_argument("--arms", nargs="+", default=["full", "3 %", "auto"], choices=arms)
    parser.add_argument("--beta2s", type=float, nargs="+", default=[0.999])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    for of in itertools.product(args.seeds, args.sets, args.factors, args.warm_ups, args.beta2s, args.arms):
        seed, name, factor, warm_up, beta2, arm = of
        run_it = functools.partial(run, name, arm, seed, factor, warm_up, beta2)
        kept.keep(RESULTS, dict(zip(OF, of)), run_it)


if __name__ == "__main__":
    main()
