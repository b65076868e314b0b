"""What SevenNet makes of an edge's length, as functions (backbones/_radial_tables.py)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pathtune.backbones._packages import quiet_torchscript
from pathtune.backbones._radial_tables import RadialFunction

PARTS = ("edge_embedding.", ".weight_nn.")


def radial_parameters(stock: Any) -> frozenset[str]:
    """Names of the parameters that the radial functions depend on."""
    return frozenset(name for name, _ in stock.named_parameters() if any(part in name for part in PARTS))


def radial_functions(modules: Mapping[str, Any], n_layers: int) -> dict[str, RadialFunction]:
    """Weights of the convolutions ("w0", ...), from copies in float64."""
    with quiet_torchscript():
        embedding = copy.deepcopy(modules["edge_embedding"]).cpu().double()
        networks = [copy.deepcopy(modules[f"{t}_convolution"].weight_nn).cpu().double() for t in range(n_layers)]
    cutoff = embedding.cutoff_function
    end = float(getattr(cutoff, "r_cut", getattr(cutoff, "cutoff_length", 0.0)))

    def weights(network):
        return lambda r, a, b: network(embedding.basis_function(r) * cutoff(r).unsqueeze(1))

    # sevenn's XPLOR cutoff, the one with r_on, has a second derivative that jumps there
    kink = getattr(cutoff, "r_on", None)
    return {f"w{t}": RadialFunction(weights(network), lambda a, b: end, kink) for t, network in enumerate(networks)}
