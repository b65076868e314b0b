"""The processes that bench/scale.py starts: from nothing to some steps of a fit, alone or by torchrun; prints JSON."""

import contextlib
import json
import os
import pathlib
import resource
import sys
import threading
import time

PARTS = {"memory": 2000, "store": 2000}  # the same structures, so that the same steps are made of them


class Anonymous:
    """The most anonymous memory of this process while in here, sampled, in MB."""

    def __enter__(self):
        self.most, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._over.wait(0.02):
            status = pathlib.Path("/proc/self/status").read_text()
            self.most = max(self.most, int(status.split("RssAnon:")[1].split()[0]) / 1e3)

    def __exit__(self, *error):
        self._over.set()
        self._thread.join()


class EnoughError(Exception):
    """The steps that were asked are done."""


class Clock:
    """Processor and wall seconds of the steps of a Loop: of the first, and from the warm one to the last asked."""

    def __init__(self, n_steps):
        from pathtune.training.loop import Loop

        self.first_cpu, self.warm, self.end = 0.0, (0.0, 0.0), (0.0, 0.0)
        original, clock = Loop._train_step, self

        def step(self, piece):
            value = original(self, piece)
            now, done = (time.process_time(), time.monotonic()), self._steps_done + 1
            clock.first_cpu = clock.first_cpu or now[0]
            if done == n_steps // 4:
                clock.warm = now
            if done == n_steps:
                clock.end = now
                raise EnoughError
            return value

        Loop._train_step = step


def steps(work, data, n_steps, batch, refits, pins):
    """`n_steps` steps, of which the first quarter is not measured. `pins`: each process stays on a core of its own."""
    if pins:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ.get("RANK", "0")) % len(cores)]})
    with Anonymous() as memory:
        import torch

        torch.set_num_threads(1)
        from pathtune import FitConfig, fit, load, refit_e0, sparsify
        from pathtune.data import Frames, as_source, elements_of
        from pathtune.ops.allocator import keep_large_blocks
        from pathtune.processes import world
        from pathtune.training.plans import Plans

        keep_large_blocks()
        if "RANK" in os.environ:
            torch.distributed.init_process_group("gloo")
        source = as_source(work / ("small" if data in PARTS else data), max_frames=PARTS.get(data))
        if data == "memory":
            source = Frames([source.read(i) for i in range(len(source))])
        base, used = load(work / "spice.model"), 0
        if refits:
            base, refit = refit_e0(base, source)
            used = refit.n_used
        e0_s = time.process_time()
        clock = Clock(n_steps)
        config = FitConfig(epochs=100, batch_size=batch, refit_e0=False, check_units=False)
        valid = as_source(work / "aspirin_valid.xyz", max_frames=20)
        with contextlib.suppress(EnoughError):
            fit(sparsify(base, elements=elements_of(source)), source, valid, config)
        size = len(source) / len(Plans(config, source).of(0))
        spent = world().gather(lambda: (clock.end[0] - clock.warm[0], clock.end[1] - clock.warm[1]))
    n = size * (n_steps - n_steps // 4)
    if world().is_first:
        print(json.dumps({
            "first_step_s": clock.first_cpu, "e0_s": e0_s, "anonymous_mb": memory.most, "e0_structures": used,
            "us_per_structure": 1e6 * sum(cpu for cpu, _ in spent) / n,
            "wall_us_per_structure": 1e6 * max(wall for _, wall in spent) / n,
            "structures_a_step": size, "n": len(source)}))  # fmt: skip


def epoch(work, data, batch):
    """One whole epoch of `pathtune fit` with the shipped model, as the command line runs it."""
    from pathtune.cli import main

    with Anonymous() as memory:
        began = time.monotonic()
        status = main(["fit", "--model", "demo", "--train", str(work / data), "--valid", str(work / "valid.xyz"),
                       "--epochs", "1", "--batch-size", str(batch), "--out", str(work / "run"), "--no-report",
                       "--energy-key", "REF_energy"])  # fmt: skip
        wall = time.monotonic() - began
    log = [json.loads(line) for line in (work / "run" / "log.jsonl").read_text().splitlines()]
    own = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"status": status, "cpu_s": time.process_time(), "wall_s": wall,
                      "epoch_wall_s": log[-1]["seconds"],
                      "anonymous_mb": memory.most, "resident_mb": own.ru_maxrss / 1e3,
                      "train_loss": log[-1]["train_loss"], "valid_loss": log[-1]["valid_loss"]}))  # fmt: skip


if __name__ == "__main__":
    kind, folder, *arguments = sys.argv[1:]
    {"steps": steps, "epoch": epoch}[kind](pathlib.Path(folder), *map(json.loads, arguments))
