"""L-BFGS on the final set of a sparse delta: does it pay at equal gradients?

    python bench/second_order.py      # ethanol, 50 structures, 3 % of the weights; MACE_SPICE, one thread

Three runs a seed: `fit` as it is; the same, followed by L-BFGS on the whole training set for as many gradients of it as
30 % more epochs have, the best by validation kept; and `fit` of 30 % more epochs. Results:
bench/results/second_order.json. PATHTUNE_DATA as in CONTRIBUTING.md.
"""

import json
import pathlib
import time

import torch

import optimiser
import pathtune
from pathtune.data import as_source, elements_of
from pathtune.evaluation import mean_loss
from pathtune.ops.allocator import keep_large_blocks

RESULTS = pathlib.Path(__file__).parent / "results" / "second_order.json"
MORE = 0.3  # of the epochs


def trained(base, splits, epochs, batch_size, seed):
    """A model of 3 % with default settings, and its config."""
    options = {"delta": pathtune.SparseDelta(active_share=0.03)}
    model = pathtune.adapt(base, ["sparse"], elements_of(splits["train"]), options, seed)
    config = pathtune.FitConfig(epochs=epochs, batch_size=batch_size, seed=seed)
    pathtune.fit(model, splits["train"], splits["valid"], config)
    return model, config


def polish(model, splits, config, n_gradients):
    """L-BFGS on the whole training set from where `model` stands; what validation likes best stays."""
    batch, parameters = model.collate(splits["train"]), model.trainable()
    search = torch.optim.LBFGS(parameters, max_iter=1, max_eval=2, history_size=20, line_search_fn="strong_wolfe")
    used, best = 0, (mean_loss(model, as_source(splits["valid"]), 32, config.loss_of), model.adaptation.state())

    def closure():
        nonlocal used
        used += 1
        search.zero_grad()
        loss = config.loss_of(model(batch, training=True), batch)
        loss.backward()
        return loss

    while used < n_gradients:
        search.step(closure)
        found = mean_loss(model, as_source(splits["valid"]), 32, config.loss_of)
        if found < best[0]:
            best = found, model.adaptation.state()
    model.adaptation.restore(best[1])


def row(name, seed, model, splits, config, seconds):
    """Errors on test, and the loss on validation."""
    scores = pathtune.evaluate(model, splits["test"])
    valid = float(mean_loss(model, as_source(splits["valid"]), 32, config.loss_of))
    kept = {key: round(value, 4) for key, value in scores.items() if "mae" in key}
    return {"run": name, "seed": seed, "valid_loss": round(valid, 6), **kept, "cpu_seconds": round(seconds, 1)}


def main():
    """Every run, two seeds."""
    torch.set_num_threads(1)
    keep_large_blocks()
    splits, epochs, batch_size = optimiser.read_set("ethanol50")
    base = pathtune.refit_e0(optimiser.load_base("ethanol50"), splits["train"])[0]
    rows = []
    for seed in (0, 1):
        for name in ("default", "default, then L-BFGS", "30 % more epochs"):
            began = time.process_time()
            length = round((1 + MORE) * epochs) if name.startswith("30") else epochs
            model, config = trained(base, splits, length, batch_size, seed)
            if "L-BFGS" in name:
                polish(model, splits, config, round(MORE * epochs))
            rows.append(row(name, seed, model, splits, config, time.process_time() - began))
            print(json.dumps(rows[-1]), flush=True)
    RESULTS.write_text(json.dumps({"set": "ethanol50", "share": 0.03, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
