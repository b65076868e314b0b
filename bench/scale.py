"""Large data and several processes: bench/results/scale.json, in processor seconds, for machines that are shared.

    python bench/scale.py [--work FOLDER] [--before SITE] [case ...]     # PATHTUNE_DATA as in CONTRIBUTING.md

    prepare  start  source  weak  large     stores of jittered aspirin, `large` of ethanol; all files are deleted
    auto                                    ethanol; --before: where commit 363d2fc is installed (pip install --target)
    balance  traffic  failures              on paper, and counted in two processes (bench/scale_paper.py)

`weak` is to be run on two free cores: its figure is of wall time, each process on a core of its own.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import ase.io
import numpy as np

import scale_auto
import scale_paper

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "scale.json"
N_SMALL, COPIES, JITTER_A = 20_000, 50, 0.01
CASES = ("prepare", "start", "source", "auto", "weak", "large", "balance", "traffic", "failures")
QUIET = 2.5  # load that wall times bear: two processes, and little else
REPEATS = 3  # in turns; the fastest or the median counts


def data_text(folder, split, file):
    import lzma

    file.write_bytes(lzma.decompress((scale_auto.DATA / folder / f"{split}.extxyz.xz").read_bytes()))
    return file


def jittered(work, folder, name):
    """20,000 structures with the labels of those that they were made of, as text."""
    generator = np.random.default_rng(0)
    frames = ase.io.read(data_text(folder, "train", work / f"{name}_train.xyz"), ":")
    file = work / f"{name}_jittered.xyz"
    with open(file, "w") as stream:
        for k in range(N_SMALL):
            atoms = frames[k % len(frames)].copy()
            atoms.positions += generator.normal(scale=JITTER_A, size=atoms.positions.shape)
            ase.io.write(stream, atoms, format="extxyz")
    return file


class Files:
    """What the cases need, made when it is first asked for."""

    def __init__(self, work):
        self.work = work
        self.prepared = None

    def small(self):
        """A store of 20,000 aspirins, the model, and what preparing cost."""
        from pathtune.data.readers import read_frames
        from pathtune.data.store import prepare

        if self.prepared is not None:
            return self.prepared
        text = jittered(self.work, "rmd17/aspirin", "aspirin")
        data_text("rmd17/aspirin", "valid", self.work / "aspirin_valid.xyz")
        tenth = self.work / "tenth.xyz"
        lines = text.read_text().splitlines(keepends=True)
        tenth.write_text("".join(lines[: len(lines) // 10]))
        times = []
        for act in (lambda: prepare([str(text)], self.work / "small", jobs=1), lambda: read_frames(tenth),
                    lambda: ase.io.read(tenth, ":")):  # fmt: skip
            began = time.process_time()
            act()
            times.append(1e6 * (time.process_time() - began) / N_SMALL)
        self.model()
        self.prepared = {"n": N_SMALL, "us_per_structure": times[0], "of_it_reading_us": 10 * times[1],
                         "ase_reads_us": 10 * times[2]}  # fmt: skip
        return self.prepared

    def model(self):
        """The pretrained model of molecules."""
        file = self.work / "spice.model"
        if not file.exists():
            script = scale_auto.DATA / "weights" / "to_mace.py"
            subprocess.run([sys.executable, script, "mace_spice_32x0e", file], check=True, capture_output=True)
        return file

    def large(self):
        """The shards of the small store as often as makes a million."""
        self.small()
        if not (self.work / "large").exists():
            multiply(self.work / "small", self.work / "large", COPIES)

    def ethanols(self):
        """A store of a million jittered ethanols."""
        from pathtune.data.store import prepare

        if not (self.work / "ethanols").exists():
            prepare([str(jittered(self.work, "rmd17/ethanol", "ethanol"))], self.work / "some ethanols", jobs=1)
            multiply(self.work / "some ethanols", self.work / "ethanols", COPIES)
            data_text("rmd17/ethanol", "valid", self.work / "valid.xyz")


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


def child(arguments, n_processes=1, site=None):
    """The JSON that a script of this folder prints."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    launcher = several if n_processes > 1 else []
    path = {} if site is None else {"PYTHONPATH": site}
    done = subprocess.run([sys.executable, *launcher, *map(str, arguments)], capture_output=True, text=True,
                          check=False, env=os.environ | {"OMP_NUM_THREADS": "1"} | path)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def steps(work, data, n_steps, batch, n_processes=1, refits=True, pins=False):
    given = map(json.dumps, (data, n_steps, batch, refits, pins))
    return child([HERE / "scale_child.py", "steps", work, *given], n_processes)


def in_turns(files, names, *asked):
    """Runs of each in turns; the medians of all they measured."""
    found = {name: [] for name in names}
    for _ in range(REPEATS):
        for name in names:
            found[name].append(steps(files.work, name, *asked))
    return {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for name, runs in found.items()}  # fmt: skip


def start(files):
    files.large()
    found = in_turns(files, ("small", "large"), 60, 8)
    return found | {"memory_ratio": found["large"]["anonymous_mb"] / found["small"]["anonymous_mb"]}


