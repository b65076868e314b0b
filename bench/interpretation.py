"""What a sparse pattern says: measures of l = 2 on metals and others, of arms on the same data, and of planted truths.

    python bench/interpretation.py planted   # labels of a model whose weights of one l were moved: is it found?
    python bench/interpretation.py arms      # one set, several training rules: do counts and importance agree?
    python bench/interpretation.py demo      # the same on the shipped model and structures, two seeds; with mace-torch
    python bench/interpretation.py sets      # several materials, two seeds: is l = 2 more in transition metals?
    python bench/interpretation.py longer    # where seeds differed most, four times as many steps: do they agree?
    python bench/interpretation.py summary   # what the committed runs say, as JSON

All but demo: SevenNet-0 (in its own environment), 40 training structures, 80 steps, 3 % of the reachable weights,
importance on 16 validation structures that were not trained on. Runs are kept one by one in
bench/results/interpretation.jsonl and not repeated; one thread. PATHTUNE_DATA as in CONTRIBUTING.md.
"""

import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time

import numpy as np
import torch

import kept
import pathtune
from pathtune.data import elements_of
from pathtune.importance import overlap
from pathtune.importance.parts import parts_of
from pathtune.ops.allocator import keep_large_blocks

DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
RESULTS = pathlib.Path(__file__).parent / "results" / "interpretation.jsonl"
BASE = "sevennet:7net-0"
N_TRAIN, N_VALID, EPOCHS, BATCH_SIZE = 40, 16, 8, 4
METALS = {"copper": "crystals/dnp_Cu", "palladium": "crystals/dnp_Pd", "tungsten": "crystals/w_snap",
          "titanium": "crystals/dnp_Ti", "tantalum": "crystals/ta_snap", "silver and gold": "lam/agau_pbed3",
          "iron": "magnetic/fe_snap_collinear", "nickel": "crystals/mlearn_Ni"}  # fmt: skip
OTHERS = {"silicon": "crystals/mlearn_Si", "germanium": "crystals/mlearn_Ge", "lithium": "crystals/mlearn_Li",
          "indium phosphide": "crystals/inp_snap", "LiGePS": "lam/ligeps_sse_pbe", "water": "lam/h2o_pbe0ts",
          "ethanol": "rmd17/ethanol", "3BPA": "molecules/3bpa"}  # fmt: skip
SETS = {**METALS, **OTHERS}
MOST_ATOMS = 66  # of a structure; where most have more, as in water and nickel, there are fewer structures
SEEDS = (0, 1)
LONGER, LONGER_EPOCHS = ("titanium", "indium phosphide"), 4 * EPOCHS  # where the seeds differed most
DEMO_EPOCHS = 10
PLANTED_FORCE = 0.15  # eV/A, rms change of the forces by a planted shift, the same for every l
ARMS = {
    "sparse 3 %": ("sparse", {"active_share": 0.03}),
    "sparse 3 %, Fisher candidates": ("sparse", {"active_share": 0.03, "score": "fisher"}),
    "published, H": ("sparse", {"schedule": "H"}),
    "full": ("full", {}),
}


