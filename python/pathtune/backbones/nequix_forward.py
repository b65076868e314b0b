"""The forward of nequix by our operators: layout ir_mul throughout, edges once per pair.

It reads the parameters of the plain module (nequix_plain.py, with the formulas) and computes the same. The vectors of
nequix point from receiver to sender, the other way round than ours. 1/sqrt(N) of the messages is folded into the
coefficients of the convolution. The first layer reads one-hot species: its linears are rows of their weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pathtune.backbones._e3nn import PathLinear, conv_table
from pathtune.backbones._gate import gated
from pathtune.backbones._geometry import FEATURES, Edges, Harmonics
from pathtune.backbones._packages import quiet_torchscript
from pathtune.backbones._radial_tables import RadialFunction, RadialTables, weights_of_layers
from pathtune.backbones.nequix_plain import EPS, Interaction, LayerNorm, Nequix, silu
from pathtune.data import Batch
from pathtune.ops import edge_conv
from pathtune.tables.irreps import blocks, layout_permutation


class NequixForward:
    """Tables of one plain model; of its weights only those of frozen radial functions are kept, as tables of these."""

    by_pair = True  # the radial functions know the length of an edge only

    def __init__(self, stock: Nequix, radial_tables: bool = True):
        self.parameters = dict(stock.named_parameters())
        self.basis, self.scale = stock.basis, stock.config.scale
        self.n_species = len(stock.config.atomic_numbers)
        self.harmonics = Harmonics(stock.harmonics, orientation=-1)
        interactions: Any = stock.layers
        self.layers = [_Layer(t, layer) for t, layer in enumerate(interactions)]
        self.sparse_layers = frozenset(name for layer in self.layers for name in layer.sparse_layers)
        self.readout = PathLinear(stock.readout)
        self.tables: RadialTables | None = None
        if radial_tables and self.parameters["readout.weight"].dtype == torch.float32:
            watched = {name: p for name, p in self.parameters.items() if ".radial_mlp." in name}
            self.tables = RadialTables(lambda: _radial_functions(stock), watched, self.n_species, False, torch.float32)

    def node_outputs(self, parameters: Mapping[str, Any], batch: Batch, edges: Edges) -> dict[str, torch.Tensor]:
        """Energies [n_nodes] of the edges' vectors, and final features [n_nodes, n_scalars]."""
        lengths, y = self.harmonics(edges)
        radial = self._radial(parameters, batch, edges, lengths)
        x = batch.species
        for layer in self.layers:
            x = layer(parameters, x, y, radial, edges)
        energy = self.readout(x, parameters["readout.weight"])
        return {"energy": energy[:, 0] * self.scale, FEATURES: x}

    def _radial(
        self, parameters: Mapping[str, Any], batch: Batch, edges: Edges, lengths: torch.Tensor
    ) -> Callable[[_Layer], torch.Tensor]:
        """The weights [n_rows, n_conv_weights] of a layer's convolution, from tables or by its network."""
        tabled = weights_of_layers(self.tables, lengths, edges, batch, parameters)
        if tabled is not None:
            return tabled
        basis = self.basis(lengths)
        return lambda layer: layer.weights_of(basis, parameters)


class _Layer:
    """Convolution between two linears, skip connection, layer norm and gate."""

    species_linear = None  # of the kind that benchmark/floor.py counts

    def __init__(self, t: int, layer: Interaction):
        self.index, self.name = t, f"layers.{t}"
        self.radial = layer.radial_mlp
        kind = _SpeciesRows if t == 0 else PathLinear
        self.first, self.skip = kind(layer.linear_1), kind(layer.skip)
        self.conv = conv_table(layer.convolution, layer.avg_n_neighbors**-0.5, joined=True)
        self.second = PathLinear(layer.linear_2)
        self.linears = [linear for linear in (self.first, self.second, self.skip) if isinstance(linear, PathLinear)]
        self.norm = None if layer.layer_norm is None else _Norm(layer.layer_norm, layer.linear_2.irreps_out)
        self.n_scalars, self.n_gates, self.blocks = layer.n_scalars, layer.n_gates, blocks(layer.gated)
        names = ("linear_1", "linear_2", "skip") if t else ("linear_2",)
        self.sparse_layers = tuple(f"{self.name}.{name}" for name in names)

    def weights_of(self, basis: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
        """The radial network [n_rows, n_conv_weights] with the weights that are passed."""
        own = {f"{k}.weight": parameters[f"{self.name}.radial_mlp.{k}.weight"] for k in range(len(self.radial))}
        return torch.func.functional_call(self.radial, own, (basis,))

    def __call__(self, parameters: Mapping[str, Any], x, y, radial, edges: Edges) -> torch.Tensor:
        skip = self.skip(x, parameters[f"{self.name}.skip.weight"])
        first = self.first(x, parameters[f"{self.name}.linear_1.weight"])
        message = edge_conv(first, y, radial(self), edges.graph, self.conv)
        x = self.second(message, parameters[f"{self.name}.linear_2.weight"]) + skip
        if self.norm is not None:
            x = self.norm(x, parameters[f"{self.name}.layer_norm.weight"])
        scalars, gates, features = x.split(
            [self.n_scalars, self.n_gates, x.shape[1] - self.n_scalars - self.n_gates], 1
        )
        return gated(silu(scalars), silu(gates), features, self.blocks)


class _SpeciesRows:
    """A linear of one-hot species to scalars: the row of each, then zeros for irreps that scalars do not reach."""

    def __init__(self, module: Any):
        (instruction,) = module.instructions
        self.path_weight, self.shape = float(instruction.path_weight), instruction.path_shape
        self.n_more = module.irreps_out.dim - self.shape[1]

    def __call__(self, species: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # [n_nodes, dim_out]
        rows = torch.nn.functional.embedding(species, weight.reshape(self.shape)) * self.path_weight
        return torch.nn.functional.pad(rows, (0, self.n_more)) if self.n_more else rows


class _Norm:
    """The layer norm in layout ir_mul."""

    def __init__(self, module: LayerNorm, irreps: Any):
        order = layout_permutation(irreps)
        shares: Any = module.shares
        channels: Any = module.channels
        self.shares, self.channels = shares[order], channels[order]

    def __call__(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self.shares.dtype != x.dtype or self.shares.device != x.device:
            self.shares, self.channels = self.shares.to(x), self.channels.to(x.device)
        mean_square = (x * x) @ self.shares
        return x * (mean_square + EPS).rsqrt().unsqueeze(1) * weight[self.channels]


def _radial_functions(stock: Nequix) -> dict[str, RadialFunction]:
    """Weights of the convolutions ("w0", ...), from copies in float64."""
    with quiet_torchscript():
        layers: Any = stock.layers
        networks = [copy.deepcopy(layer.radial_mlp).cpu().double() for layer in layers]
    basis: Any = stock.basis

    def weights(network):
        return lambda r, a, b: network(basis(r))

    end = stock.config.cutoff
    return {f"w{t}": RadialFunction(weights(network), lambda a, b: end) for t, network in enumerate(networks)}
