"""What 1,000 ranks would do: balance by simulation, bytes counted in two processes, failures by assumption.

bench/scale.py runs `balance`, `traffic` and `failures` of this file; every assumption is a constant here.
"""

import json
import math
import os
import sys
import time

import numpy as np

import scale_auto

N_RANKS, EACH, N_ENTRIES = 1000, 64, 10_000_000
# A network: latency in s and bytes a second, within a node of 8 devices and between nodes.
NODE, INSIDE, OUTSIDE = 8, (3e-6, 300e9), (8e-6, 25e9)
DEVICE_HOURS = (10_000, 50_000)  # between two failures of one device, with its share of everything else
STARTING_S = 60.0  # of all processes on a cluster, from a failure to the call of `fit`
SAVING_S = 1.0  # a checkpoint on a shared file system
CHECKPOINT_S = 300.0  # the default of --checkpoint-minutes
SHAPE = "mp-0b3-medium"


def balance(results):
    """Largest over mean load of the ranks, of sizes of real sets mixed to 10 million."""
    from pathtune.data import read_structures
    from pathtune.data.neighbours import count_edges
    from pathtune.data.plan import cut, dealt, plan_of

    sizes, edges = [], []
    for file in sorted(scale_auto.DATA.rglob("train.extxyz.xz")):
        for s in read_structures(file, max_frames=50, needs_labels=False):
            sizes.append(len(s))
            edges.append(count_edges(s, 5.0))
    generator = np.random.default_rng(0)
    mixed = generator.integers(0, len(sizes), N_ENTRIES)
    n_atoms, loads = np.array(sizes, dtype=np.int32)[mixed], np.array(edges)[mixed]
    began = time.process_time()
    plan = plan_of(n_atoms, N_RANKS * EACH, None, 0, 0)
    plan_s = time.process_time() - began
    began = time.process_time()
    cut(n_atoms[plan.order], N_RANKS * EACH * int(n_atoms.mean()))
    cut_s = time.process_time() - began
    ratios, seconds = [], []
    for k in range(20):
        step = loads[plan.step(k)]
        began = time.process_time()
        parts = dealt(step, N_RANKS)
        seconds.append(time.process_time() - began)
        totals = np.array([step[part].sum() for part in parts])
        ratios.append(float(totals.max() / totals.mean()))
    drawn = [loads[plan.step(k)].reshape(N_RANKS, EACH).sum(axis=1) for k in range(20)]
    return {"n_kinds": len(sizes), "atoms": [min(sizes), max(sizes)], "edges": [min(edges), max(edges)],
            "largest_over_mean": max(ratios), "mean_of_it": float(np.mean(ratios)),
            "without_dealing": float(np.mean([t.max() / t.mean() for t in drawn])),
            "plan_s": plan_s, "cut_s": cut_s, "deal_ms": 1e3 * float(np.median(seconds)),
            "plan_mb": (plan.order.nbytes + plan.ends.nbytes) / 1e6}  # fmt: skip


class Counted:
    """Bytes that this process hands to collectives of torch.distributed, by step of a Loop."""

    def __init__(self):
        import torch.distributed.distributed_c10d as c10d

        from pathtune.training.loop import Loop

        self.steps, self.now = [], {}
        for name in ("all_reduce", "all_gather", "broadcast"):
            for module in (c10d, sys.modules["torch.distributed"]):
                setattr(module, name, self._counting(name, getattr(c10d, name)))
        original = Loop._train_epoch

        def epoch(loop):
            self.now = {}
            original(loop)
            self.steps.append(self.now)

        Loop._train_epoch = epoch

    def _counting(self, name, call):
        if getattr(call, "is_counted", False):
            return call

        def counted(*args, **options):
            tensor = args[0] if name != "all_gather" else args[1]
            self.now[name] = self.now.get(name, 0) + tensor.numel() * tensor.element_size()
            return call(*args, **options)

        counted.is_counted = True
        return counted


def crystals(n):
    """Structures of 4 atoms of three elements with random labels."""
    from pathtune.data import Structure

    generator, corners = np.random.default_rng(0), np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
    found = []
    for k in range(n):
        s = Structure(where=f"crystal {k}", atomic_numbers=np.array([26, 8, 29, 29]),
                      positions=corners * 1.8 + generator.normal(scale=0.05, size=(4, 3)), cell=np.eye(3) * 3.6,
                      pbc=np.ones(3, dtype=bool))  # fmt: skip
        s.energy_ev, s.forces = float(generator.normal()), generator.normal(size=(4, 3))
        found.append(s)
    return found


