"""Launches of a sparse training step on a device, counted without one: bench/results/launches.json.

    python bench/launches_of_step.py

Forward, forces, loss and both backward passes, without the optimizer; 3 % of the weights, float32, radial networks
frozen and so read from tables. How it is counted: tests/emulation/launches.py. Copies between host and device are not
seen in the step. What a model makes of a batch when it first sees it is kept with the batch and counted apart.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

import torch

from pathtune.backbones import _geometry
from pathtune.benchmark import cases
from pathtune.benchmark.step import make_batch, make_model
from pathtune.data import Batch, elements_of
from pathtune.losses import loss
from pathtune.model import Potential, Prediction

ROOT = pathlib.Path(__file__).parent.parent
SHAPES = {"demo": 20, "mp-0b3-medium": 8}  # atoms: counts do not depend on them
ACTIVE_SHARE = 0.03


def counted(name: str, n_atoms: int) -> dict:
    """Our launches by kernel, torch's operations by name, and reads on the host."""
    sys.path.insert(0, str(ROOT / "tests" / "emulation"))
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
        "preparing": preparing(model, make_batch(model, name, n_atoms)),
    }


def preparing(model: Potential, batch: Batch) -> dict[str, int]:
    """Operations and copies to a device for a batch, before its steps: on torch's meta device."""
    from launches import Preparing

    forward = model.backbone._forward
    with Preparing() as seen:
        moved = batch.to("meta")
        edges = _geometry.edges_of(moved, forward.by_pair)
        _geometry.species_groups(moved, forward.n_species)
        lengths = torch.empty(edges.vectors.shape[0], device="meta")
        _geometry.shortest_edge(moved, lengths)
        if forward.tables.by_species:
            key, _ = _geometry.pairs_of_species(moved, edges.index, forward.n_species)
            key[key]  # which table each row reads: RadialTables._slots
        e0 = torch.zeros(moved.n_graphs, dtype=torch.float64, device="meta")
        outputs = {"energy": torch.empty(moved.n_graphs, device="meta"), "forces": torch.empty_like(moved.positions)}
        n_loss = seen.n_operations
        loss(Prediction(outputs, e0), moved)
        first = seen.n_operations - n_loss
        loss(Prediction(outputs, e0), moved)
        again = seen.n_operations - n_loss - first
    return {"n_torch": n_loss + first - again, "n_copies": seen.n_copies}


def main() -> None:
    rows = [counted(name, n_atoms) for name, n_atoms in SHAPES.items()]
    (ROOT / "bench" / "results" / "launches.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
