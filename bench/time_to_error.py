"""Seconds until `pathtune fit` has the test force error that mace_run_train ends with at its best of three rates.

    python bench/time_to_error.py SET [SET ...]      # ethanol450 3bpa aspirin100; PATHTUNE_DATA as in CONTRIBUTING.md

Both are commands in a process of their own, one thread, from the same files and the same MACE_SPICE: start-up, reading,
E0 and the writing of the result are in the seconds. mace_run_train: AdamW, EMA 0.99, rates 0.001, 0.003 and 0.01, its
own defaults otherwise; the best by validation. pathtune: whole runs with default options of different numbers of
epochs, for its rates and its averaging follow the length of a run; each point is a run that a user can ask for.

The seconds are the processor's, which on one thread are those of a quiet machine's clock, whatever else runs; the
clock's and those of the training alone are kept beside them. A run is kept in bench/results/time_to_error.jsonl and not
repeated. `python bench/plot.py` draws the picture.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import ase.io
import numpy as np
import torch

import pathtune
from optimiser import DATA, DRAWN, SETS, evenly
from pathtune.benchmark.step import machine
from pathtune.data import elements_of

RESULTS = pathlib.Path(__file__).parent / "results" / "time_to_error.jsonl"
RATES = ("0.001", "0.003", "0.01")  # of mace_run_train
EPOCHS = (1, 2, 3, 5, 10, 20, 40)  # of pathtune; mace_run_train has the last
ARMS = {"full": ["--arm", "full"], "sparse 10 %": ["--active-share", "0.1"], "sparse 3 %": []}
BATCH_SIZE = 8
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ASPIRIN = ("rmd17/aspirin", ("train", "valid", "test"), (100, None, 200), 40, BATCH_SIZE)


def write_set(name: str, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The three splits as plain extxyz files, the frames those of bench/optimiser.py."""
    where, files, sizes, *_ = ASPIRIN if name == "aspirin100" else SETS[name]
    result = {}
    for split, file, n in zip(("train", "valid", "test"), files, sizes):
        frames: Any = ase.io.read(DATA / where / f"{file}.extxyz.xz", ":")
        if name == "ethanol450" and split == "train":
            frames = [frames[i] for i in np.random.RandomState(0).permutation(len(frames))[:DRAWN]]
        elif n is not None:
            frames = frames[:n] if name == "ethanol450" else evenly(frames, n)
        result[split] = folder / f"{split}.extxyz"
        ase.io.write(result[split], frames)
    return result


def timed(command: list[str], folder: pathlib.Path) -> dict[str, float]:
    """Seconds of a command on one thread, of the wall's clock and of the processor; its output goes to a file there."""
    began, used = time.perf_counter(), _processor_seconds()
    with open(folder / "out.txt", "w") as stream:
        subprocess.run(command, cwd=folder, check=True, stdout=stream, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    return {"wall_seconds": time.perf_counter() - began, "cpu_seconds": _processor_seconds() - used}


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_mace(rate: str, files: dict[str, pathlib.Path], base: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """mace_run_train on the whole; E0 as pathtune refits them, for its own need isolated atoms in the data."""
    train = pathtune.read_structures(files["train"])
    refitted, _ = pathtune.refit_e0(pathtune.load(base), train)
    e0s = {z: float(refitted.e0[refitted.atomic_numbers.index(z)]) for z in elements_of(train)}
    command = [
        str(pathlib.Path(sys.executable).parent / "mace_run_train"), "--name", "tuned", "--foundation_model", str(base),
        "--multiheads_finetuning", "False", "--train_file", str(files["train"]), "--valid_file", str(files["valid"]),
        "--energy_key", "REF_energy", "--forces_key", "REF_forces", "--E0s", str(e0s), "--lr", rate, "--ema",
        "--ema_decay", "0.99", "--batch_size", str(BATCH_SIZE), "--valid_batch_size", "16", "--max_num_epochs",
        str(EPOCHS[-1]), "--default_dtype", "float32", "--device", "cpu", "--seed", "0",
    ]  # fmt: skip
    seconds = timed(command, folder)
    log = "\n".join(file.read_text() for file in (folder / "logs").glob("*.log"))
    stamps = re.findall(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) INFO: (?:Initial|Epoch \d+)", log, re.MULTILINE)
    first, last = (np.datetime64(stamp.replace(" ", "T")) for stamp in (stamps[0], stamps[-1]))
    model = pathtune.load(folder / "tuned.model")
    training_seconds = float((last - first) / np.timedelta64(1, "s"))
    return {**seconds, "training_seconds": training_seconds, **errors(model, files)}


def run_pathtune(
    arm: str, epochs: int, files: dict[str, pathlib.Path], base: pathlib.Path, folder: pathlib.Path
) -> dict[str, Any]:
    """`pathtune fit` with default options."""
    command = [
        sys.executable, "-m", "pathtune", "fit", "--model", str(base), "--train", str(files["train"]), "--valid",
        str(files["valid"]), "--epochs", str(epochs), "--batch-size", str(BATCH_SIZE), "--out", "run", *ARMS[arm],
    ]  # fmt: skip
    seconds = timed(command, folder)
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    model = pathtune.load(folder / "run" / "merged.model")
    return {**seconds, "training_seconds": metrics["seconds"], **errors(model, files)}


def errors(model: pathtune.Potential, files: dict[str, pathlib.Path]) -> dict[str, float]:
    """MAE of a tuned model on validation and test."""
    result = {}
    for split in ("valid", "test"):
        scores = pathtune.evaluate(model, str(files[split]))
        result |= {f"{split}_{key}": round(scores[key], 3) for key in ("energy_mae_mev_atom", "forces_mae_mev_a")}
    return result


def main(names: list[str]) -> None:
    """Every run that is not there yet."""
    torch.set_num_threads(1)
    done = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for name in names:
        with tempfile.TemporaryDirectory() as kept:
            files, base = write_set(name, pathlib.Path(kept)), pathlib.Path(kept) / "spice.model"
            converter = str(DATA / "weights" / "to_mace.py")
            subprocess.run([sys.executable, converter, "mace_spice_32x0e", str(base)], check=True, capture_output=True)
            runs = [("mace_run_train", rate, EPOCHS[-1]) for rate in RATES]
            runs += [(arm, None, epochs) for epochs in EPOCHS for arm in ARMS]
            for arm, rate, epochs in runs:
                key = {"set": name, "arm": arm, "rate": rate, "epochs": epochs}
                if any(key.items() <= r.items() for r in done):
                    continue
                with tempfile.TemporaryDirectory() as place:
                    folder = pathlib.Path(place)
                    how = (rate, files, base, folder) if rate else (arm, epochs, files, base, folder)
                    result = (run_mace if rate else run_pathtune)(*how)
                line = json.dumps({**key, **result, "machine": machine()})
                with open(RESULTS, "a") as stream:
                    stream.write(line + "\n")
                print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
