"""Large data and several processes: bench/results/scale.json, in processor seconds, for machines that are shared.

    PATHTUNE_DATA=../shared/data python bench/scale.py [--work FOLDER] [--copies 50] [case ...]

Aspirin of revised MD17, jittered by 0.01 A, 20,000 structures with the labels of those that they were made of; the
large store has the shards of the small one as often as `--copies` says, each a file of its own. All files are deleted.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import ase.io
import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results" / "scale.json"
N_SMALL, JITTER_A = 20_000, 0.01
CASES = ("prepare", "start", "source", "auto", "weak", "balance")


def data():
    return pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))


def make_files(work, copies):
    """jittered.xyz, the stores small and large, and spice.model; what a structure costs `prepare`, and ASE alone."""
    from pathtune.data.store import prepare

    generator = np.random.default_rng(0)
    frames = ase.io.read(data_text("aspirin", "train", work), ":")
    with open(work / "jittered.xyz", "w") as stream:
        for k in range(N_SMALL):
            atoms = frames[k % len(frames)].copy()
            atoms.positions += generator.normal(scale=JITTER_A, size=atoms.positions.shape)
            ase.io.write(stream, atoms, format="extxyz")
    began = time.process_time()
    prepare([str(work / "jittered.xyz")], work / "small", jobs=1)
    seconds = time.process_time() - began
    began = time.process_time()
    ase.io.read(work / "jittered.xyz", f":{N_SMALL // 10}")
    reading = (time.process_time() - began) * 10
    multiply(work / "small", work / "large", copies)
    script = data() / "weights" / "to_mace.py"
    subprocess.run([sys.executable, script, "mace_spice_32x0e", work / "spice.model"], check=True, capture_output=True)
    return {"us_per_structure": 1e6 * seconds / N_SMALL, "of_it_ase_reads_us": 1e6 * reading / N_SMALL}


def data_text(name, split, work):
    import lzma

    file = work / f"{name}_{split}.xyz"
    file.write_bytes(lzma.decompress((data() / "rmd17" / name / f"{split}.extxyz.xz").read_bytes()))
    return file


def multiply(small, large, copies):
    """A store with the shards of another, copied."""
    from pathtune.data.store.manifest import finish, read_manifest

    about = read_manifest(small)
    records = [json.loads(file.read_text()) for file in sorted((small / "shards").glob("*.json"))]
    (large / "shards").mkdir(parents=True)
    new = []
    for copy in range(copies):
        for record in records:
            name = f"{copy:03d}-{record['file']}"
            shutil.copyfile(small / "shards" / record["file"], large / "shards" / name)
            new.append(record | {"file": name})
    kept = ("r_max", "is_r_max_asked", "n_bad", "notes", "keys", "pathtune")
    finish(large, new, {key: about[key] for key in kept})


class Anonymous:
    """The most anonymous memory of this process while in here, sampled, in MB."""

    def __enter__(self):
        self.most, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self):
        while not self._over.wait(0.02):
            status = pathlib.Path("/proc/self/status").read_text()
            self.most = max(self.most, int(status.split("RssAnon:")[1].split()[0]) / 1e3)

    def __exit__(self, *error):
        self._over.set()
        self._thread.join()


class EnoughError(Exception):
    """The steps that were asked are done."""


def child_fit(work, store, n_steps, batch, threads=1):
    """In a process of its own: from nothing to the first step, and `n_steps` more; prints JSON."""
    with Anonymous() as memory:
        import torch

        torch.set_num_threads(threads)
        from pathtune import FitConfig, fit, load, refit_e0, sparsify
        from pathtune.conventions import check_conventions
        from pathtune.data import Frames, as_source
        from pathtune.ops.allocator import keep_large_blocks
        from pathtune.processes import world
        from pathtune.training.loop import Loop

        keep_large_blocks()
        if "RANK" in os.environ:
            torch.distributed.init_process_group("gloo")
        if store == "memory":
            source = Frames([as_source(work / "small").read(i) for i in range(2000)])
        else:
            source = as_source(work / store if store in ("small", "large") else work / f"{store}_train.xyz")
        base, times = load(work / "spice.model"), {}
        valid = as_source(work / "aspirin_valid.xyz", max_frames=20)
        check_conventions(base, source)
        base, refit = refit_e0(base, source)
        times["e0"] = time.process_time()
        original = Loop._train_step

        def step(self, piece):
            value = original(self, piece)
            times.setdefault("first", time.process_time())
            if self._steps_done + 1 == n_steps // 4:
                times["warm"] = time.process_time()
            if self._steps_done + 1 == n_steps:
                times["end"] = time.process_time()
                raise EnoughError
            return value

        Loop._train_step = step
        options = {"batch_atoms": batch} if batch == "auto" else {"batch_size": int(batch)}
        config = FitConfig(epochs=100, refit_e0=False, check_units=False, **options)
        with contextlib.suppress(EnoughError):
            fit(sparsify(base), source, valid, config)
        size = mean_step(source, config)
        cpu = world().gather(lambda: times["end"] - times["warm"])
    n = size * (n_steps - n_steps // 4)
    if world().is_first:
        print(json.dumps({"first_step_s": times["first"], "e0_s": times["e0"], "anonymous_mb": memory.most,
                          "us_per_structure": 1e6 * sum(cpu) / n, "structures_a_step": size,
                          "e0_structures": refit.n_used, "n": len(source)}))  # fmt: skip


def mean_step(source, config):
    from pathtune.training.plans import Plans

    plans = Plans(config, source)
    return len(source) / len(plans.of(0))


def run_child(work, store, n_steps, batch, n_processes=1):
    arguments = [__file__, "--work", str(work), "--child", store, str(n_steps), str(batch)]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    launcher = several if n_processes > 1 else []
    done = subprocess.run([sys.executable, *launcher, *arguments], capture_output=True, text=True, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def balance():
    """Largest over mean load of 1,000 simulated ranks of 64 structures, sizes of real sets mixed to 10 million."""
    from pathtune.data import read_structures
    from pathtune.data.neighbours import count_edges
    from pathtune.data.plan import cut, dealt, plan_of

    sizes, edges = [], []
    for file in sorted(data().rglob("train.extxyz.xz")):
        for s in read_structures(file, max_frames=50, needs_labels=False):
            sizes.append(len(s))
            edges.append(count_edges(s, 5.0))
    generator = np.random.default_rng(0)
    mixed = generator.integers(0, len(sizes), 10_000_000)
    n_atoms, loads = np.array(sizes, dtype=np.int32)[mixed], np.array(edges)[mixed]
    began = time.process_time()
    plan = plan_of(n_atoms, 64_000, None, 0, 0)
    plan_s = time.process_time() - began
    began = time.process_time()
    cut(n_atoms[plan.order], 64_000 * int(n_atoms.mean()))
    cut_s = time.process_time() - began
    ratios, seconds = [], []
    for k in range(20):
        step = loads[plan.step(k)]
        began = time.process_time()
        parts = dealt(step, 1000)
        seconds.append(time.process_time() - began)
        totals = np.array([step[part].sum() for part in parts])
        ratios.append(float(totals.max() / totals.mean()))
    drawn = [loads[plan.step(k)].reshape(1000, 64).sum(axis=1) for k in range(20)]
    return {"n_kinds": len(sizes), "atoms": [min(sizes), max(sizes)], "edges": [min(edges), max(edges)],
            "largest_over_mean": max(ratios), "mean_of_it": float(np.mean(ratios)),
            "without_dealing": float(np.mean([t.max() / t.mean() for t in drawn])),
            "plan_s": plan_s, "cut_s": cut_s, "deal_ms": 1e3 * float(np.median(seconds)),
            "plan_mb": (plan.order.nbytes + plan.ends.nbytes) / 1e6}  # fmt: skip


def measure(case, work, copies):
    if case == "start":
        small, large = run_child(work, "small", 60, 8), run_child(work, "large", 60, 8)
        return {"small": small, "large": large, "memory_ratio": large["anonymous_mb"] / small["anonymous_mb"]}
    if case == "source":  # in memory, neighbours are found once: steps beyond the first epoch are measured
        return {f"batch {size}": {name: run_child(work, name, steps, size) for name in ("memory", "small")}
                for size, steps in ((8, 1000), (64, 128))}  # fmt: skip
    if case == "auto":
        return {str(batch): run_child(work, "ethanol", 60, batch) for batch in (8, "auto")}
    if case == "weak":
        return {"one": run_child(work, "small", 24, 64), "two": run_child(work, "small", 24, 128, 2)}
    return balance()


def table():
    """Header and rows of docs/scale.md."""
    r = json.loads(RESULTS.read_text())
    start, auto, weak, balance = r["start"], r["auto"], r["weak"], r["balance"]
    cost = {key: {name: v["us_per_structure"] for name, v in r["source"][key].items()} for key in r["source"]}
    one, two = weak["one"]["us_per_structure"], weak["two"]["us_per_structure"]
    body = [
        ["first step on 1,000,000 prepared structures, start-up included", f"{start['large']['first_step_s']:.0f} s"],
        ["of it the E0 refit, on a sample of 20,000", f"{start['large']['e0_s']:.0f} s"],
        ["memory of 1,000,000 over that of 20,000", f"{start['memory_ratio']:.3f}"],
        ["`prepare`, a structure of 21 atoms", f"{r['prepare']['us_per_structure']:.0f} us"],
        ["of it ASE's reader", f"{r['prepare']['of_it_ase_reads_us']:.0f} us"],
        *[[f"time from memory over time from a store, {key}", f"{v['memory'] / v['small']:.2f}"]
          for key, v in cost.items()],
        ["ethanol, time of batch 8 over that of `--batch-atoms auto`",
         f"{auto['8']['us_per_structure'] / auto['auto']['us_per_structure']:.1f}"],
        ["time of 1 process over that of each of 2, 64 structures each", f"{one / two:.2f}"],
        ["largest over mean load, 1,000 simulated ranks", f"{balance['largest_over_mean']:.3f}"],
        ["the same without dealing by cost", f"{balance['without_dealing']:.2f}"],
    ]  # fmt: skip
    return ["figure", "value"], body


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--copies", type=int, default=50)
    parser.add_argument("--child", nargs=3)
    parser.add_argument("cases", nargs="*", default=CASES)
    args = parser.parse_args()
    if args.child:
        store, steps, batch = args.child
        child_fit(args.work, store, int(steps), batch)
        return
    work = pathlib.Path(tempfile.mkdtemp(dir=args.work))
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    try:
        if set(args.cases) - {"balance"}:
            prepared = make_files(work, args.copies)
            data_text("aspirin", "valid", work), data_text("ethanol", "train", work)
            result["prepare"] = {"n": N_SMALL, "copies": args.copies, **prepared}
        for case in args.cases:
            if case != "prepare":
                result[case] = measure(case, work, args.copies)
            RESULTS.write_text(json.dumps(result, indent=1) + "\n")
            print(case, json.dumps(result[case], indent=1), flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
