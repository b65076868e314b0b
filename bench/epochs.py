"""How many epochs full fine-tuning needs, with Adam's steps in the weights and in the Kronecker basis.

    python bench/epochs.py       # MACE_SPICE on three molecules, 50 to 100 structures; one thread

Default rates, which follow the length of the run; two seeds. Results are kept one by one in bench/results/epochs.jsonl.
PATHTUNE_DATA as in CONTRIBUTING.md. `python bench/tables.py` writes the table of docs/results.md.
"""

import functools
import itertools
import pathlib

import torch

import kept
import optimiser
import pathtune
from pathtune.data import elements_of
from pathtune.ops.allocator import keep_large_blocks

RESULTS = pathlib.Path(__file__).parent / "results" / "epochs.jsonl"
SETS, ARMS, EPOCHS, SEEDS = ("ethanol50", "salicylic", "paracetamol"), ("full", "kron"), (8, 15, 30, 60), (0, 1)


def run(name, arm, epochs, seed):
    """Train with default settings and test."""
    splits, _, batch_size = optimiser.read_set(name)
    model = pathtune.adapt(optimiser.load_base(name), [arm], elements_of(splits["train"]), {}, seed)
    config = pathtune.FitConfig(epochs=epochs, batch_size=batch_size, seed=seed)
    history = pathtune.fit(model, splits["train"], splits["valid"], config)
    scores = pathtune.evaluate(model, splits["test"])
    found = {key: round(value, 4) for key, value in scores.items() if "mae" in key}
    return {"frames": len(splits["train"]), **found, "seconds": round(history.epochs[-1]["seconds"], 1)}


def main():
    """Every run that is not there yet."""
    torch.set_num_threads(1)
    keep_large_blocks()
    for seed, name, arm, epochs in itertools.product(SEEDS, SETS, ARMS, EPOCHS):
        of = {"set": name, "arm": arm, "epochs": epochs, "seed": seed}
        kept.keep(RESULTS, of, functools.partial(run, name, arm, epochs, seed))


if __name__ == "__main__":
    main()
