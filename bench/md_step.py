"""An MD step's ASE call on moving atoms: stock MACE, an adapter that was loaded, and the model it merges to.

python bench/md_step.py    # MP-0b3-medium's shape, 64 atoms of a crystal; writes bench/results/md_step.json
"""

from __future__ import annotations

import json
import pathlib
import statistics
import tempfile

import ase
import numpy as np
import torch

from pathtune import calculator, load, load_adapter, merge, save_adapter
from pathtune.benchmark import cases, step
from pathtune.data import elements_of
from pathtune.ops.allocator import keep_large_blocks

NAME, N_ATOMS, SHARE = "mp-0b3-medium", 64, 0.03
ROUNDS = 30
MOVE = 0.01  # A: the standard deviation of each coordinate's change from call to call


def crystal() -> ase.Atoms:
    """The case's structure as ASE has it."""
    structure = cases.structures(NAME, N_ATOMS)[0]
    return ase.Atoms(structure.atomic_numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)


def moving(calc: object, seed: int) -> step.Step:
    """A call of `calc` on atoms that have moved since the last one, on the same path for each calculator."""
    atoms, rng = crystal(), np.random.default_rng(seed)
    atoms.calc = calc
    start = atoms.positions.copy()

    def call() -> None:
        atoms.positions = start + rng.normal(scale=MOVE, size=start.shape)
        atoms.get_forces()

    return call


def loaded_and_merged(stock: torch.nn.Module, folder: str) -> tuple[object, object]:
    """Calculators of one adapter with random values: read from its file, and merged."""
    elements = elements_of(cases.structures(NAME, N_ATOMS))
    tuned = step.make_model(stock, "cpu", "sparse", SHARE, elements)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in tuned.trainable():
            parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
    file = pathlib.Path(folder) / "adapter.safetensors"
    save_adapter(tuned, file)
    return calculator(load_adapter(load(stock), file)), calculator(load(merge(tuned)))


def main() -> None:
    """Time the three, and write the figures."""
    from mace.calculators import MACECalculator

    keep_large_blocks()  # as the command line does
    stock = cases.build(NAME)
    with tempfile.TemporaryDirectory() as folder:
        loaded, merged = loaded_and_merged(stock, folder)
    calculators = {
        "stock": MACECalculator(models=[stock], device="cpu", default_dtype="float32"),
        "base": calculator(load(stock)),
        "loaded adapter": loaded,
        "merged": merged,
    }
    times = step.alternate({name: moving(calc, seed=3) for name, calc in calculators.items()}, ROUNDS, warmup=4)
    median = {name: statistics.median(values) for name, values in times.items()}
    paired = [a / b for a, b in zip(times["loaded adapter"], times["merged"], strict=True)]
    result = {
        "model": NAME,
        "n_atoms": N_ATOMS,
        "active_share": SHARE,
        "threads": torch.get_num_threads(),
        "machine": step.machine(),
        "median_seconds": median,
        "all_seconds": times,
        "stock over loaded adapter": median["stock"] / median["loaded adapter"],
        "loaded adapter over merged": statistics.median(paired),
    }
    print(json.dumps({key: value for key, value in result.items() if key != "all_seconds"}, indent=1))
    file = pathlib.Path(__file__).parent / "results" / "md_step.json"
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
