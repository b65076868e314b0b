"""Training steps on a GPU against what users run today, and every kernel against the device's own ceilings.

    bench/gpu.sh                                   # under 10 minutes; writes bench/results/gpu_<device>.json as it goes
    python bench/gpu.py --device cpu --quick       # the same code without a GPU, to see that it runs

Identical inputs, arms in turn, medians. Stock MACE, and stock MACE converted by mace itself to cuEquivariance or
OpenEquivariance where those are installed, train all weights; ours all weights, and 3 % of the reachable ones. Kernel
times are of torch's profiler; the bytes and FLOPs they are divided by are bench/cost_model.py's. Batches are made, and
their edges sorted, before the clock starts, for every arm alike. `varying`: four batches of other sizes in turn, since
kernels that are compiled or planned for a shape may be slower then. `new batch`: each step makes its batch of its
structures first, as a training does without a thread that makes it ahead; with `captured`, where there is a device, the
step is a CUDA graph.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import itertools
import json
import pathlib
import re
import statistics
import time
import warnings

import numpy as np
import schedulefree
import torch

from cost_model import by_kernel, step_costs
from pathtune import FitConfig, InputError, load, unfreeze
from pathtune.benchmark import cases
from pathtune.benchmark.step import make_batch, make_model, training_step
from pathtune.data import Batch, Frames, elements_of
from pathtune.losses import loss
from pathtune.training.captured import captured_steps

RESULTS = pathlib.Path(__file__).parent / "results"
# operator: how the names of its CUDA kernels begin; on a CPU the operator's own name is looked for
KERNELS = {"edge_conv": "conv_", "symmetric_contraction": "contract|sum_over_nodes",
           "species_linear": "multiply_rows|sum_outer", "sampled_gradient": "products|finish_",
           "soft_threshold": "write_deltas", "radial_table": "radial_", "edge_geometry": "geometry_"}  # fmt: skip
# label: the package it needs, and the script of mace.cli that converts a model for it
CONVERTERS = {"MACE + cuEquivariance": ("cuequivariance_torch", "convert_e3nn_cueq"),
              "MACE + OpenEquivariance": ("openequivariance", "convert_e3nn_oeq")}  # fmt: skip
ACTIVE_SHARE = 0.03


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(function, device: torch.device, repeats: int) -> list[float]:
    """Wall times of single calls, after two to warm up."""
    times = []
    for i in range(repeats + 2):
        wait(device)
        began = time.perf_counter()
        function()
        wait(device)
        if i >= 2:
            times.append(time.perf_counter() - began)
    return times


def ceilings(device: torch.device, quick: bool) -> dict[str, float]:
    """What this device reaches: bytes/s of a copy, float32 FLOP/s of a matrix product without TF32."""
    n, m = (2**22, 512) if quick else (2**28, 8192)
    x, a, b = torch.ones(n, device=device), torch.randn(m, m, device=device), torch.randn(m, m, device=device)
    y = torch.empty_like(x)
    return {"bytes_per_s": 8 * n / statistics.median(seconds_of(lambda: y.copy_(x), device, 7)),
            "flops_per_s": 2 * m**3 / statistics.median(seconds_of(lambda: a @ b, device, 7))}  # fmt: skip


def converted(stock: torch.nn.Module, package: str, script: str, device: torch.device) -> torch.nn.Module:
    """The stock model as mace's own converter makes it."""
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{package} is not installed")
    return importlib.import_module(f"mace.cli.{script}").run(copy.deepcopy(stock), device=str(device))


def arms(name: str, atoms: int, device: torch.device) -> tuple[dict, dict[str, str]]:
    """A model for each arm, and the reasons of those that are missing."""
    stock = cases.build(name)
    elements = elements_of(cases.structures(name, atoms))
    models = {"MACE, full": unfreeze(load(stock, backend="reference", device=str(device)), "full", elements)}
    missing = {}
    for label, (package, script) in CONVERTERS.items():
        try:
            other = converted(stock, package, script, device)
            models[f"{label}, full"] = unfreeze(load(other, backend="reference", device=str(device)), "full", elements)
        except Exception as error:  # another project's code: whatever it raises is the reason, and the others go on
            missing[label] = f"{type(error).__name__}: {error}"[:300]
    for arm in ("full", "sparse"):
        models[f"pathtune, {arm}"] = make_model(stock, "auto", arm, ACTIVE_SHARE, elements, device=str(device))
    return models, missing


