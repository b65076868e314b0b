"""Peak memory of training steps in this process, printed in bytes; started by step.peak_memory."""

from __future__ import annotations

import json
import sys

import torch


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes (Linux)."""
    with open("/proc/self/status") as stream:
        line = next(line for line in stream if line.startswith(field))
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    """Start a new high-water mark."""
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")


def main(arguments: str) -> None:
    """Load, note the memory, run three steps, print the peak above it."""
    from pathtune.benchmark import cases, step
    from pathtune.data import elements_of

    options = json.loads(arguments)
    stock = cases.build(options["name"])
    elements = elements_of(cases.structures(options["name"], options["n_atoms"]))
    model = step.make_model(stock, options["backend"], options["arm"], options["share"], elements)
    batch = step.make_batch(model, options["name"], options["n_atoms"])
    del stock
    run = step.training_step(model, batch)
    torch.randn(512, 512) @ torch.randn(512, 512)  # the BLAS library's own buffers
    before = resident("VmRSS")
    reset_peak()
    for _ in range(3):
        run()
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(sys.argv[1])
