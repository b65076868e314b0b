"""Has an operator become slower against its reference? Quick ratios, held to bench/results/operator_check.json.

    python bench/operator_check.py            # exit 1 where a ratio fell by more than a third of the committed one
    python bench/operator_check.py --write    # commit what it writes, after a change of a kernel or of the machine

Processor time on one thread, both arms in turn, the least of each: what else a machine does can only add to it. A
ratio that fell is measured again, three times at most, and the best counts. The committed ratios are the least of
several measurements, quiet and loaded. On another processor than theirs they are shown, and none fails.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch

import bench_edge_conv
import bench_edge_geometry
import bench_radial_table
import bench_sampled_gradient
import bench_soft_threshold
import bench_species_linear
import bench_symmetric_contraction
from pathtune.ops.allocator import keep_large_blocks
from pathtune.training.provenance import processor

FILE = pathlib.Path(__file__).parent / "results" / "operator_check.json"
MOST_LOST = 1 / 3  # of a committed ratio
RETRIES = 3
FACTS = {"cpu family": "family", "model": "model", "stepping": "stepping"}
SECONDS = 0.7  # of a measurement, beyond its least number of rounds
ROUNDS = (3, 40)
REPEATS = 5  # of our arm in a round, which is the shorter one
SHARES = (0.03, 0.4)  # of active candidates, of those of bench_sampled_gradient


@dataclasses.dataclass(frozen=True)
class Case:
    """Two arms, each of the same passes, which are run one after the other and timed one by one."""

    operator: str
    shape: str
    passes: Sequence[str]
    stock: Sequence[Callable[[], object]]
    ours: Sequence[Callable[[], object]]


def cases() -> Iterator[Case]:
    """Every operator, in shapes of published models."""
    arms, _ = bench_species_linear.build()
    yield Case(
        "species_linear", "89 species, 64 nodes", ["forward + backward"], [arms["e3nn"]], [arms["pathtune"]]
    )
    for name in bench_edge_conv.CONV_CASES:
        for shared in (False, True):
            functions, inputs = bench_edge_conv.build(bench_edge_conv.CONV_CASES[name], shared_rows=shared)
            steps = {arm: list(bench_edge_conv.passes(f, inputs).values()) for arm, f in functions.items()}
            shape = f"{name}, rows {'shared' if shared else 'of their own'}"
            yield Case("edge_conv", shape, bench_edge_conv.PASSES, steps["e3nn"], steps["pathtune"])
    for name, shape in bench_symmetric_contraction.CONTRACTIONS.items():
        batch = bench_symmetric_contraction.Batch(shape)
        for which, of_what in (("_frozen", "forward + gradient of A"), ("", "forward + all gradients")):
            arms = (getattr(batch, f"{arm}{which}") for arm in ("stock", "ours"))
            yield Case("symmetric_contraction", name, [of_what], *([arm] for arm in arms))
    for shape, sizes in bench_sampled_gradient.SHAPES.items():
        for share in SHARES:
            product = bench_sampled_gradient.Product(sizes, share)
            passes = [f"{100 * share:g} % active", f"{100 * share:g} % active, both terms and threshold"]
            stock, ours = [product.dense, product.dense_force_loss], [product.sampled, product.sampled_force_loss]
            yield Case("sampled_gradient", shape, passes, stock, ours)
    for n in bench_soft_threshold.CANDIDATES:
        deltas = bench_soft_threshold.Deltas(n)
        shape = f"8 layers of {n} candidates"
        yield Case("soft_threshold", shape, ["W' = W + S(D, d)"], [deltas.torch], [deltas.kernel])
    for bench, name in ((bench_radial_table, "radial_table"), (bench_edge_geometry, "edge_geometry")):
        for shape in bench.SHAPES:
            rows = bench.Rows(shape)
            yield Case(name, shape, ["values + slope"], [rows.torch], [rows.kernel])


def ratios(case: Case, seconds: float = SECONDS, clock: Callable[[], float] = time.process_time) -> list[float]:
    """The reference's time over ours, for each pass."""
    times = {arm: [[] for _ in case.passes] for arm in ("stock", "ours")}
    began, n_rounds = clock(), -1  # the first is a warm-up
    while n_rounds < ROUNDS[0] or (n_rounds < ROUNDS[1] and clock() - began < seconds):
        for arm, n in (("stock", 1), ("ours", REPEATS)):
            for _ in range(n):
                for function, spent in zip(getattr(case, arm), times[arm]):
                    start = clock()
                    function()
                    if n_rounds >= 0:
                        spent.append(clock() - start)
        n_rounds += 1
    stock, ours = ([min(spent) for spent in times[arm]] for arm in ("stock", "ours"))
    return [a / max(b, 1e-9) for a, b in zip(stock, ours)]


def key(case: Case, name: str) -> str:
    """Of a row in the committed file."""
    return f"{case.operator}: {case.shape}: {name}"


def fallen(case: Case, committed: dict[str, float], measure: Callable[[Case], list[float]] = ratios) -> list[str]:
    """In words, the passes whose ratio fell in every try by more than MOST_LOST, and those never committed."""
    wanted = [(1 - MOST_LOST) * committed.get(key(case, name), float("inf")) for name in case.passes]
    best = measure(case)
    for _ in range(RETRIES):
        if all(found >= low for found, low in zip(best, wanted)):
            return []
        best = [max(pair) for pair in zip(best, measure(case))]
    return [
        f"{key(case, name)}: the ratio is {found:.2f}, expected {low:.2f} at least, two thirds of what is committed"
        for name, found, low in zip(case.passes, best, wanted)
        if not found >= low
    ]


def this_processor() -> str:
    """Name, family, model and stepping: names such as AMD EPYC are of several."""
    file = pathlib.Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    facts = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    return ", ".join([processor(), *(f"{name} {facts[key]}" for key, name in FACTS.items() if key in facts)])


def least(case: Case) -> list[float]:
    """The least of three measurements: what is committed."""
    return [min(tries) for tries in zip(*(ratios(case) for _ in range(3)))]


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    keep_large_blocks()  # as the command line does: page faults are noise
    if sys.argv[1:] == ["--write"]:
        rows = {key(case, name): round(r, 3) for case in cases() for name, r in zip(case.passes, least(case))}
        FILE.write_text(json.dumps({"processor": this_processor(), "ratios": rows}, indent=1) + "\n")
        return
    known = json.loads(FILE.read_text())
    committed, is_same = known["ratios"], known["processor"] == this_processor()
    began, lines, n = time.perf_counter(), [], 0
    for case in cases():
        lines += fallen(case, committed)
        n += len(case.passes)
    print(f"{n} ratios in {time.perf_counter() - began:.0f} s, of which {len(lines)} fell by more than a third")
    if not is_same:
        print("\n".join([f"not judged: {this_processor()} is not {known['processor']}", *lines]))
    sys.exit("\n".join(lines) if is_same and lines else 0)


if __name__ == "__main__":
    main()
