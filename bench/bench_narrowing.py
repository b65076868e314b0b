"""A narrowing: choosing the candidates that stay, against a sorted topk; grouping them, against the reference in torch.

Processor time of one thread.

    python bench/bench_narrowing.py    # writes bench/results/narrowing.json
"""

import functools
import json
import pathlib
import statistics
import time

import torch

from pathtune import reference
from pathtune.adaptations.sparse.narrowing import largest
from pathtune.ops import group_candidates

RESULTS = pathlib.Path(__file__).parent / "results" / "narrowing.json"
SIZES = {"MACE_SPICE, three elements": (17, 28_304), "SevenNet-0, one element": (20, 584_896)}  # layers, candidates
LAYERS = {  # paths of one layer (mul_in, species, mul_out), candidates
    "species linear of MACE_SPICE": ([(32, 15, 32)] * 4, 400),
    "path linear of SevenNet-0": ([(128, 1, 128), (64, 1, 64), (32, 1, 32)], 5_000),
}
KEPT, REPEATS = 0.98, 21


def by_sorting(scores, n):
    """The masks as they were made before."""
    ranked = torch.cat(scores)
    chosen = torch.zeros_like(ranked, dtype=torch.bool).index_fill_(0, ranked.topk(n).indices, True)
    return chosen.split([s.numel() for s in scores])


def medians(**calls):
    """Milliseconds of each call, alternating, and the ratio of the last to the first."""
    times = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            began = time.process_time()
            call()
            times[name].append(1000 * (time.process_time() - began))
    found = {name: round(statistics.median(ms), 3) for name, ms in times.items()}
    ours, theirs = found.values()
    return {**found, "ratio": round(theirs / ours, 1)}


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    choosing, grouping = {}, {}
    for name, (n_layers, n) in SIZES.items():
        scores = list(torch.rand(n).tensor_split(n_layers))
        caps, n_kept = [s.numel() for s in scores], int(KEPT * n)
        assert all(torch.equal(a, b) for a, b in zip(largest(scores, n_kept, caps), by_sorting(scores, n_kept)))
        ours, theirs = functools.partial(largest, scores, n_kept, caps), functools.partial(by_sorting, scores, n_kept)
        choosing[name] = medians(largest=ours, sorted=theirs)
    for name, (shapes, n) in LAYERS.items():
        indices = torch.randperm(sum(a * b * c for a, b, c in shapes))[:n].sort().values
        ours = functools.partial(group_candidates, indices, shapes)
        grouping[name] = medians(grouped=ours, reference=functools.partial(reference.group_candidates, indices, shapes))
    found = {"choosing_ms": choosing, "grouping_ms": grouping}
    RESULTS.write_text(json.dumps({"torch": torch.__version__, **found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
