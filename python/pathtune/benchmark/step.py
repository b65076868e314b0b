"""One training step of stock mace-torch and of pathtune, alternating in one process on identical inputs."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import schedulefree
import torch

from pathtune.adaptations import SparseDelta
from pathtune.adapting import adapt, sparsify
from pathtune.benchmark import cases
from pathtune.benchmark.floor import floor_flops, gemm_rate
from pathtune.data import Batch, Labelled, elements_of
from pathtune.layers import select_layers
from pathtune.loading import load
from pathtune.losses import loss
from pathtune.model import Potential
from pathtune.ops import SpeciesRows
from pathtune.training.provenance import processor

Step = Callable[[], None]
# Families of operators in a profile, by the beginning of their names.
OPERATORS = (
    "edge_conv",
    "symmetric_contraction",
    "species_linear",
    "sparse_linear",
    "sampled_gradient",
    "delta_gradients",
    "soft_threshold",
    "radial",
    "edge_geometry",
)
# Nodes of autograd that call an operator without torch's dispatch, by their names in a profile.
NODES = {"_Deltas": "soft_threshold", "_DeltasBackward": "delta_gradients"}


def make_model(
    stock: torch.nn.Module,
    backend: str,
    arm: str,
    active_share: float,
    elements: Sequence[int],
    seed: int = 0,
    device: str = "cpu",
) -> Potential:
    """The arm's model; `sparse` has a fixed random set of candidates, `active_share` of the reachable weights."""
    base = load(stock, backend=backend, device=device)
    if arm != "sparse":
        return adapt(base, [arm], elements)
    species = [base.atomic_numbers.index(z) for z in elements]
    generator = torch.Generator().manual_seed(seed)
    candidates = {}
    for layer in select_layers(base.backbone.layers):
        reachable = layer.reachable(species)
        n = max(1, round(active_share * reachable.numel()))
        candidates[layer.name] = reachable[torch.randperm(reachable.numel(), generator=generator)[:n]].sort().values
    return sparsify(base, SparseDelta(active_share=1.0), elements, candidates=candidates)


def make_batch(model: Potential, name: str, n_atoms: int) -> Batch:
    """The case's structures with random labels."""
    batch = model.collate(cases.structures(name, n_atoms))
    generator = torch.Generator().manual_seed(1)
    energy, forces = (batch.labels[name] for name in ("energy", "forces"))
    random = torch.randn(forces.value.shape, generator=generator, dtype=forces.value.dtype).to(model.device)
    batch.labels["forces"] = Labelled(random, torch.ones_like(forces.mask))
    batch.labels["energy"] = Labelled(torch.zeros_like(energy.value), torch.ones_like(energy.mask))
    return batch


