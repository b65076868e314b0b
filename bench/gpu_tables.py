"""Tables of docs/gpu.md about launches, registers and instructions: heads and bodies."""

from __future__ import annotations

import json
import pathlib

ROOT = pathlib.Path(__file__).parent.parent


def load(name: str) -> dict:
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())


# a kernel's file in csrc, and how its names begin
GPU_KERNELS = {"edge_conv": "conv_", "symmetric_contraction": ("contract", "sum_over_nodes"),
               "species_linear": ("multiply_rows", "sum_outer"), "sampled_gradient": ("products", "finish_"),
               "soft_threshold": "write_deltas", "radial_table": "radial_", "edge_geometry": "geometry_"}  # fmt: skip


# an operator, and how the names of its launchers begin
LAUNCHES = {**{operator: operator for operator in GPU_KERNELS}, "radial_table": "radial_"}


def resource_table() -> tuple[list[str], list[list[str]]]:
    """The largest float32 and float64 instance of every kernel on sm_90."""
    budget = json.loads((ROOT / "tests" / "nvcc" / "budget.json").read_text())
    code = json.loads((ROOT / "tests" / "nvcc" / "sass.json").read_text())
    body = []
    for operator, beginnings in GPU_KERNELS.items():
        mine = {name: used for name, used in budget["sm_90"].items() if name.split("::")[-1].startswith(beginnings)}
        for kernel in sorted({name.split("::")[-1].split("<")[0] for name in mine}):
            for dtype in ("float", "double"):
                same = [(name, used) for name, used in mine.items()
                        if name.split("::")[-1].split("<")[0] == kernel and f"<{dtype}" in name]  # fmt: skip
                if not same:
                    continue
                registers = max(used["registers"] for _, used in same)
                shared = max(used["static_shared_bytes"] for _, used in same)
                most = [str(max(code[name][what] for name, _ in same))
                        for what in ("instructions", "longest_loop", "load_bytes")]  # fmt: skip
                body.append([operator, f"{kernel}<{dtype}>", str(len(same)), str(registers), str(shared), *most])
    return ["operator", "kernel", "instances", "most registers", "most static shared bytes",
                 "most instructions", "longest loop", "widest load, bytes"], body  # fmt: skip


def launch_table() -> tuple[list[str], list[list[str]]]:
    """Launches of a step: ours by operator, and torch's operations."""
    counted = load("launches")["rows"]
    body = []
    for operator, begins in LAUNCHES.items():
        sums = (sum(n for kernel, n in row["kernels"].items() if kernel.startswith(begins)) for row in counted)
        body.append([operator, *map(str, sums)])
    for title, key in (("torch's operations", "n_torch"), ("numbers read on the host", "n_read_on_host")):
        body.append([title, *(str(row[key]) for row in counted)])
    body.insert(-1, ["together", *(str(row["n_kernels"] + row["n_torch"]) for row in counted)])
    of_batch = {"torch's operations": "n_torch", "copies to the device": "n_copies",
                "copies that the host waits for": "n_blocking"}  # fmt: skip
    for title, key in of_batch.items():
        body.append([f"a batch: {title}", *(str(row["preparing"][key]) for row in counted)])
    body.append(["edges of an atom", *(f"{row['edges_per_atom']:.0f}" for row in counted)])
    body.append(["most memory of a step, kB an atom", *(f"{row['peak_bytes_per_atom'] / 1e3:.0f}" for row in counted)])
    return ["", *(row["model"] for row in counted)], body


def issued_table() -> tuple[list[str], list[list[str]]]:
    """Instructions of each call's kernels, as PTX, and how long a device needs to issue them."""
    issued, traffic, body = load("issued"), load("emulated_traffic"), []
    model = {(row["kernel"], row["call"]): row["model_bytes"] / traffic["n_nodes"] for row in traffic["rows"]}
    rate = load("cost_model")["bytes_per_s"] / 1e6 / issued["n_atoms"]
    for row in issued["rows"]:
        line = [row["kernel"], row["call"], f"{row['issued_per_atom']:,.0f}", f"{row['floor_us']:.3g}"]
        # what the others read of tables does not grow with the atoms
        is_by_atom = row["kernel"] in ("edge_conv", "edge_geometry")
        line.append(f"{model[row['kernel'], row['call']] / rate:.3g}" if is_by_atom else "")
        if line not in body:
            body.append(line)
    return ["operator", "call", "instructions of warps, an atom", "to issue, us, 1,000 atoms",
                 "to move the bytes, us"], body  # fmt: skip


def traffic_table() -> tuple[list[str], list[list[str]]]:
    """Sectors and passes of every kernel over the least that its accesses need, the worst of its cases."""
    found = json.loads((ROOT / "tests" / "ptx" / "traffic.json").read_text())
    body = []
    for operator, beginnings in GPU_KERNELS.items():
        mine = [(kernel, counts) for case, kernels in found.items() if case.startswith(operator)
                for kernel, counts in kernels.items() if kernel.startswith(beginnings)]  # fmt: skip
        for kernel in sorted({kernel for kernel, _ in mine}):
            row = []
            for what in ("sectors", "passes"):
                worst = [c[what] / c[f"least_{what}"] for name, c in mine if name == kernel and c[f"least_{what}"]]
                row.append(f"{max(worst):.2f}" if worst else "")
            body.append([operator, kernel, *row])
    return ["operator", "kernel", "sectors / least", "passes over banks / least"], body
