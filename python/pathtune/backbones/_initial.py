"""Weights drawn anew, as mace-torch and sevenn draw those of a model that was never trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from pathtune.errors import InputError


@torch.no_grad()
def draw_anew(stock: torch.nn.Module, parameters: Mapping[str, torch.Tensor], seed: int, r_max: float) -> None:
    """Other values, in place, for the `parameters` of a stock model.

    Standard normal in e3nn's linears, tensor products and multilayer networks; of mace's symmetric contraction divided
    by the number of its paths; sevenn's Bessel coefficients n pi / r_max; torch's own modules as they reset themselves.
    Raises InputError for a parameter of any other module.
    """
    modules = dict(stock.named_modules())
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        done: set[int] = set()
        for name, parameter in parameters.items():
            owner, _, leaf = name.rpartition(".")
            module: Any = modules[owner]
            if isinstance(module, torch.nn.ParameterList):
                module = modules[owner.rpartition(".")[0]]
            if isinstance(module, (torch.nn.Linear, torch.nn.LayerNorm)):
                if id(module) not in done:
                    module.reset_parameters()
                    done.add(id(module))
                continue
            parameter.copy_(_drawn(module, leaf, name, parameter, r_max, generator))


def _drawn(
    module: Any, leaf: str, name: str, parameter: torch.Tensor, r_max: float, generator: torch.Generator
) -> torch.Tensor:
    from e3nn import o3
    from e3nn.nn._fc import _Layer

    normal = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    kind = type(module).__name__
    if isinstance(module, (o3.Linear, o3.TensorProduct, _Layer)):
        return torch.zeros_like(parameter) if leaf == "bias" else normal.to(parameter)
    if kind == "Contraction" and parameter.dim() == 3:
        return (normal / max(1, parameter.shape[1])).to(parameter)
    if kind == "BesselBasis" and leaf == "coeffs":
        return (torch.arange(1, parameter.numel() + 1) * math.pi / r_max).to(parameter)
    raise InputError(
        f"scratch: {name} of the model belongs to a {kind}, whose start is not known here, "
        "expected an arm that starts from the base"
    )
