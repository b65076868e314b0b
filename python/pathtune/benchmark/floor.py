"""The floor of a training step: the FLOPs that no arrangement of the computation avoids, and the GEMM rate.

Counting: per layer and forward, the convolution costs two FLOPs for each nonzero
(component in, component out) pair of each path and channel and edge, plus the products with w; the
contraction two for each term and one for each monomial; dense layers their matrix products, the radial
network once per undirected edge. A whole step with a force loss costs multiples of the forward: 16 for the
trilinear convolution (8 bilinear slots, each with its derivatives), 12 for the contraction, 4 for layers
that are linear in their input.
"""

from __future__ import annotations

import itertools
import statistics
import time

import torch

from pathtune.data import Batch

CONV_STEP, CONTRACTION_STEP, LINEAR_STEP = 16, 12, 4


def floor_flops(forward, batch: Batch) -> dict[str, float]:
    """FLOPs of one training step by module for a backbone's own forward and a batch."""
    n_nodes, n_edges = batch.n_nodes, batch.sender.numel()
    n_rows = n_edges // 2 if forward.by_pair else n_edges
    total = {"conv": 0.0, "contraction": 0.0, "skip_tp": 0.0, "radial": 0.0, "linear": 0.0}
    for layer in forward.layers:
        total["conv"] += CONV_STEP * n_edges * _conv_flops(layer.conv)
        if layer.species_linear is not None:
            for _, _, _, n_components, mul_in, mul_out in layer.species_linear.paths.tolist():
                total["skip_tp"] += LINEAR_STEP * n_nodes * 2 * n_components * mul_in * mul_out
        widths = layer.radial.dims if hasattr(layer.radial, "dims") else layer.radial.hs  # nequip's name, mace's
        total["radial"] += LINEAR_STEP * n_rows * sum(2 * a * b for a, b in itertools.pairwise(widths))
        for linear in layer.linears:
            total["linear"] += LINEAR_STEP * n_nodes * linear.flops_per_node()
    for product in getattr(forward, "products", ()):
        terms, monomials = product.contraction.n_terms, product.contraction.n_monomials
        total["contraction"] += CONTRACTION_STEP * n_nodes * product.mul * (2 * terms + monomials)
        total["linear"] += LINEAR_STEP * n_nodes * product.linear.flops_per_node()
    return total


def _conv_flops(table) -> float:
    """Per edge, forward."""
    flops = 0.0
    for *_, c_offset, mul, d1, d2, d3, _ in table.paths.tolist():
        c = table.coefficients[c_offset : c_offset + d1 * d2 * d3].reshape(d1, d2, d3)
        n_pairs = int((c.abs() > 1e-12).any(dim=1).sum())
        flops += mul * (2 * n_pairs + min(d1, d3))
    return flops


def gemm_rate(n: int = 1024, repeats: int = 15) -> float:
    """FLOP/s of torch's float32 matrix product with the current threads, median."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * n**3 / statistics.median(times[2:])