def source(files):
    """In memory, neighbours are found once: steps beyond the first epoch are measured."""
    files.small()
    found = {}
    for size, n in ((8, 1000), (64, 128)):
        both = found[f"batch {size}"] = in_turns(files, ("memory", "store"), n, size, 1, False)
        for clock, key in (("by_wall", "wall_us_per_structure"), ("by_processor", "us_per_structure")):
            both[clock] = both["memory"][key] / both["store"][key]
    return found | {"load": os.getloadavg()[1]}


def weak(files):
    files.small()
    runs = {"one": [], "two": []}
    for _ in range(REPEATS):
        runs["one"].append(steps(files.work, "small", 40, 64, refits=False, pins=True))
        runs["two"].append(steps(files.work, "small", 40, 128, 2, refits=False, pins=True))
    best = {name: min(found, key=lambda r: r["wall_us_per_structure"]) for name, found in runs.items()}
    cpu = {name: min(r["us_per_structure"] for r in found) for name, found in runs.items()}
    wall = {name: r["wall_us_per_structure"] for name, r in best.items()}
    return best | {"by_wall": wall["one"] / (2 * wall["two"]), "by_processor": cpu["one"] / cpu["two"],
                   "load": os.getloadavg()[1], "repeats": REPEATS}  # fmt: skip


def auto(files, before):
    """In turns: the commit of before, this one, and this one by atoms; medians of all epochs."""
    kinds = {"8": (None, "8"), "auto": (None, "auto")} | ({"before": (before, "8")} if before else {})
    found = {name: [] for name in kinds}
    for _ in range(REPEATS):
        for name, (site, batch) in kinds.items():
            found[name] += child([HERE / "scale_auto.py", "seconds", files.model(), batch], site=site)
    return {name: statistics.median(times) for name, times in found.items()}


def large(files):
    files.ethanols()
    result = child([HERE / "scale_child.py", "epoch", files.work, json.dumps("ethanols"), "1000"])
    size = sum(f.stat().st_size for f in (files.work / "ethanols").rglob("*") if f.is_file())
    return result | {"n": N_SMALL * COPIES, "steps": N_SMALL * COPIES // 1000, "store_mb": size / 1e6}


def measure(case, files, before):
    if case in ("balance", "failures"):
        return getattr(scale_paper, case)(RESULTS)
    if case == "traffic":
        return child([HERE / "scale_paper.py", "traffic"], 2)
    if case == "auto":
        return auto(files, before)
    return {"prepare": Files.small, "start": start, "source": source, "weak": weak, "large": large}[case](files)


def results():
    """What was measured so far."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def table():
    """Header and rows of docs/scale.md; a case that was not run has none."""
    r = results()
    body = []
    if "start" in r:
        s = r["start"]
        body += [["first step on 1,000,000 prepared structures, start-up included",
                  f"{s['large']['first_step_s']:.0f} s"],
                 ["of it the E0 refit, on a sample of 20,000", f"{s['large']['e0_s']:.0f} s"],
                 ["memory of 1,000,000 over that of 20,000", f"{s['memory_ratio']:.3f}"]]  # fmt: skip
    if "prepare" in r:
        p = r["prepare"]
        body += [["`prepare`, a structure of 21 atoms", f"{p['us_per_structure']:.0f} us"],
                 ["of it reading extxyz", f"{p['of_it_reading_us']:.0f} us"],
                 ["what ASE takes to read the same", f"{p['ase_reads_us']:.0f} us"]]  # fmt: skip
    for key, v in ((key, v) for key, v in r.get("source", {}).items() if key.startswith("batch")):
        body.append([f"structures a second from a store over those from memory, {key}", f"{v['by_wall']:.2f}"])
    if "auto" in r:
        for name, words in (("before", "batch 8 at commit 363d2fc"), ("8", "batch 8")):
            if name in r["auto"]:
                ratio = f"{r['auto'][name] / r['auto']['auto']:.1f}"
                body.append([f"ethanol, time of {words} over that of `--batch-atoms auto`", ratio])
    w = r.get("weak", {})
    if "load" in w:
        body.append(["processor time of 1 process over that of each of 2, 64 structures each, a core each",
                     f"{w['by_processor']:.2f}"])  # fmt: skip
        busy = f" (not to be believed: {w['load']:.0f} processes ran on 2 cores)" if w["load"] > QUIET else ""
        body.append(["the same of wall time: weak scaling", f"{w['by_wall']:.2f}{busy}"])
    body += scale_paper.rows(r)
    return ["figure", "value"], body


TABLES = {
    "scale": table,
    "scale_auto": scale_auto.table,
    "scale_network": lambda: scale_paper.network_table(results()),
    "scale_failures": lambda: scale_paper.failures_table(results()),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--before")
    parser.add_argument("cases", nargs="*", default=CASES)
    args = parser.parse_args()
    files = Files(pathlib.Path(tempfile.mkdtemp(dir=args.work)))
    try:
        for case in args.cases:
            found = measure(case, files, args.before)
            RESULTS.write_text(json.dumps(results() | {case: found}, indent=1) + "\n")
            print(case, json.dumps(found, indent=1), flush=True)
    finally:
        shutil.rmtree(files.work)


if __name__ == "__main__":
    main()
