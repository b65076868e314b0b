"""What `choose_share` answers on the systems whose errors at every share are known (bench/frontier.py).

    python bench/choose.py ethanol 3bpa     # MACE_SPICE
    python bench/choose.py titanium         # with sevenn: SevenNet-0

The same structures and epochs as there; results are kept one by one in bench/results/choose.jsonl and not repeated.
PATHTUNE_DATA as in CONTRIBUTING.md; one thread. bench/tables.py writes the table.
"""

import dataclasses
import functools
import pathlib
import sys
import time

import torch

import frontier
import kept
import optimiser
import pathtune
from pathtune.ops.allocator import keep_large_blocks

RESULTS = pathlib.Path(__file__).parent / "results" / "choose.jsonl"


def run(name, n_frames):
    """The choice, what it took, and the validation losses behind it."""
    splits, batch_size = frontier.read(name, n_frames)
    config = pathtune.FitConfig(epochs=frontier.AMOUNTS[name][1][n_frames], batch_size=batch_size)
    base = optimiser.load_base(frontier.AMOUNTS[name][0])
    began = time.process_time()
    choice = pathtune.choose_share(base, splits["train"], splits["valid"], config=config)
    seconds = time.process_time() - began
    return {"set": name, "frames": n_frames, "cpu_seconds": round(seconds, 1), **_kept(choice)}


def _kept(choice):
    points = [*choice.points, *([choice.full] if choice.full else [])]
    kept = [dataclasses.asdict(p) | {"losses": [round(x, 7) for x in p.losses]} for p in points]
    return {"share": choice.share, "is_full_better": choice.is_full_better, "epochs": choice.epochs, "points": kept}


def main(names):
    """Every run that is not there yet."""
    torch.set_num_threads(1)
    keep_large_blocks()
    for name in names:
        for n_frames in frontier.AMOUNTS[name][1]:
            kept.keep(RESULTS, {"set": name, "frames": n_frames}, functools.partial(run, name, n_frames))


if __name__ == "__main__":
    main(sys.argv[1:])
