"""symmetric_contraction against mace's module, eager: `pytest -n 0 bench/bench_symmetric_contraction.py`.

Passes of a training step on their own (float32), and `ratio`: forward and backward of both, alternating in
one process, results compared, medians divided. The U tensors take mace a minute a shape to build.
"""

from __future__ import annotations

import functools
import statistics
import time

import pytest
import torch

from cases import CONTRACTIONS, ContractionCase
from pathtune.backbones._packages import import_mace
from pathtune.ops import group_by_species, symmetric_contraction
from pathtune.tables.contraction import contraction_coefficients, contraction_table
from pathtune.tables.irreps import layout_permutation


@functools.cache
def module_and_table(case: ContractionCase):
    """mace's module, its weights in the table's order, and the table."""
    import_mace()
    from e3nn import o3
    from mace.modules.symmetric_contraction import SymmetricContraction

    irreps_in = (case.mul * o3.Irreps.spherical_harmonics(case.lmax)).sort().irreps.simplify()
    module = SymmetricContraction(irreps_in, o3.Irreps(case.irreps_out), case.correlation, num_elements=case.n_species)
    n_ell = (case.lmax + 1) ** 2
    outputs = []
    weights = []
    for (_, ir), contraction in zip(module.irreps_out, module.contractions):
        outputs.append(
            [contraction.U_tensors(d).reshape(ir.dim, *[n_ell] * d, -1) for d in range(1, case.correlation + 1)]
        )
        weights += [*reversed(list(contraction.weights)), contraction.weights_max]
    return module, weights, contraction_table(outputs)


class Batch:
    """Inputs of one case, and the passes over them."""

    def __init__(self, case: ContractionCase):
        torch.manual_seed(0)
        self.module, self.weights, self.table = module_and_table(case)
        self.species = torch.arange(case.n_nodes) % case.n_present * 9 + 7
        self.one_hot = torch.nn.functional.one_hot(self.species, case.n_species).float()
        self.groups = group_by_species(self.species, case.n_species)
        a = 0.5 * torch.randn(case.n_nodes, self.table.n_ell, case.mul)
        self.a = a.requires_grad_()
        self.a_mul_ir = a.detach().transpose(1, 2).contiguous().requires_grad_()
        self.grad_out = torch.randn(case.n_nodes, self.table.n_out, case.mul)
        to_ir_mul = layout_permutation(self.module.irreps_out)
        self.grad_out_mul_ir = self.grad_out.flatten(1)[:, to_ir_mul.argsort()]
        self.to_ir_mul = to_ir_mul
        self.c = self.coefficients().detach().requires_grad_()
        self.adjoint_a = torch.randn_like(a)

    def coefficients(self) -> torch.Tensor:
        """Made once per step from the weights."""
        return contraction_coefficients(self.weights, self.groups.present, self.table)

    def forward(self) -> torch.Tensor:
        """The operator alone."""
        return symmetric_contraction(self.a, self.c, self.groups, self.table)

    def ours_frozen(self) -> tuple[torch.Tensor, ...]:
        """Value and gradient of A: inference with forces, and frozen weights."""
        return torch.autograd.grad(self.forward(), self.a, self.grad_out)

    def stock_frozen(self) -> tuple[torch.Tensor, ...]:
        """The same from mace's module, in its layout."""
        out = self.module(self.a_mul_ir, self.one_hot)
        return torch.autograd.grad(out, self.a_mul_ir, self.grad_out_mul_ir)

    def ours(self) -> tuple[torch.Tensor, ...]:
        """Value, gradient of A, gradients of the weights."""
        out = symmetric_contraction(self.a, self.coefficients(), self.groups, self.table)
        return out, *torch.autograd.grad(out, (self.a, *self.weights), self.grad_out)

    def stock(self) -> tuple[torch.Tensor, ...]:
        """The same from mace's module, in its layout."""
        out = self.module(self.a_mul_ir, self.one_hot)
        return out, *torch.autograd.grad(out, (self.a_mul_ir, *self.weights), self.grad_out_mul_ir)

    def disagreement(self) -> float:
        """Largest difference of a value or gradient, relative to the maximum."""
        out, grad_a, *grad_weights = self.stock()
        out = out[:, self.to_ir_mul].reshape(self.grad_out.shape)
        expected = (out, grad_a.transpose(1, 2), *grad_weights)
        return max(((f - e).abs().max() / e.abs().max()).item() for f, e in zip(self.ours(), expected))


def training_passes(batch: Batch):
    """What a step with forces asks of the operator, each as a function of nothing."""
    grad_out = batch.grad_out.clone().requires_grad_()
    out = batch.forward()
    (grad_a,) = torch.autograd.grad(out, batch.a, grad_out, create_graph=True)

    def again(output, inputs, cotangent):
        return lambda: torch.autograd.grad(output, inputs, cotangent, retain_graph=True)

    return {
        "coefficients": batch.coefficients,
        "forward": batch.forward,
        "force-pass": again(out, (batch.a,), batch.grad_out),
        "backward": again(out, (batch.a, batch.c), batch.grad_out),
        "double-backward-frozen": again(grad_a, (grad_out, batch.a), batch.adjoint_a),
        "double-backward": again(grad_a, (grad_out, batch.a, batch.c), batch.adjoint_a),
    }


N_ROUNDS = 7
PASSES = ("coefficients", "forward", "force-pass", "backward", "double-backward-frozen", "double-backward")


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("case", CONTRACTIONS)
def test_pass(benchmark, case, which):
    benchmark.group = f"symmetric_contraction {case}"
    benchmark(training_passes(Batch(CONTRACTIONS[case]))[which])


@pytest.mark.parametrize("which", ["", "_frozen"])
@pytest.mark.parametrize("case", CONTRACTIONS)
def test_ratio_to_stock_forward_and_backward(benchmark, case, which):
    batch = Batch(CONTRACTIONS[case])
    disagreement = batch.disagreement()
    assert disagreement < 1e-5
    stock = getattr(batch, f"stock{which}")
    ours = getattr(batch, f"ours{which}")
    times = {stock: [], ours: []}
    for _ in range(N_ROUNDS):
        for function, repeats in ((stock, 1), (ours, 10)):
            for _ in range(repeats):
                start = time.perf_counter()
                function()
                times[function].append(time.perf_counter() - start)
    stock_ms, ours_ms = (1e3 * statistics.median(t) for t in times.values())
    benchmark.group = f"symmetric_contraction {case}"
    benchmark.extra_info.update(
        ratio=stock_ms / ours_ms,
        stock_ms=stock_ms,
        ours_ms=ours_ms,
        disagreement=disagreement,
        n_threads=torch.get_num_threads(),
    )
    benchmark(ours)
    print(
        f"\n{case}{which}: {stock_ms:.0f} ms, ours {ours_ms:.2f} ms, ratio {stock_ms / ours_ms:.0f}, "
        f"disagreement {disagreement:.1e}"
    )
