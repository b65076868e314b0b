"""Launches of a sparse training step on a device, counted without one: bench/results/launches.json.

    python bench/launches_of_step.py

Forward, forces, loss and both backward passes, without the optimizer; 3 % of the weights, float32, radial networks
frozen and so read from tables. How it is counted: tests/emulation/launches.py. Copies between host and device are not
seen in the step. What a new batch costs beside it, copies included, is counted apart.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

import numpy as np

from pathtune.benchmark import cases
from pathtune.benchmark.step import make_batch, make_model
from pathtune.data import Batch, Structure, elements_of
from pathtune.losses import loss
from pathtune.model import Potential
from pathtune.ops import _kernels, _operator

ROOT = pathlib.Path(__file__).parent.parent
SHAPES = {"demo": 20, "mp-0b3-medium": 8}  # atoms: counts do not depend on them
ACTIVE_SHARE = 0.03


def counted(name: str, n_atoms: int) -> dict:
    """Our launches by kernel, torch's operations by name, and reads on the host."""
    sys.path[:0] = [str(ROOT / "tests" / "emulation"), str(ROOT / "tests")]
    from build import load as load_emulated
    from launches import count

    elements = elements_of(cases.structures(name, n_atoms))
    model = make_model(cases.build(name), "auto", "sparse", ACTIVE_SHARE, elements)
    batch = make_batch(model, name, n_atoms)
    batch = dataclasses.replace(batch, host=batch)  # as of a batch that was moved: indices are read on the host
    parameters = model.trainable()

    def step() -> None:
        for parameter in parameters:  # as the loop does: a gradient is stored, not added
            parameter.grad = None
        loss(model(batch, training=True), batch).backward(inputs=parameters)

    step()  # tables, indices
    count(load_emulated(), step)  # and what the CUDA side keeps
    kernels, operations = count(load_emulated(), step)
    return {
        "model": name,
        "kernels": dict(kernels.most_common()),
        "torch": dict(operations.counts.most_common()),
        "n_kernels": kernels.total(),
        "n_torch": operations.counts.total(),
        "n_read_on_host": operations.n_read,
        **on_meta(make_model(cases.build(name), "auto", "sparse", ACTIVE_SHARE, elements), name, n_atoms),
    }


def on_meta(model: Potential, name: str, n_atoms: int) -> dict:
    """What a new batch costs beside the step itself, and the memory of a step, on torch's meta device.

    The first step with a batch less the second. Its number of atoms is new too, its pairs of species are not. The
    model, which computed nothing before, stays there.
    """
    from launches import Peak, Preparing

    from capturing import NoKernels, move_to_meta

    move_to_meta(model)
    parameters = model.trainable()

    def step(batch: Batch) -> None:
        for parameter in parameters:
            parameter.grad = None
        loss(model(batch, training=True), batch).backward(inputs=parameters)

    before = _kernels.emulated, _operator._is_traced
    _kernels.emulated, _operator._is_traced = NoKernels(), lambda: False
    try:
        larger = model.collate(labelled(name, 4 * n_atoms))
        step(larger)  # tables
        with Preparing() as first:
            batch = model.collate(labelled(name, n_atoms))
            step(batch)
        with Preparing() as again:
            step(batch)
        peaks = {}
        for one in (batch, larger):
            with Peak() as peak:
                step(one)
            peaks[one.n_nodes] = peak.n_bytes
    finally:
        _kernels.emulated, _operator._is_traced = before
    (few, of_few), (many, of_many) = peaks.items()
    return {
        "preparing": {
            "n_torch": first.n_operations - again.n_operations,
            "n_copies": first.n_copies,
            "n_blocking": first.n_blocking,
            "n_copies_again": again.n_copies,
        },
        "peak_bytes_per_atom": round((of_many - of_few) / (many - few)),
        "edges_per_atom": round(larger.sender.numel() / larger.n_nodes, 1),
    }


def labelled(name: str, n_atoms: int) -> list[Structure]:
    """The case's structures with energies and forces, of zero."""
    structures = cases.structures(name, n_atoms)
    for structure in structures:
        structure.energy_ev, structure.forces = 0.0, np.zeros((len(structure), 3))
    return structures


def main() -> None:
    rows = [counted(name, n_atoms) for name, n_atoms in SHAPES.items()]
    (ROOT / "bench" / "results" / "launches.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
