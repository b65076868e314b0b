"""Time of a sparse training step against the number of atoms, MP-0b3-medium shape, sizes taken in turn.

python bench/scaling.py    # writes bench/results/scaling.json
"""

from __future__ import annotations

import json
import pathlib
import statistics

import torch

from pathtune.benchmark import cases, step
from pathtune.data import elements_of
from pathtune.ops.allocator import keep_large_blocks

SIZES = (64, 256, 1024, 2048)
ROUNDS = 5


def main() -> None:
    keep_large_blocks()  # as the command line does
    name = "mp-0b3-medium"
    stock = cases.build(name)
    elements = elements_of(cases.structures(name, 64))
    model = step.make_model(stock, "cpu", "sparse", 0.03, elements)
    batches = {n: step.make_batch(model, name, n) for n in SIZES}
    steps = {str(n): step.training_step(model, b) for n, b in batches.items()}
    times = step.alternate(steps, ROUNDS, warmup=4)  # by then TorchScript's own warm-up is over
    median = {n: statistics.median(t) for n, t in times.items()}
    per_atom = {n: 1000 * m / batches[int(n)].n_nodes for n, m in median.items()}
    spread = max(per_atom.values()) / min(per_atom.values()) - 1
    result = {"model": name, "arm": "sparse", "threads": torch.get_num_threads(), "median_seconds": median,
              "all_seconds": times, "ms_per_atom": per_atom, "largest_over_smallest_minus_1": spread,
              "largest_size_over_smallest_size": per_atom[str(SIZES[-1])] / per_atom[str(SIZES[0])]}  # fmt: skip
    print(json.dumps({k: v for k, v in result.items() if k != "all_seconds"}, indent=1))
    file = pathlib.Path(__file__).parent / "results" / "scaling.json"
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
