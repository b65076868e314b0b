"""What `--batch-atoms auto` gains and costs, on ethanol. bench/scale.py runs this file in processes of its own.

    python bench/scale_auto.py seconds SPICE_MODEL BATCH    # processor time of whole training epochs, prints JSON
    python bench/scale_auto.py error SEED BATCH EPOCHS       # force error of `fit`, 450 structures; appends to its JSON
    python bench/scale_auto.py errors                        # all of the latter that are not there yet

`seconds` also runs with the package of commit 363d2fc on PYTHONPATH. BATCH is a number or auto.
"""

import json
import os
import pathlib
import sys
import time

import torch

import pathtune

DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
ERRORS = pathlib.Path(__file__).parent / "results" / "scale_auto.jsonl"
SEEDS = (0, 1, 2)
EPOCHS = 100  # fit's default
MEASURED = 3  # epochs, after a first one in which neighbours are searched


def batching(batch):
    return {"batch_atoms": batch} if batch == "auto" else {"batch_size": int(batch)}


def frames():
    return pathtune.read_structures(DATA / "molecules" / "ethanol_botnet" / "train.extxyz.xz")


class EnoughError(Exception):
    """The epochs that were asked are done."""


def seconds(model, batch):
    """Microseconds a structure of each measured epoch: batches made, steps, narrowing; without validation."""
    from pathtune import fit, load, refit_e0, sparsify
    from pathtune.ops.allocator import keep_large_blocks

    keep_large_blocks()  # as the command line does
    torch.set_num_threads(1)
    try:
        from pathtune.training.loop import Loop
    except ImportError:  # 363d2fc
        from pathtune._fit import _Run as Loop  # type: ignore
    train = frames()
    base, _ = refit_e0(load(model), train[:100])
    original, times = Loop._train_epoch, []

    def epoch(self):
        began = time.process_time()
        original(self)
        times.append(1e6 * (time.process_time() - began) / len(train))
        if len(times) > MEASURED:
            raise EnoughError

    Loop._train_epoch = epoch
    checks = {} if "_fit" in Loop.__module__ else {"check_units": False}
    config = pathtune.FitConfig(epochs=EPOCHS, refit_e0=False, **checks, **batching(batch))
    try:
        fit(sparsify(base, elements=[1, 6, 8]), train, train[:8], config)
    except EnoughError:
        print(json.dumps(times[1:]))


def error(seed, batch, epochs):
    """One run of `fit` with default options but these."""
    import optimiser
    from pathtune.data import elements_of
    from pathtune.ops.allocator import keep_large_blocks

    keep_large_blocks()
    torch.set_num_threads(1)
    splits, _, _ = optimiser.read_set("ethanol450")
    model = pathtune.sparsify(optimiser.load_base("ethanol450"), elements=elements_of(splits["train"]), seed=seed)
    config = pathtune.FitConfig(epochs=epochs, seed=seed, **batching(batch))
    began = time.process_time()
    history = pathtune.fit(model, splits["train"], splits["valid"], config)
    spent = time.process_time() - began
    scores = pathtune.evaluate(model, splits["test"])
    kept = {key: round(scores[key], 3) for key in ("energy_mae_mev_atom", "forces_mae_mev_a")}
    line = {"batch": batch, "epochs": epochs, "seed": seed, **kept, "best_epoch": history.best_epoch,
            "cpu_s": round(spent, 1)}  # fmt: skip
    with open(ERRORS, "a") as stream:
        stream.write(json.dumps(line) + "\n")
    print(line, flush=True)


def asked():
    """Batch 8 and auto for the default epochs, and auto for as many steps as batch 8 then has."""
    import optimiser
    from pathtune.data import Frames
    from pathtune.training.plans import Plans

    train = Frames(optimiser.read_set("ethanol450")[0]["train"])
    count = {batch: Plans(pathtune.FitConfig(**batching(batch)), train).before(EPOCHS) for batch in ("8", "auto")}
    return [("8", EPOCHS), ("auto", EPOCHS), ("auto", round(EPOCHS * count["8"] / count["auto"]))]


def errors():
    done = [json.loads(line) for line in ERRORS.read_text().splitlines()] if ERRORS.exists() else []
    for seed in SEEDS:
        for batch, epochs in asked():
            if not any((r["seed"], r["batch"], r["epochs"]) == (seed, batch, epochs) for r in done):
                error(seed, batch, epochs)


def table():
    """Header and rows: the mean over the seeds that were run."""
    lines = [json.loads(line) for line in ERRORS.read_text().splitlines()]
    body = []
    for batch, epochs in dict.fromkeys((line["batch"], line["epochs"]) for line in lines):
        mine = [line for line in lines if (line["batch"], line["epochs"]) == (batch, epochs)]
        words = f"`--batch-atoms {batch}`" if batch == "auto" else f"`--batch-size {batch}`"
        keys = ("forces_mae_mev_a", "energy_mae_mev_atom", "cpu_s")
        means = [sum(line[key] for line in mine) / len(mine) for key in keys]
        body.append([words, str(epochs), f"{means[0]:.1f}", f"{means[1]:.2f}", f"{means[2]:.0f} s", str(len(mine))])
    return ["batches", "epochs", "F meV/A", "E meV/atom", "processor", "seeds"], body


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    if kind == "seconds":
        seconds(*arguments)
    elif kind == "error":
        error(int(arguments[0]), arguments[1], int(arguments[2]))
    else:
        errors()
