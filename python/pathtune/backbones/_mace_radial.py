"""What MACE makes of an edge's length, as functions for each pair of species (backbones/_radial_tables.py)."""

from __future__ import annotations

import copy
from typing import Any

import torch

from pathtune.backbones._packages import quiet_torchscript
from pathtune.backbones._radial_tables import RadialFunction

PARTS = ("radial_embedding.", ".conv_tp_weights.", ".density_fn.", "pair_repulsion_fn.")


def radial_parameters(stock: Any) -> frozenset[str]:
    """Names of the parameters that the radial functions depend on."""
    return frozenset(name for name, _ in stock.named_parameters() if any(part in name for part in PARTS))


def depends_on_species(stock: Any) -> bool:
    """Whether the radial functions differ between pairs of species."""
    return hasattr(stock.radial_embedding, "distance_transform") or hasattr(stock, "pair_repulsion")


def radial_functions(stock: Any) -> dict[str, RadialFunction]:
    """Convolution weights ("w0", ...), densities ("density0", ...) and pair repulsion, from copies in float64."""
    with quiet_torchscript():
        embedding = copy.deepcopy(stock.radial_embedding).cpu().double()
        blocks = [
            (
                copy.deepcopy(block.conv_tp_weights).cpu().double(),
                copy.deepcopy(block.density_fn).cpu().double() if hasattr(block, "density_fn") else None,
            )
            for block in stock.interactions
        ]
    numbers = stock.atomic_numbers.cpu()
    one_hot = torch.eye(len(numbers), dtype=torch.float64)

    def embedded(r: torch.Tensor, a: int, b: int):
        index = torch.tensor([[max(a, 0)], [max(b, 0)]]).expand(2, r.numel())
        return embedding(r.unsqueeze(1), one_hot, index, numbers)

    def weights(network):
        def values(r: torch.Tensor, a: int, b: int) -> torch.Tensor:
            radial, cutoff = embedded(r, a, b)
            w = network(radial)
            return w if cutoff is None else w * cutoff

        return values

    def density(network):
        def values(r: torch.Tensor, a: int, b: int) -> torch.Tensor:
            radial, cutoff = embedded(r, a, b)
            density = torch.tanh(network(radial) ** 2)
            return density if cutoff is None else density * cutoff

        return values

    r_max = float(stock.r_max)
    result = {}
    for i, (network, density_network) in enumerate(blocks):
        result[f"w{i}"] = RadialFunction(weights(network), lambda a, b: r_max)
        if density_network is not None:
            result[f"density{i}"] = RadialFunction(density(density_network), lambda a, b: r_max)
    if hasattr(stock, "pair_repulsion"):
        result["pair_repulsion"] = _pair_repulsion(stock, numbers, one_hot)
    return result


def _pair_repulsion(stock: Any, numbers: torch.Tensor, one_hot: torch.Tensor) -> RadialFunction:
    """Half of an edge's ZBL energy, which is what it gives to its receiver."""
    with quiet_torchscript():
        module = copy.deepcopy(stock.pair_repulsion_fn).cpu().double()

    def values(r: torch.Tensor, a: int, b: int) -> torch.Tensor:
        # one receiver for each length: the module sums over edges of a receiver
        attrs = torch.cat([one_hot[a].expand(1, -1), one_hot[b].expand(r.numel(), -1)])
        index = torch.stack([torch.zeros(r.numel(), dtype=torch.int64), torch.arange(1, r.numel() + 1)])
        return module(r.unsqueeze(1), attrs, index, numbers)[1:].unsqueeze(1)

    radii = module.covalent_radii
    return RadialFunction(values, lambda a, b: float(radii[int(numbers[a])] + radii[int(numbers[b])]))
