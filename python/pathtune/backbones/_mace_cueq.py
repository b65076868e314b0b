"""`backend="cueq"`: mace's own forward with the products of its convolutions by cuEquivariance, on a CUDA device.

For models and blocks that our kernels do not cover. Only the products of features and harmonics are replaced: they
have no weights, so that the parameters are mace's. Each is compared with mace's before it is used, through second
derivatives; mace issue 1298 tells of a version that gave wrong energies.
"""

from __future__ import annotations

from typing import Any

import torch

from pathtune.backbones._mace_layers import copied
from pathtune.backbones._packages import default_dtype, import_cueq
from pathtune.errors import InputError

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}  # of the largest value of a result
N_EDGES = 64  # random ones, of the comparison


def accelerated(stock: Any, device: torch.device, method: str = "uniform_1d") -> Any:
    """A copy of a stock MACE on the device, with cuEquivariance's products; `method` as cuEquivariance calls it.

    Raises InputError for a product that is not what mace's is, ImportError that says what to install.
    """
    module = copied(stock).to(device)
    for i, block in enumerate(module.interactions):
        found = cueq_product(block.conv_tp, next(stock.parameters()).dtype, method).to(device)
        check_agreement(block.conv_tp, found, f"interactions.{i}")
        block.conv_tp = found
    return module


def cueq_product(product: Any, dtype: torch.dtype, method: str, layout: Any = None) -> torch.nn.Module:
    """cuEquivariance's channel-wise product of the same irreps as an o3.TensorProduct, in e3nn's layout by default."""
    cue, cuet = import_cueq()
    from mace.tools.cg import O3_e3nn

    irreps = [cue.Irreps(O3_e3nn, str(i)) for i in (product.irreps_in1, product.irreps_in2, product.irreps_out)]
    options = {"shared_weights": False, "internal_weights": False, "dtype": dtype, "math_dtype": dtype}
    with default_dtype(dtype):  # of its coefficients, which would else be rounded to another
        return cuet.ChannelWiseTensorProduct(*irreps, layout=layout or cue.mul_ir, method=method, **options)


def check_agreement(product: Any, other: Any, where: str) -> None:
    """Raise InputError where two products of features, harmonics and weights differ, or one of their derivatives."""
    weight = next(iter(product.buffers()))
    dtype, device = weight.dtype, weight.device
    generator = torch.Generator().manual_seed(0)
    sizes = (product.irreps_in1.dim, product.irreps_in2.dim, product.weight_numel)
    inputs = [torch.randn(N_EDGES, n, generator=generator, dtype=torch.float64) for n in sizes]
    moved = [x.to(device, dtype) for x in inputs]
    expected = _derivatives(product, moved)
    try:
        found = _derivatives(other, moved)
        worst = max(_difference(a, b) for a, b in zip(expected, found))
    except (RuntimeError, ValueError) as error:  # of other sizes, or without a second derivative
        raise InputError(
            f"backend is 'cueq', but cuEquivariance's product cannot replace mace's in {where} ({error}), expected "
            "backend 'auto' or 'reference'"
        ) from error
    if not worst <= TOLERANCE[dtype]:
        raise InputError(
            f"backend is 'cueq', but cuEquivariance's product in {where} differs from mace's by {worst:.1e} of the "
            f"largest value, expected at most {TOLERANCE[dtype]:.0e}: use backend 'auto' or 'reference'"
        )


def _derivatives(product: Any, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The product, its gradients, and theirs."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = product(*leaves)
    first = torch.autograd.grad((value**2).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(torch.stack([(g**2).sum() for g in first]).sum(), leaves)
    return [t.detach() for t in (value, *first, *second)]


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.shape != b.shape:
        raise ValueError(f"shape {list(b.shape)} in place of {list(a.shape)}")
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-300))
