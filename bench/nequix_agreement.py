"""Our nequix models against the package `nequix`: published weights, and a tuned model merged back to a `.nqx`.

    python bench/nequix_agreement.py --python ENVIRONMENT_OF_NEQUIX/bin/python [--n 50] [--most-atoms 20]
    python bench/nequix_agreement.py --double FILE    # of nequix_oracle.py --double

The package runs in its own environment (bench/nequix_oracle.py), in float32. Structures are those of PATHTUNE_DATA's
retention/mptrj_random_1k, at equal distances among those of at most `--most-atoms` atoms. The tuned model is nequix-
mp-1 with random changes of 3 % of its weights and other E0. Largest differences go to
bench/results/nequix_agreement.json.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile

import ase
import torch

import pathtune
from pathtune.data import from_atoms

HERE = pathlib.Path(__file__).parent
DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
STRUCTURES = DATA / "retention" / "mptrj_random_1k" / "test.extxyz.xz"


def package_records(python, files, n, most_atoms):
    """What the package says of `n` structures of at most so many atoms, for each file; side by side."""
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for file in files:
            out = pathlib.Path(folder) / f"{len(running)}.json"
            command = [python, str(HERE / "nequix_oracle.py"), str(file), str(STRUCTURES), "--out", str(out)]
            command += ["--n", str(n), "--most-atoms", str(most_atoms)]
            environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ""}
            running[out] = subprocess.Popen(command, env=environment)
        statuses = [process.wait() for process in running.values()]
        if any(statuses):
            raise SystemExit("nequix_oracle.py failed; see above")
        return [json.loads(out.read_text()) for out in running]


def differences(model, records):
    """Largest differences between our model and the package's records."""
    largest = {"energy_ev_atom": 0.0, "forces_ev_a": 0.0, "stress_ev_a3": 0.0, "forces_max_ev_a": 0.0}
    for record in records:
        atoms = ase.Atoms(*(record[key] for key in ("numbers", "positions")), cell=record["cell"], pbc=record["pbc"])
        p = model(model.collate([from_atoms(atoms)]), outputs=("energy", "forces", "stress"))
        forces, stress = (torch.tensor(record[key], dtype=torch.float64) for key in ("forces", "stress"))
        found = {
            "energy_ev_atom": abs(p.energy.item() - record["energy"]) / len(atoms),
            "forces_ev_a": (p.forces - forces).abs().max().item(),
            "stress_ev_a3": (p.stress[0] - stress).abs().max().item(),
            "forces_max_ev_a": forces.abs().max().item(),
        }
        largest = {key: max(value, found[key]) for key, value in largest.items()}
    return largest


def tuned_model(base):
    """Random changes of 3 % of the weights, as an adaptation, and other E0."""
    delta = pathtune.SparseDelta(delta_start="paper", initial_std=0.05, active_share=0.03)
    model = pathtune.sparsify(base, delta, seed=0)
    model.set_e0(model.e0 + torch.linspace(-1.0, 1.0, model.e0.numel(), dtype=model.e0.dtype))
    return model


def agreement(python, n, most_atoms, names=("nequix-mp-1", "nequix-oam-1")):
    """Largest differences by model, those of a merged file, and how far tuning moved its forces."""
    files = [DATA / "weights" / f"{name}.nqx" for name in names]
    base = pathtune.load(files[0], "float64")
    model = tuned_model(base)
    with tempfile.TemporaryDirectory() as folder:
        merged = pathlib.Path(folder) / "merged.nqx"
        pathtune.save(pathtune.merge(model), merged)
        *records, of_merged = package_records(python, [*files, merged], n, most_atoms)
    result = {"n_structures": len(of_merged), "most_atoms": most_atoms}
    for name, file, found in zip(names, files, records):
        for dtype in ("float32", "float64"):
            result[f"{name}, ours in {dtype}"] = differences(pathtune.load(file, dtype), found)
    result[f"{names[0]}, tuned and merged"] = differences(model, of_merged)
    result["moved by tuning"] = {"forces_ev_a": differences(base, of_merged)["forces_ev_a"]}
    return result


def main():
    """Compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--most-atoms", type=int, default=20)
    parser.add_argument("--double", metavar="FILE", help="what nequix_oracle.py --double wrote of nequix-mp-1")
    args = parser.parse_args()
    name = "nequix_agreement_double" if args.double else "nequix_agreement"
    if args.double:
        records = json.loads(pathlib.Path(args.double).read_text())
        found = {
            "n_structures": len(records),
            "most_atoms": max(len(record["numbers"]) for record in records),
            "nequix-mp-1, both in float64": differences(
                pathtune.load(DATA / "weights" / "nequix-mp-1.nqx", "float64"), records
            ),
        }
    else:
        found = agreement(args.python, args.n, args.most_atoms)
    (HERE / "results" / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
