"""Pretrain the demo's MACE on the xTB molecules of make_data.py, by pathtune's own engine.

    python demo/pretrain.py                # train; a killed run continues where it stopped
    python demo/pretrain.py --export       # write the best weights so far to python/pathtune/demo/

All of the weights are trained (pathtune.fit on pathtune.unfreeze). Whole molecules are held out: their error says
how the model does on a molecule it never saw, which is what the demo then asks of it. E0 come by least squares from
the training energies; shift and scale are the mean interaction energy per atom and the rms force, as mace has it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

import pathtune
from pathtune.backbones._mace_stock import stock_mace
from pathtune.data import ISOLATED_ATOM, Structure, composition, find_graph
from pathtune.files import write_atomically, write_text
from pathtune.training.folder import RunFolder
from pathtune.training.progress import Progress

HERE = Path(__file__).parent
DATA = HERE / "data" / "organics_xtb.extxyz.xz"
SHIPPED = HERE.parent / "python" / "pathtune" / "demo"
SEED = 7
# One of a kind whose bonds also occur in the molecules that remain.
HELD_OUT = {"C2H6NH", "HCOOCH3", "allylamine", "cyclobutene", "dimethylformamide", "ethanolamine", "propanal", "urea"}
MODEL: dict[str, Any] = {
    "r_max": 5.0, "num_bessel": 8, "num_polynomial_cutoff": 5, "max_ell": 2, "num_interactions": 2,
    "interaction_cls": "RealAgnosticResidualInteractionBlock",
    "interaction_cls_first": "RealAgnosticInteractionBlock",
    "hidden_irreps": "48x0e+48x1o", "MLP_irreps": "16x0e", "correlation": 3, "radial_MLP": [64, 64, 64],
    "radial_type": "bessel", "atomic_numbers": [1, 6, 7, 8],
}  # fmt: skip
TRAINING = {"epochs": 240, "batch_size": 16, "lr": 1e-2, "energy_weight": 10.0, "forces_weight": 100.0,
            "refit_e0": False, "checkpoint_minutes": 3.0, "seed": SEED}  # fmt: skip


def read_sets() -> tuple[list[Structure], list[Structure]]:
    """Training frames, and the frames of the molecules that are held out; without the isolated atoms."""
    frames = [f for f in pathtune.read_structures(DATA) if f.config_type != ISOLATED_ATOM]
    return [f for f in frames if f.config_type not in HELD_OUT], [f for f in frames if f.config_type in HELD_OUT]


def constructor_arguments(train: list[Structure], model: dict[str, Any] = MODEL) -> dict[str, Any]:
    """The model's options with E0, shift, scale and the mean number of neighbours of the training frames."""
    n_atoms = np.array([len(s) for s in train])
    energies = np.array([s.energy_ev for s in train])
    counts = composition(train, model["atomic_numbers"])
    # Per atom, as the loss counts energies.
    e0 = np.linalg.lstsq(counts / n_atoms[:, None], energies / n_atoms, rcond=None)[0]
    neighbours = []
    for s in train:
        per_atom = np.bincount(find_graph(s, model["r_max"]).receiver, minlength=len(s))
        neighbours.append(per_atom[per_atom > 0])
    return model | {
        "atomic_energies": e0.tolist(),
        "atomic_inter_shift": float(np.mean((energies - counts @ e0) / n_atoms)),
        "atomic_inter_scale": float(np.sqrt(np.mean(np.concatenate([s.forces for s in train]) ** 2))),
        "avg_num_neighbors": float(np.mean(np.concatenate(neighbours))),
    }


def build(arguments: dict[str, Any]) -> torch.nn.Module:
    """The stock model with seeded random weights."""
    torch.manual_seed(SEED)
    return stock_mace(**arguments)


def train(work: RunFolder, model: pathtune.Potential, frames, held_out) -> None:
    """Train to the end, from the last checkpoint on if there is one."""
    about = json.dumps({"model": MODEL, "training": TRAINING})
    config = pathtune.FitConfig(**TRAINING)
    with work.start(f"pretraining = {json.dumps(about)}\n", resume=True):
        pathtune.fit(model, frames, held_out, config, folder=work, progress=Progress(config.epochs))


def export(work: RunFolder, model: pathtune.Potential, arguments: dict[str, Any], sets, out: Path) -> None:
    """Write the best weights of the last checkpoint with constructor arguments and provenance."""
    state = work.load_checkpoint()
    if state is None:
        raise SystemExit(f"{work.folder}: holds no checkpoint yet")
    model.adaptation.restore(state["best"])
    scores = pathtune.evaluate(model, sets[1], batch_size=64)
    keys = [key for key in scores if "mae" in key or "rmse" in key]
    n_weights = sum(p.numel() for p in model.backbone.parameters.values())
    tensors = {k: v.detach().clone().contiguous() for k, v in model.backbone.stock.state_dict().items()}
    out.mkdir(parents=True, exist_ok=True)
    payload = safetensors.torch.save(tensors)
    provenance = {
        "made_by": "demo/pretrain.py", "data": DATA.name,
        "data_sha256": hashlib.sha256(DATA.read_bytes()).hexdigest(), "level_of_theory": "GFN2-xTB",
        "seed": SEED, "training": TRAINING, "n_train": len(sets[0]), "best_epoch": state["best_epoch"],
        "epochs_done": state["epoch"], "seconds": round(state["seconds"]), "n_weights": n_weights,
        "held_out_molecules": sorted({s.config_type for s in sets[1]}),
        "held_out": {"n_structures": len(sets[1]), **{k: float(f"{scores[k]:.5g}") for k in keys}},
        "held_out_per_molecule": {
            name: {k: float(f"{s[k]:.4g}") for k in keys if "mae" in k}
            for name, s in scores["per_config_type"].items()
        },
        "versions": {"python": platform.python_version(), "pathtune": pathtune.__version__}
        | {name: version(name) for name in ("torch", "mace-torch", "e3nn", "schedulefree", "safetensors")},
        "weights_sha256": hashlib.sha256(payload).hexdigest(),
    }  # fmt: skip
    write_atomically(out / "model.safetensors", lambda stream: stream.write(payload))
    write_text(out / "model.json", json.dumps({"constructor": arguments, "provenance": provenance}, indent=1) + "\n")
    print(json.dumps(provenance["held_out"]), f"{n_weights} weights, {len(payload)} bytes")


def main() -> int:
    """Train, or export what a run has reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "data" / "pretrain", help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder of the exported model")
    parser.add_argument("--export", action="store_true", help="only export, also while a run goes on")
    options = parser.parse_args()
    torch.set_num_threads(1)  # one thread: sums keep their order, so that another run gives the same bits
    sets = read_sets()
    arguments = constructor_arguments(sets[0])
    model = pathtune.unfreeze(pathtune.load(build(arguments)), "full")
    work = RunFolder(options.work)
    if not options.export:
        train(work, model, *sets)
    export(work, model, arguments, sets, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
