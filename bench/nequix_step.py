"""Processor seconds of a training step of nequix-mp-1: the plain module, all weights and 3 % of them on our kernels.

    python bench/nequix_step.py [--atoms 64] [--rounds 5]

For machines that are not quiet; `pathtune bench step --model nequix-mp-1` measures seconds of the clock. The plain
module (python/pathtune/backbones/nequix_plain.py) is made of e3nn's linears and tensor products, as the package's torch
side is, which was not timed. One thread; medians; the agreement is measured in the same run. PATHTUNE_DATA as in
CONTRIBUTING.md. Result: bench/results/nequix_step.json.
"""

import argparse
import json
import pathlib
import statistics
import time

import torch

from pathtune.benchmark import cases, step
from pathtune.data import elements_of

NAME = "nequix-mp-1"
RESULTS = pathlib.Path(__file__).parent / "results" / "nequix_step.json"


def seconds(function, rounds):
    """Median processor seconds of a call, after one that warms up."""
    function()
    times = []
    for _ in range(rounds):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return statistics.median(times)


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    module, elements = cases.build(NAME), elements_of(cases.structures(NAME, args.atoms))
    arms = {"plain": ("reference", "full", 1.0), "full": ("cpu", "full", 1.0), "sparse 3 %": ("cpu", "sparse", 0.03)}
    models = {name: step.make_model(module, *arm, elements) for name, arm in arms.items()}
    batch = step.make_batch(models["full"], NAME, args.atoms)
    kinds = {"training step": step.training_step, "energies and forces": step.inference_step}
    measured = {
        what: {name: seconds(make(model, batch), args.rounds) for name, model in models.items()}
        for what, make in kinds.items()
    }
    result = {
        "model": NAME,
        "n_atoms": batch.n_nodes,
        "n_edges": batch.sender.numel(),
        "processor_seconds": measured,
        "times_faster": {
            what: {name: round(of["plain"] / value, 1) for name, value in of.items()} for what, of in measured.items()
        },
        "agreement": step.agreement(models["plain"], models["full"], batch),
        "machine": step.machine(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
