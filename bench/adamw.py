"""The other optimizer: AdamW, its rate constant for half of the run and then linear to zero, in place of schedule-free.

    python bench/adamw.py [SET ...]    # ethanol50 ethanol450

Everything else is `fit` as it is: data, loss, clipping, narrowing. Four rates an arm, the best by validation
counts. The default runs of schedule-free stand in bench/results/optimiser.jsonl. Results are kept one by one in
bench/results/adamw.jsonl. PATHTUNE_DATA as in CONTRIBUTING.md; one thread; seed 0.
"""

import functools
import pathlib
import sys

import torch

import kept
import optimiser
import pathtune
from pathtune.data import elements_of
from pathtune.ops.allocator import keep_large_blocks
from pathtune.training import loop

RESULTS = pathlib.Path(__file__).parent / "results" / "adamw.jsonl"
RATES = {"full": (0.001, 0.003, 0.01, 0.03), "3 %": (0.01, 0.03, 0.1, 0.3), "10 %": (0.01, 0.03, 0.1, 0.3)}


class ConstantThenLinear(torch.optim.AdamW):
    """AdamW with the interface of schedulefree's optimizer; `n_steps` of the run is set on the class."""

    n_steps = 1

    def __init__(self, groups, lr):
        plain = [{key: value for key, value in group.items() if key not in ("r", "betas")} for group in groups]
        super().__init__(plain, lr=lr, betas=(0.9, 0.999))
        self.done = 0

    def train(self):
        """There is one sequence only."""

    def eval(self):
        """There is one sequence only."""

    def step(self):
        """A step at the rate of this moment."""
        factor = min(1.0, 2 * (1 - self.done / self.n_steps))
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= factor
        super().step()
        for group, rate in zip(self.param_groups, rates):
            group["lr"] = rate
        self.done += 1


def run(name, arm, rate, seed=0):
    """Train with AdamW and test."""
    splits, epochs, batch_size = optimiser.read_set(name)
    kind, share = optimiser.ARMS[arm]
    options = {"delta": pathtune.SparseDelta(active_share=share)} if share else {}
    model = pathtune.adapt(optimiser.load_base(name), [kind], elements_of(splits["train"]), options, seed)
    config = pathtune.FitConfig(epochs=epochs, batch_size=batch_size, seed=seed, lr=rate)
    ConstantThenLinear.n_steps = epochs * -(-len(splits["train"]) // batch_size)
    loop.schedulefree.AdamWScheduleFree = ConstantThenLinear
    history = pathtune.fit(model, splits["train"], splits["valid"], config)
    scores = pathtune.evaluate(model, splits["test"])
    kept = {key: round(value, 4) for key, value in scores.items() if "mae" in key}
    valid = min(line["valid_loss"] for line in history.epochs if line["is_eligible"])
    return {"set": name, "arm": arm, "rate": rate, "seed": seed, "valid_loss": round(valid, 6), **kept}


def main(names):
    """Every run that is not there yet."""
    torch.set_num_threads(1)
    keep_large_blocks()
    for name in names:
        for arm, rates in RATES.items():
            for rate in rates:
                of = {"set": name, "arm": arm, "rate": rate}
                kept.keep(RESULTS, of, functools.partial(run, name, arm, rate))


if __name__ == "__main__":
    main(sys.argv[1:] or ["ethanol50", "ethanol450"])
