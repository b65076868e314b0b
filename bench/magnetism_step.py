"""What a spin layer adds to a training step: processor time of both steps, in turns, on fe_fcc_deepspin.

    python bench/magnetism_step.py    # needs sevenn and PATHTUNE_DATA; writes bench/results/magnetism_step.json

A step is loss and gradients of 4 structures of 32 atoms, with SevenNet-0 on one thread. Ratios are of medians.
"""

import json
import pathlib
import statistics
import time
import warnings

import torch

import magnetism
import pathtune
from pathtune.ops.allocator import keep_large_blocks

RESULT = pathlib.Path(__file__).parent / "results" / "magnetism_step.json"
TURNS, FIRST = 15, 2  # turns, of which the first are not counted
PAIRS = {"full": ("full",), "sparse 3 %": ("sparse",)}


def step_of(kinds, order=None):
    """A step of an arm on one batch."""
    options = {"sparse": pathtune.SparseDelta(active_share=0.03)}
    if order:
        kinds, options["spin"] = (*kinds, "spin"), pathtune.SpinLayer(spin=("Fe",), spin_order=order)
    train = magnetism.splits_of(magnetism.FE)["train"]
    model = pathtune.adapt(pathtune.load("sevennet:7net-0"), kinds, train.elements, options)
    if order:
        with torch.no_grad():
            for parameter in magnetism.spin_of(model).parameters():
                parameter.add_(1e-3 * torch.randn(parameter.shape))
    config = pathtune.FitConfig(loss_scale="spread")
    scale, parameters = config.scale_of(model, train), model.trainable()

    def step(k):
        batch = model.batch(train, range(4 * k, 4 * k + 4))
        began = time.process_time()
        loss = config.loss_of(model(batch, outputs=batch.wanted, training=True), batch, scale)
        loss.backward(inputs=parameters)
        return time.process_time() - began

    return step


def main():
    """All pairs."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_large_blocks()
    result = {}
    for arm, kinds in PAIRS.items():
        steps = {"plain": step_of(kinds), "pair": step_of(kinds, "pair"), "many-body": step_of(kinds, "many-body")}
        times = {name: [] for name in steps}
        for turn in range(TURNS):
            for name, step in steps.items():
                times[name].append(step(turn))
        medians = {name: statistics.median(values[FIRST:]) for name, values in times.items()}
        result[arm] = {
            **{f"{name}_ms": round(1000 * value, 1) for name, value in medians.items()},
            **{f"{name}_ratio": round(medians[name] / medians["plain"], 3) for name in ("pair", "many-body")},
        }
        print(arm, result[arm], flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
