"""Lengths of moments from positions: a head on the features of SevenNet-0, on fe_snap_collinear.

    python bench/magnetism_lengths.py    # needs sevenn and PATHTUNE_DATA; writes bench/results/magnetism_lengths.json

Errors are of an atom, mu_B. The backbone is frozen, so its features are computed once.
"""

import collections
import json
import pathlib
import time
import warnings

import schedulefree
import torch

import magnetism
import pathtune
from pathtune.data import batches, batches_of
from pathtune.ops.allocator import keep_large_blocks

RESULT = pathlib.Path(__file__).parent / "results" / "magnetism_lengths.json"
SET, TRANSFER = "fe_snap_collinear", "mp_fe_li_v_static"
EPOCHS, BATCH, LRS, SEEDS = 30, 8, (0.003,), (0, 1, 2)
RIDGES = (1e-6, 1e-4, 1e-2, 1.0)
DIFFERENT = 0.05  # mu_B


def kept(model, source):
    """Features, edges and batch, of each batch of consecutive frames."""
    chunks = [range(k, min(k + BATCH, len(source))) for k in range(0, len(source), BATCH)]
    return [model.final_features(batch)[1] for batch in batches_of(model, source, chunks)]


def of_iron(pieces, species):
    """Features [n, dim] and lengths [n] of the iron atoms of all batches."""
    chosen = [(f, b.labels["moment_length"], b.species == species) for f, _, b in pieces]
    chosen = [(f[mine & label.mask], label.value[mine & label.mask]) for f, label, mine in chosen]
    return torch.cat([f for f, _ in chosen]).double(), torch.cat([y for _, y in chosen]).double()


def mean_error(found, lengths):
    return round(float((found - lengths).abs().mean()), 4)


def ridge_errors(data):
    """Errors on test and transfer of the ridge regression that is best on validation."""
    x, y = data["train"]
    centre, spread, mean = x.mean(0), x.std(0).clamp(min=1e-8), y.mean()
    rows = []
    for ridge in RIDGES:
        h = (x - centre) / spread
        slopes = torch.linalg.solve(h.T @ h + ridge * len(h) * torch.eye(h.shape[1]).double(), h.T @ (y - mean))
        rows.append([mean_error((data[s][0] - centre) / spread @ slopes + mean, data[s][1]) for s in data])
    return dict(zip(data, min(rows, key=lambda row: row[list(data).index("valid")])))


def head_of(model, splits, pieces, seed, lr):
    """A trained head, its best epoch and processor seconds."""
    options = {"moment_length": pathtune.LengthHead(moment_length=("Fe",))}
    tuned = pathtune.adapt(model, ["moment_length"], splits["train"].elements, options, seed)
    head = tuned.adaptation.parts()[0]
    began = time.process_time()
    head.begin(tuned, batches(tuned, splits["train"], 1), None)
    optimizer = schedulefree.AdamWScheduleFree(tuned.trainable(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    best = (float("inf"), 0, head.state())
    for epoch in range(EPOCHS):
        optimizer.train()
        for k in torch.randperm(len(pieces["train"]), generator=generator).tolist():
            optimizer.zero_grad()
            features, edges, batch = pieces["train"][k]
            error = head.lengths(features, edges, batch) - batch.labels["moment_length"].value
            torch.nn.functional.huber_loss(error, torch.zeros_like(error), delta=0.01).backward()
            optimizer.step()
        optimizer.eval()
        loss = errors_of(head, pieces["valid"], tuned.species_of([26])[0])
        best = min(best, (loss, epoch + 1, head.state()), key=lambda one: one[0])
    head.restore(best[2])
    return head, {"seed": seed, "lr": lr, "valid": best[0], "best_epoch": best[1],
                  "cpu_s": round(time.process_time() - began, 1)}  # fmt: skip


@torch.no_grad()
def errors_of(head, pieces, species):
    errors = []
    for features, edges, batch in pieces:
        label, mine = batch.labels["moment_length"], batch.species == species
        errors.append((head.lengths(features, edges, batch) - label.value)[mine & label.mask].abs())
    return round(float(torch.cat(errors).mean()), 4)


def several(splits):
    """Groups of frames of equal cells and positions, in all splits, with lengths of moments that differ."""
    groups = collections.defaultdict(list)
    for source in splits.values():
        for i in range(len(source)):
            s = source.read(i)
            groups[s.cell.round(4).tobytes(), s.positions.round(4).tobytes(), s.atomic_numbers.tobytes()].append(s)
    found = []
    for frames in groups.values():
        lengths = [torch.as_tensor(s.labels["moment_length"]) for s in frames]
        most = float((torch.stack(lengths).amax(0) - torch.stack(lengths).amin(0)).amax())
        if most > DIFFERENT:
            energies = [s.energy_ev / len(s) for s in frames]
            found.append((most, 1000 * (max(energies) - min(energies)), len(frames)))
    return {"groups": len(found), "frames": sum(n for *_, n in found),
            "most_mu_b": round(max(m for m, *_ in found), 3),
            "most_mev_atom": round(max(e for _, e, _ in found), 1)}  # fmt: skip


def main():
    """All of it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_large_blocks()
    splits = magnetism.splits_of(SET)
    model = pathtune.load("sevennet:7net-0")
    plain = pathtune.adapt(model, ["moment_length"], splits["train"].elements,
                           {"moment_length": pathtune.LengthHead(moment_length=("Fe",))})  # fmt: skip
    transfer = magnetism.as_source(magnetism.DATA / TRANSFER / "test.extxyz.xz")
    pieces = {name: kept(plain, source) for name, source in {**splits, "transfer": transfer}.items()}
    species = model.species_of([26])[0]
    data = {name: of_iron(mine, species) for name, mine in pieces.items()}
    mean = data["train"][1].mean()
    result = {
        "set": SET, "atoms": {name: len(y) for name, (_, y) in data.items()}, "several": several(splits),
        "mean": {name: mean_error(mean, y) for name, (_, y) in data.items()}, "ridge": ridge_errors(data), "heads": [],
    }  # fmt: skip
    for seed in SEEDS:
        for lr in LRS:
            head, line = head_of(model, splits, pieces, seed, lr)
            line |= {name: errors_of(head, pieces[name], species) for name in ("test", "transfer")}
            result["heads"].append(line)
            print(line, flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