def alternating(steps: dict, device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, A B A B ..., after two rounds to warm up."""
    times: dict[str, list[float]] = {label: [] for label in steps}
    for i in range(rounds + 2):
        for label, step in steps.items():
            wait(device)
            began = time.perf_counter()
            step()
            wait(device)
            if i >= 2:
                times[label].append(time.perf_counter() - began)
    return times


def kernel_times(step, device: torch.device) -> dict[str, float]:
    """Microseconds of each of our kernels in one step."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        step()
        wait(device)
    total = dict.fromkeys(KERNELS, 0.0)
    for event in profile.key_averages():
        for operator, names in KERNELS.items():
            if device.type == "cuda" and re.search(rf"pathtune::cuda::.*\b({names})", event.key):
                total[operator] += event.self_device_time_total
            elif device.type != "cuda" and operator in event.key:
                total[operator] += event.self_cpu_time_total
    return total


def against_ceilings(times_us: dict[str, float], name: str, batch: Batch, top: dict) -> list[dict]:
    """Per kernel: time, bytes/s, FLOP/s, and how far from its own floor on this device."""
    n_present = batch.species.unique().numel()
    costs = by_kernel(step_costs(name, batch.n_nodes, batch.sender.numel(), n_present), top)
    rows = []
    for kernel, us in times_us.items():
        mine = [c for c in costs if c["kernel"] == kernel]
        mbytes, mflop = sum(c["mbytes"] for c in mine), sum(c["mflop"] for c in mine)
        floor = sum(c["floor_us"] for c in mine)
        rows.append({"kernel": kernel, "us": round(us, 1), "gbytes_per_s": round(1e3 * mbytes / us, 1) if us else None,
                     "gflop_per_s": round(1e3 * mflop / us, 1) if us else None,
                     "times_floor": round(us / floor, 2) if floor and us else None})  # fmt: skip
    return rows


def of_varying_sizes(model, name: str, atoms: int):
    """A step on the next of four batches of other sizes, each time it is called."""
    steps = [training_step(model, make_batch(model, name, round(atoms * share))) for share in (1, 0.5, 1.25, 0.75)]
    turn = itertools.cycle(steps)
    return lambda: next(turn)()


def labelled_structures(name: str, atoms: int) -> list:
    """The case's structures with random forces and energies of zero."""
    structures = cases.structures(name, atoms)
    generator = np.random.default_rng(1)
    for s in structures:
        s.energy_ev, s.forces = 0.0, generator.normal(size=(len(s), 3))
    return structures


def of_new_batches(model, name: str, atoms: int, captured: bool):
    """A step that makes its batch first; `captured`: and does the rest by a CUDA graph."""
    source = Frames(labelled_structures(name, atoms))
    indices, config = list(range(len(source))), FitConfig(capture=captured)
    parameters = model.trainable()
    optimizer = schedulefree.AdamWScheduleFree(parameters, lr=1e-6)
    optimizer.train()
    steps = captured_steps(model, source, config, config.scale_of(model, source)) if captured else None

    def step():
        optimizer.zero_grad(set_to_none=True)
        if steps is not None:
            steps.staged(indices)()
        else:
            batch = model.batch(source, indices)
            loss(model(batch, training=True), batch).backward(inputs=parameters)
        optimizer.step()

    return step


def measure(name: str, atoms: int, device: torch.device, rounds: int, top: dict) -> dict:
    """One model and size: all arms."""
    models, missing = arms(name, atoms, device)
    batches = {label: make_batch(model, name, atoms) for label, model in models.items()}
    steps = {label: training_step(model, batches[label]) for label, model in models.items()}
    peak = {}
    for label, step in list(steps.items()):
        try:
            step()
        except Exception as error:  # of another project, or no memory: the others go on
            missing[label] = f"{type(error).__name__}: {error}"[:300]
            del steps[label]
            continue
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            step()
            peak[label] = torch.cuda.max_memory_allocated(device) - before
    times = alternating(steps, device, rounds)
    median = {label: statistics.median(t) for label, t in times.items()}
    anew = {label: of_new_batches(models[label], name, atoms, False) for label in steps}
    if device.type == "cuda":
        ours = [label for label in steps if label.startswith("pathtune")]
        anew |= {f"{label}, captured": of_new_batches(models[label], name, atoms, True) for label in ours}
    new_batch = alternating(anew, device, rounds)
    varying = alternating({label: of_varying_sizes(models[label], name, atoms) for label in steps}, device, rounds)
    batch = batches["pathtune, sparse"]
    kernels = kernel_times(steps["pathtune, sparse"], device)
    return {"model": name, "n_atoms": batch.n_nodes, "n_edges": batch.sender.numel(), "missing": missing,
            "median_seconds": median, "all_seconds": times, "peak_bytes": peak,
            "ratio": {label: median["MACE, full"] / s for label, s in median.items()},
            "varying_median_seconds": {label: statistics.median(t) for label, t in varying.items()},
            "new_batch_median_seconds": {label: statistics.median(t) for label, t in new_batch.items()},
            "kernels": against_ceilings(kernels, name, batch, top)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=["mp-0b3-medium", "demo", "off23-medium"])
    parser.add_argument("--atoms", nargs="+", type=int, default=[64, 512])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="smallest model and size, two rounds")
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    device = torch.device(args.device)
    if args.quick:
        args.models, args.atoms, args.rounds = ["demo"], [20], 2
    if device.type == "cuda" and args.device != "cuda":
        why = "mace's converters fuse for no other name (choose one of several devices by CUDA_VISIBLE_DEVICES)"
        parser.error(f"--device is {args.device}, expected cuda: {why}")
    torch.backends.cuda.matmul.allow_tf32 = False
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, a rehearsal"
    out = args.out or RESULTS / f"gpu_{re.sub('[^A-Za-z0-9]+', '_', label)}.json"
    top = ceilings(device, args.quick)
    result = {"device": label, "torch": torch.__version__, "cuda": torch.version.cuda, "ceilings": top, "runs": []}
    for name in args.models:
        for atoms in args.atoms:
            try:
                run = measure(name, atoms, device, args.rounds, top)
                print(name, atoms, {k: f"{v:.2f} x" for k, v in run["ratio"].items()}, run["missing"], flush=True)
            except (InputError, RuntimeError) as error:  # no data, no memory: said, and the next one is tried
                run = {"model": name, "n_atoms": atoms, "failed": f"{type(error).__name__}: {error}"[:300]}
                print(name, atoms, run["failed"], flush=True)
            result["runs"].append(run)
            out.write_text(json.dumps(result, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