def traffic():
    """One step an epoch of two structures, so that each of two processes has one; the narrowing is done after two."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    counted = Counted()
    from pathtune import FitConfig, SparseDelta, fit, load, sparsify, unfreeze
    from pathtune.benchmark import cases
    from pathtune.processes import world

    base, data, result = load(cases.build(SHAPE)), crystals(2), {}
    config = FitConfig(epochs=4, batch_size=2, refit_e0=False, refit_e0_last=False, check_units=False, lr=1e-6)
    models = {"full": unfreeze(base, "full")}
    for name, elements in (("3 %, 3 elements", [8, 26, 29]), ("3 %, 89 elements", None)):
        models[name] = sparsify(base, SparseDelta(active_share=0.03, by_step=2), elements=elements)
    for name, model in models.items():
        counted.steps.clear()
        fit(model, data, data, config)
        values = sum(p.numel() for p in model.trainable())
        n_tensors = len(model.trainable())
        result[name] = {
            "values": values,
            # the loss, three flags, which of the tensors have a gradient, the gradients
            "computed_bytes": 4 * (1 + 3 + n_tensors + values),
            "first_step": counted.steps[0],
            "last_step": counted.steps[-1],
            "network_ms": 1e3 * network_s(4 * values),
        }
    if world().is_first:
        print(json.dumps(result))
    dist.destroy_process_group()


def network_s(n_bytes):
    """Seconds of an all-reduce over N_RANKS: reduced within nodes, over them, and spread, each as a ring or a tree."""
    n_nodes = N_RANKS // NODE

    def part(n, latency, speed):
        return 2 * math.log2(n) * latency + 2 * (n - 1) / n * n_bytes / speed

    return part(NODE, *INSIDE) + part(n_nodes, *OUTSIDE)


def failures(results):
    """Share of the time of N_RANKS devices that failures cost: steps since the checkpoint, and starting again.

    First order in the time between failures (Young, 1974): saving / every + every / 2 M + starting / M.
    """
    known = json.loads(results.read_text()) if results.exists() else {}
    first_step_s = known["start"]["large"]["first_step_s"]
    found = {"first_step_s": first_step_s, "starting_s": STARTING_S, "saving_s": SAVING_S, "rates": {}}
    for hours in DEVICE_HOURS:
        mean_s = 3600.0 * hours / N_RANKS
        best = math.sqrt(2 * SAVING_S * mean_s)
        found["rates"][str(hours)] = {
            "hours_between": mean_s / 3600,
            "lost_by_default": _lost(CHECKPOINT_S, mean_s, STARTING_S + first_step_s),
            "best_minutes": best / 60,
            "lost_at_best": _lost(best, mean_s, STARTING_S + first_step_s),
        }
    return found


def _lost(every, mean_s, again_s):
    return SAVING_S / every + every / (2 * mean_s) + again_s / mean_s


def rows(r):
    """Rows of the table of docs/scale.md."""
    body = []
    if "large" in r:
        v = r["large"]
        body += [["one epoch of 1,000 steps on 1,000,000 structures of 9 atoms: whole command, processor",
                  f"{v['cpu_s']:.0f} s"],
                 ["the same, structures in a processor second", f"{v['n'] / v['cpu_s']:,.0f}"],
                 ["the same, anonymous memory", f"{v['anonymous_mb']:.0f} MB"]]  # fmt: skip
    if "balance" in r:
        body += [["largest over mean load, 1,000 simulated ranks", f"{r['balance']['largest_over_mean']:.3f}"],
                 ["the same without dealing by cost", f"{r['balance']['without_dealing']:.2f}"]]  # fmt: skip
    return body


def network_table(r):
    """Header and rows: what a step sends, and how long that is assumed to take on N_RANKS devices."""
    body = [[name, f"{v['values']:,}", f"{v['computed_bytes']:,}", f"{sum(v['last_step'].values()):,}",
             f"{sum(v['first_step'].values()):,}", f"{v['network_ms']:.2f} ms"]
            for name, v in r["traffic"].items()]  # fmt: skip
    return ["weights trained", "values at the end", "bytes computed", "bytes counted", "in the first step",
            "assumed time"], body  # fmt: skip


def failures_table(r):
    """Header and rows: the share of N_RANKS devices' time that failures cost."""
    body = [[f"{int(hours):,}", f"{v['hours_between']:.0f} h", f"{100 * v['lost_by_default']:.1f} %",
             f"{100 * v['lost_at_best']:.1f} %, every {v['best_minutes']:.0f} minutes"]
            for hours, v in r["failures"]["rates"].items()]  # fmt: skip
    return ["device hours to a failure", "M, of 1,000 devices", "time lost", "at best"], body


if __name__ == "__main__":
    assert sys.argv[1:] == ["traffic"], os.fspath(__file__)
    traffic()