def read(name):
    """Training and validation structures, evenly spaced, of about as many atoms for each set."""
    result = []
    for structures, n in zip(splits(name), (N_TRAIN, N_VALID)):
        small = [s for s in structures if len(s) <= MOST_ATOMS]
        kept = small if len(small) > len(structures) / 2 else structures
        mean = statistics.fmean(map(len, kept))
        n = min(n, len(kept), max(1, int(n * MOST_ATOMS / mean)))
        result.append([kept[i * len(kept) // n] for i in range(n)])
    return result


def splits(name):
    """All training and all validation structures; every third one of a set that has no training split."""
    folder = DATA / SETS[name]
    if (folder / "train.extxyz.xz").exists():
        return [pathtune.read_structures(folder / f"{split}.extxyz.xz") for split in ("train", "valid")]
    structures = pathtune.read_structures(folder / "test.extxyz.xz")
    return [s for i, s in enumerate(structures) if i % 3], structures[::3]


def planted_model(base, degree, structures, seed=0, element=None):
    """The base with normal noise on its weights of one degree l, of a size that moves the forces by PLANTED_FORCE.

    `element`: an atomic number; only the weights that are its own in species linears are moved.
    """
    species = base.species_of(elements_of(structures))
    batch = base.collate(structures[::10])
    forces, size = base(batch).forces.detach(), 0.05
    for _ in range(6):
        moved = moved_model(base, degree, species, size, seed, element)
        change = float((moved(batch).forces.detach() - forces).square().mean().sqrt())
        if abs(change / PLANTED_FORCE - 1) < 0.05:
            break
        size *= min(4.0, max(0.25, PLANTED_FORCE / change))
    return moved


def moved_model(base, degree, species, size, seed, element=None):
    """The base with noise on its weights of one degree, `size` times the rms of each path."""
    moved = pathtune.unfreeze(base, "full")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in parts_of(base.base, set(base.base.parameters), species):
            is_meant = part.is_reachable
            if element is not None:
                is_own = part.kind == "species linear" and part.species is not None
                is_meant = is_meant & (part.species == base.species_of([element])[0]) if is_own else is_meant & False
            if part.degree == degree and is_meant.any():
                flat = moved.backbone.parameters[part.parameter].view(-1)
                w = flat[part.indices]
                noise = torch.randn(w.numel(), generator=generator).to(w) * w.square().mean().sqrt()
                flat[part.indices] = torch.where(is_meant, w + size * noise, w)
    return moved


def relabelled(structures, model):
    """The structures with what the model predicts as their labels."""
    result = []
    for s in structures:
        found = model(model.collate([s]), outputs=("energy", "forces", "stress"))
        labels = {name: found.of(name).detach().double().numpy() for name in ("energy", "forces", "stress")}
        labels = {"energy": labels["energy"][0], "forces": labels["forces"], "stress": labels["stress"][0]}
        result.append(dataclasses.replace(s, labels=labels))
    return result


def tune(base, sets, arm="sparse 3 %", seed=0, epochs=EPOCHS):
    """A model tuned with default settings; the published arm as its authors have it."""
    kind, options = ARMS[arm]
    asked = {"delta": pathtune.SparseDelta(**options)} if kind == "sparse" else {}
    model = pathtune.adapt(base, [kind], elements_of(sets[0]), asked, seed)
    config = pathtune.FitConfig(epochs=epochs, batch_size=BATCH_SIZE, seed=seed, check_units=False)
    pathtune.fit(model, *sets, config)
    return model


def row_of(model, valid):
    """The numbers that are kept of one run."""
    found = pathtune.importance(model, valid, elements=elements_of(valid))
    rates = {f"{p.layer} {p.path}": [p.changed, p.reachable] for p in found.parts}
    line = found.rate_line
    return {
        "loss_base": found.loss_base,
        "loss_tuned": found.loss_tuned,
        "groups": {g.group: {key: value for key, value in dataclasses.asdict(g).items() if key != "group"}
                   for g in found.groups},
        "counts": rates,
        "nodes": found.nodes,
        "completeness": found.completeness,
        "correlation": line.correlation if line else None,
        "anisotropy": {str(k): mean for k, mean, _ in found.anisotropy},
    }  # fmt: skip


def keep(key, make, results=RESULTS):
    """Run `make` unless its row is there; the row is written with the processor seconds it took."""
    if any(all(row.get(k) == v for k, v in key.items()) for row in kept.lines_of(results)):
        return
    began = time.process_time()
    row = {**key, **make(), "processor_seconds": round(time.process_time() - began, 1)}
    with open(results, "a") as stream:
        stream.write(json.dumps(row) + "\n")
    shares = {g: round(v["shapley_share"] or 0.0, 4) for g, v in row["groups"].items()}
    print(json.dumps(key), shares, f"complete {row['completeness']:.3f}, {row['processor_seconds']} s", flush=True)


def planted():
    """A known shift in one l only, on copper and silicon."""
    for name in ("silicon", "copper"):
        for degree in (0, 2):
            def make(name=name, degree=degree):
                base, sets = pathtune.load(BASE), read(name)
                truth = planted_model(base, degree, sets[0])
                sets = [relabelled(part, truth) for part in sets]
                return row_of(tune(base, sets), sets[1])
            keep({"kind": "planted", "set": name, "degree": degree}, make)  # fmt: skip


def arms():
    """Several training rules on the same copper data."""
    for arm in ARMS:
        def make(arm=arm):
            sets = read("copper")
            return row_of(tune(pathtune.load(BASE), sets, arm), sets[1])
        keep({"kind": "arms", "set": "copper", "arm": arm}, make)  # fmt: skip


def demo():
    """Several training rules on glycine with the shipped MACE, which has species linears; two seeds."""
    for arm in ARMS:
        def make(arm=arm):
            sets = [pathtune.read_structures(pathtune.demo_file(split)) for split in ("train", "valid")]
            models = [tune(pathtune.load("demo"), sets, arm, seed, DEMO_EPOCHS) for seed in SEEDS]
            first, second = (row_of(model, sets[1]) for model in models)
            return {**first, "second": second, "overlap": overlap(*models)}
        keep({"kind": "demo", "arm": arm}, make)  # fmt: skip


def sets_of(names, kind="sets", epochs=EPOCHS):
    """Materials, two seeds, and how far the two change the same weights."""
    for name in names:
        def make(name=name):
            sets = read(name)
            models = [tune(pathtune.load(BASE), sets, seed=seed, epochs=epochs) for seed in SEEDS]
            first, second = (row_of(model, sets[1]) for model in models)
            common = overlap(*models)
            return {**first, "second": second, "overlap": common}
        keep({"kind": kind, "set": name}, make)  # fmt: skip


def enrichment(row, group="l = 2"):
    """Rate of a group's changed weights over that of all weights."""
    g, n, m = row["groups"], 0, 0
    for found in g.values():
        n, m = n + found["changed"], m + found["reachable"]
    return g[group]["changed"] / g[group]["reachable"] / (n / m)


def summary():
    """The figures of docs/interpretation.md."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    by = {kind: [row for row in rows if row["kind"] == kind] for kind in ("planted", "arms", "demo", "sets")}
    result = {"n_runs": sum(2 if "second" in row else 1 for row in rows)}
    result["planted"] = {
        f"{row['set']}, l = {row['degree']}": {
            "shapley_share_l0": row["groups"]["l = 0"]["shapley_share"],
            "shapley_share_l2": row["groups"]["l = 2"]["shapley_share"],
            "enrichment_l2": enrichment(row),
        }
        for row in by["planted"]
    }
    result["arms"] = {
        row["arm"]: {"enrichment_l2": enrichment(row), "shapley_share_l2": row["groups"]["l = 2"]["shapley_share"]}
        for row in by["arms"]
    }
    result["demo"] = {row["arm"]: of_two_seeds(row) for row in by["demo"]}
    result["sets"] = {
        row["set"]: {
            "is_transition_metal": row["set"] in METALS,
            "quadrupole": row["anisotropy"]["2"],
            **of_two_seeds(row),
        }
        for row in by["sets"]
    }
    every = [r for row in rows for r in ([row, row["second"]] if "second" in row else [row])]
    result["completeness"] = {
        "n": len(every),
        "hidden": sum(abs(r["completeness"] - 1) > 0.05 for r in every),
        "with_4_nodes": sum(r["nodes"] == 4 for r in every),
    }
    pairs = [pair for part in ("demo", "sets") for s in result[part].values() for pair in s["shapley_share"].values()]
    result["largest_difference_of_seeds"] = max((abs(a - b) for a, b in pairs), default=None)
    for side, word in ((True, "metals"), (False, "others")):
        found = [s for s in result["sets"].values() if s["is_transition_metal"] is side]
        if found:
            shares = [statistics.fmean(s["shapley_share"]["l = 2"]) for s in found]
            result[f"shapley_share_l2_{word}"] = statistics.fmean(shares)
            result[f"enrichment_l2_{word}"] = statistics.fmean(statistics.fmean(s["enrichment_l2"]) for s in found)
    return result


def of_two_seeds(row):
    """What two runs of one set and arm say, seed by seed, and how they agree."""
    rows = (row, row["second"])
    return {
        "enrichment_l2": [enrichment(r) for r in rows],
        "shapley_share": {g: [r["groups"][g]["shapley_share"] for r in rows] for g in row["groups"]},
        "correlation_with_fisher": [r["correlation"] for r in rows],
        "log_rate_correlation_of_seeds": rate_correlation(*rows),
        **{key: row["overlap"][key] for key in ("jaccard", "chance", "ceiling")},
    }


def rate_correlation(first, second):
    """Pearson's r of the log rates by path, where both seeds changed a weight."""
    pairs = [(first["counts"][k][0] / first["counts"][k][1], second["counts"][k][0] / second["counts"][k][1])
             for k in first["counts"] if first["counts"][k][0] and second["counts"][k][0]]  # fmt: skip
    if len(pairs) < 3 or np.log(np.array(pairs)).std(axis=0).min() < 1e-9:
        return None  # of full fine-tuning every rate is 1
    return float(np.corrcoef(np.log(np.array(pairs)).T)[0, 1])


def main(verbs):
    """The named parts, one after the other."""
    torch.set_num_threads(1)
    keep_large_blocks()
    for verb in verbs:
        if verb == "summary":
            print(json.dumps(summary(), indent=1))
        elif verb == "sets":
            sets_of([name for pair in zip(METALS, OTHERS) for name in pair])
        elif verb == "longer":
            sets_of(LONGER, "longer", LONGER_EPOCHS)
        else:
            {"planted": planted, "arms": arms, "demo": demo}[verb]()


if __name__ == "__main__":
    main(sys.argv[1:])