def training_step(model: Potential, batch: Batch) -> Step:
    """Forward, forces, loss, backward and optimizer step."""
    parameters = model.trainable()
    optimizer = schedulefree.AdamWScheduleFree(parameters, lr=1e-6)
    optimizer.train()

    def step() -> None:
        value = loss(model(batch, training=True), batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward(inputs=parameters)
        optimizer.step()

    return step


def inference_step(model: Potential, batch: Batch) -> Step:
    """Energies and forces."""
    return lambda: model(batch) and None


def alternate(steps: dict[str, Step], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each step, A B A B ..., after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(warmup + rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if i >= warmup:
                times[name].append(time.perf_counter() - began)
    return times


def agreement(stock: Potential, ours: Potential, batch: Batch) -> dict[str, float]:
    """Largest differences in energy (eV/atom), forces (eV/A) and, relative to each tensor's maximum, gradients."""
    p, q = stock(batch), ours(batch)
    result = {
        "energy_ev_atom": ((p.interaction_energy - q.interaction_energy) / batch.n_atoms).abs().max().item(),
        "forces_ev_a": (p.forces - q.forces).abs().max().item(),
        "forces_max_ev_a": p.forces.abs().max().item(),
    }
    gradients = []
    for model in (stock, ours):
        value = loss(model(batch, training=True), batch, "weighted")
        gradients.append(torch.autograd.grad(value, model.trainable(), allow_unused=True))
    rows = ours.adaptation.weights(ours.backbone.parameters)
    pairs = []
    for name, a, b in zip([name for name, _ in stock.backbone.stock.named_parameters()], *gradients):
        if a is not None and b is not None:
            row = rows.get(name)
            pairs.append((a.flatten()[row.indices] if isinstance(row, SpeciesRows) else a, b))
    result["gradient_relative"] = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs)
    return result


def shares(step: Step) -> dict[str, float]:
    """Share of the step's time in each family of operators (torch.profiler, self time)."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    families: dict[str, float] = dict.fromkeys((*OPERATORS, "matrix products", "other"), 0.0)
    total = 0.0
    for event in profile.key_averages():
        time_us = event.self_cpu_time_total
        total += time_us
        family = NODES.get(event.key)
        if family is None:
            family = next((f for f in families if f"pathtune_{f}" in event.key or f"pathtune::{f}" in event.key), None)
        if family is None:
            is_gemm = event.key in ("aten::mm", "aten::addmm", "aten::bmm")
            family = "matrix products" if is_gemm else "other"
        families[family] += time_us
    return {name: round(value / total, 4) for name, value in families.items()}


def peak_memory(name: str, n_atoms: int, backend: str, arm: str, active_share: float) -> int:
    """Peak bytes above the loaded model and batch over three steps, in a process of its own."""
    arguments = json.dumps({"name": name, "n_atoms": n_atoms, "backend": backend, "arm": arm, "share": active_share})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pathtune.benchmark.memory", arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.strip().splitlines()[-1])


def bench_step(name: str, n_atoms: int, arm: str, active_share: float, rounds: int, memory: bool) -> dict[str, Any]:
    """Everything that `pathtune bench step` reports."""
    stock_module = cases.build(name)
    elements = elements_of(cases.structures(name, n_atoms))
    stock = make_model(stock_module, "reference", "full", 1.0, elements)
    full = make_model(stock_module, "cpu", "full", 1.0, elements)
    ours = make_model(stock_module, "cpu", arm, active_share, elements) if arm != "full" else full
    batch = make_batch(stock, name, n_atoms)
    agree = agreement(stock, full, batch)
    steps = {"stock full": training_step(stock, batch), "pathtune full": training_step(full, batch)}
    if arm != "full":
        steps[f"pathtune {arm}"] = training_step(ours, batch)
    steps["stock inference"] = inference_step(stock, batch)
    steps["pathtune inference"] = inference_step(ours, batch)
    times = alternate(steps, rounds)
    median = {key: statistics.median(values) for key, values in times.items()}
    rate = gemm_rate()
    floor = floor_flops(ours.backbone._forward, batch)  # type: ignore[attr-defined]
    mine = median[f"pathtune {arm}"]
    result: dict[str, Any] = {
        "model": name,
        "n_atoms": batch.n_nodes,
        "n_edges": batch.sender.numel(),
        "arm": arm,
        "active_share": active_share if arm == "sparse" else 1.0,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "rounds": rounds,
        "agreement": agree,
        "median_seconds": median,
        "all_seconds": times,
        "ratio": {
            "step": median["stock full"] / mine,
            "full step": median["stock full"] / median["pathtune full"],
            f"{arm} over own full": mine / median["pathtune full"],
            "inference": median["stock inference"] / median["pathtune inference"],
        },
        "shares": shares(steps[f"pathtune {arm}"]),
        "floor": {
            "mflop_per_atom": {k: v / batch.n_nodes / 1e6 for k, v in floor.items()},
            "gemm_gflops": rate / 1e9,
            "distance": mine * rate / sum(floor.values()),
        },
    }
    if memory:
        bytes_stock = peak_memory(name, n_atoms, "reference", "full", 1.0)
        bytes_ours = peak_memory(name, n_atoms, "cpu", arm, active_share)
        result["peak_bytes"] = {
            "stock full": bytes_stock,
            f"pathtune {arm}": bytes_ours,
            "ratio": bytes_stock / max(bytes_ours, 1),
        }
    return result


def machine() -> dict[str, str]:
    """Processor, system and torch version: what a time depends on."""
    return {"processor": processor() or "unknown", "system": platform.system(), "torch": torch.__version__}
