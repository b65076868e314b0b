"""MACE's forward by our operators: layout ir_mul throughout, edges once per pair where that is exact.

It reads the stock model's own parameters and sub-modules (radial embedding, radial MLP, activations), so
that there is one set of weights; only the order of computation differs. Blocks and options that it does
not cover are named by `unsupported`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pathtune.backbones._e3nn import PathLinear, apply_species_linear, conv_table, skip_table
from pathtune.backbones._gate import silu_factor
from pathtune.backbones._geometry import FEATURES, Edges, Harmonics, species_groups
from pathtune.backbones._mace_embedding import EMBEDDING, Embedding, column
from pathtune.backbones._mace_nonlinear import NONLINEAR, NonLinearLayer, unsupported_nonlinear
from pathtune.backbones._mace_product import Product
from pathtune.backbones._mace_radial import depends_on_species, radial_functions, radial_parameters
from pathtune.backbones._radial_tables import RadialTables
from pathtune.data import Batch
from pathtune.layers import Weights
from pathtune.ops import SpeciesGroups, edge_conv, rows_where_known, silu, sum_at_nodes
from pathtune.tables.edge_conv import EdgeConvTable
from pathtune.tables.species_linear import SpeciesLinearTable

INTERACTIONS = (
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
)
READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")


def unsupported(stock: torch.nn.Module) -> str | None:
    """The first block or option of a stock MACE that this forward does not cover, in words; None if none."""
    for module in stock.modules():
        for config in ("cueq_config", "oeq_config"):
            if getattr(getattr(module, config, None), "enabled", False):
                return f"a model converted for another accelerator ({config})"
    for i, block in enumerate(stock.interactions):  # type: ignore
        if type(block).__name__ == NONLINEAR:
            reason = unsupported_nonlinear(i, block)
            if reason:
                return reason
        elif type(block).__name__ not in INTERACTIONS:
            return f"interaction block {type(block).__name__} (interactions.{i})"
        elif type(block.conv_tp_weights).__name__ != "FullyConnectedNet":
            return f"radial network {type(block.conv_tp_weights).__name__} (interactions.{i})"
        if any(ins.connection_mode != "uvu" or not ins.has_weight for ins in block.conv_tp.instructions):
            return f"a convolution other than 'uvu' (interactions.{i})"
    for i, readout in enumerate(stock.readouts):  # type: ignore
        if type(readout).__name__ not in READOUTS:
            return f"readout block {type(readout).__name__} (readouts.{i})"
    return None


def radial_is_symmetric(stock: torch.nn.Module) -> bool:
    """Whether the radial embedding of an edge equals that of its reverse, tried on every pair of species."""
    n = len(stock.atomic_numbers)  # type: ignore
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    dtype = next(stock.parameters()).dtype
    lengths = torch.linspace(0.3, 0.9, pairs.shape[1], dtype=dtype).unsqueeze(1) * float(stock.r_max)  # type: ignore
    attrs = torch.eye(n, dtype=dtype)
    one, _ = stock.radial_embedding(lengths, attrs, pairs, stock.atomic_numbers)  # type: ignore
    other, _ = stock.radial_embedding(lengths, attrs, pairs.flip(0), stock.atomic_numbers)  # type: ignore
    return bool(torch.equal(one, other))


class MaceForward:
    """Tables of one stock model; of its weights only those of frozen radial functions are kept, as tables of these."""

    def __init__(self, stock: Any, radial_tables: bool = True):
        self.stock = stock
        self.parameters = dict(stock.named_parameters())  # once: walking the modules costs a millisecond
        has_directed = any(type(block).__name__ == NONLINEAR for block in stock.interactions)
        self.by_pair = not has_directed and radial_is_symmetric(stock)
        self.n_species = len(stock.atomic_numbers)  # type: ignore
        self.harmonics = Harmonics(stock.spherical_harmonics)
        self.embedding = Embedding(stock, self.parameters)
        self.layers = [_layer(i, block, self.n_species) for i, block in enumerate(stock.interactions)]
        self.products = [Product(i, block) for i, block in enumerate(stock.products)]
        self.readouts = [_Readout(i, readout) for i, readout in enumerate(stock.readouts)]  # type: ignore
        self.sparse_layers = frozenset(
            [name for layer in self.layers for name in layer.sparse_layers]
            + [f"{product.name}.linear" for product in self.products]
            + [name for readout in self.readouts for name in readout.sparse_layers]
        )
        # names of the parameters that may be SpeciesRows
        self.by_species = frozenset([EMBEDDING]).union(*(part.by_species for part in (*self.layers, *self.products)))
        self.tables: RadialTables | None = None
        if radial_tables and self.by_pair and next(iter(self.parameters.values())).dtype == torch.float32:
            watched = {name: self.parameters[name] for name in radial_parameters(stock)}
            self.tables = RadialTables(
                lambda: radial_functions(stock), watched, self.n_species, depends_on_species(stock), torch.float32
            )

    def node_outputs(self, parameters: Weights, batch: Batch, edges: Edges) -> dict[str, torch.Tensor]:
        """Energies [n_nodes] of the edges' vectors, and final features [n_nodes, dim] in layout ir_mul."""
        stock = self.stock
        head = batch.node_head
        lengths, y = self.harmonics(edges)
        radial = self._radial(parameters, batch, edges, lengths)
        groups = species_groups(batch, self.n_species)
        parameters = rows_where_known(parameters, groups.species)
        x, own_energy = self.embedding(parameters, batch, head)
        parts = [radial.pair_repulsion()] if hasattr(stock, "pair_repulsion") else []
        features = []
        for layer, product in zip(self.layers, self.products):
            if isinstance(layer, NonLinearLayer):
                message, skip = layer(parameters, x, y, radial, batch, edges)
            else:
                message, skip = layer(parameters, x, y, radial, edges, groups)
            x = product(parameters, message, skip, batch, groups)
            features.append(x)
        for i, readout in enumerate(self.readouts):
            parts.append(readout(parameters, features[-1 if len(self.readouts) == 1 else i], head))
        energy = _scaled(stock, functools.reduce(torch.add, parts), head)
        energy = energy if own_energy is None else energy + own_energy
        return {"energy": energy, FEATURES: x}

    def _radial(self, parameters, batch: Batch, edges: Edges, lengths: torch.Tensor) -> _TabledRadial | _Radial:
        if self.tables is not None:
            tabled = self.tables.at(lengths, edges, batch, parameters)
            if tabled is not None:
                return _TabledRadial(tabled, edges)
        return _Radial(self.stock, parameters, batch, edges, lengths.unsqueeze(1))


def _scaled(stock: Any, energy: torch.Tensor, head: int | torch.Tensor) -> torch.Tensor:
    """Energies [n_nodes] by the scale and shift of `head`, where the model has them."""
    if not hasattr(stock, "scale_shift"):
        return energy
    if not isinstance(head, int):
        return stock.scale_shift(energy, head)
    scale, shift = (torch.atleast_1d(t)[head] for t in (stock.scale_shift.scale, stock.scale_shift.shift))
    return scale * energy + shift


class _TabledRadial:
    """The radial functions of frozen networks, from tables."""

    def __init__(self, function: Callable[[str], torch.Tensor], edges: Edges):
        self._function, self._edges = function, edges

    def weights(self, layer: _Layer) -> torch.Tensor:
        """Of the convolution [n_rows, n_conv_weights]."""
        return self._function(f"w{layer.index}")

    def density(self, layer: _Layer) -> torch.Tensor:
        """Of each node's neighbours [n_nodes, 1]."""
        return self._sums(self._function(f"density{layer.index}"))

    def pair_repulsion(self) -> torch.Tensor:
        """Energy of each node [n_nodes]."""
        return self._sums(self._function("pair_repulsion")).squeeze(1)

    def _sums(self, values: torch.Tensor) -> torch.Tensor:
        """Over the neighbours of each node; a row stands for an edge and its reverse."""
        return sum_at_nodes(values, self._edges.index.ends)


class _Radial:
    """The same by the stock model's own modules."""

    def __init__(self, stock: Any, parameters: Mapping[str, Any], batch: Batch, edges: Edges, lengths: torch.Tensor):
        self._stock, self._parameters, self._batch, self._edges = stock, parameters, batch, edges
        self._lengths = lengths
        self._one_hot = torch.nn.functional.one_hot(batch.species, len(stock.atomic_numbers)).to(lengths.dtype)
        row_index = torch.stack([edges.index.row_sender, edges.index.row_receiver])
        self.basis, self.cutoff = stock.radial_embedding(lengths, self._one_hot, row_index, stock.atomic_numbers)

    def weights(self, layer: _Layer) -> torch.Tensor:
        """Of the convolution [n_rows, n_conv_weights]."""
        mlp = layer.radial
        replaced = {name: self._parameters[full] for name, full in layer.radial_weights.items()}
        if all(replaced[name] is p for name, p in layer.radial_stock):
            w = mlp(self.basis)
        else:
            w = torch.func.functional_call(mlp, replaced, (self.basis,))  # type: ignore
        return w if self.cutoff is None else w * self.cutoff

    def density(self, layer: _Layer) -> torch.Tensor:
        """Of each node's neighbours [n_nodes, 1]."""
        density = torch.tanh(layer.block.density_fn(self.basis) ** 2)  # type: ignore
        density = density if self.cutoff is None else density * self.cutoff
        zero = density.new_zeros(self._batch.n_nodes, 1)
        return zero.index_add(0, self._edges.graph.receiver, density[self._edges.index.row])

    def pair_repulsion(self) -> torch.Tensor:
        """Energy of each node [n_nodes]."""
        index = torch.stack([self._batch.sender, self._batch.receiver])
        lengths = self._lengths[self._edges.index.row]
        return self._stock.pair_repulsion_fn(lengths, self._one_hot, index, self._stock.atomic_numbers)


def _layer(i: int, block: torch.nn.Module, n_species: int) -> _Layer | NonLinearLayer:
    kind = NonLinearLayer if type(block).__name__ == NONLINEAR else _Layer
    return kind(i, block, n_species)


class _Layer:
    """One interaction; what follows it is a Product."""

    def __init__(self, i: int, block: torch.nn.Module, n_species: int):
        self.index, self.block, self.name = i, block, f"interactions.{i}"
        self.is_residual = "Residual" in type(block).__name__
        self.has_density = hasattr(block, "density_fn")
        self.linear_up = PathLinear(block.linear_up)  # type: ignore
        scale = 1.0 if self.has_density else 1.0 / float(block.avg_num_neighbors)  # type: ignore
        self.conv: EdgeConvTable = conv_table(block.conv_tp, scale)  # type: ignore
        self.linear = PathLinear(block.linear)  # type: ignore
        self.radial_stock = list(block.conv_tp_weights.named_parameters())  # type: ignore
        self.radial_weights = {name: f"{self.name}.conv_tp_weights.{name}" for name, _ in self.radial_stock}
        self.species_linear: SpeciesLinearTable = skip_table(block.skip_tp, n_species)  # type: ignore
        self.linears, self.radial = (self.linear_up, self.linear), block.conv_tp_weights
        self.sparse_layers = tuple(f"{self.name}.{linear}" for linear in ("linear_up", "linear", "skip_tp"))
        self.by_species = (f"{self.name}.skip_tp.weight",)

    def __call__(
        self, parameters, x, y, radial: _Radial | _TabledRadial, edges: Edges, groups: SpeciesGroups
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Message and skip connection [n_nodes, dim] of features x, where the block has one."""

        def weight(name: str):
            return parameters[f"{self.name}.{name}.weight"]

        skip = apply_species_linear(x, weight("skip_tp"), groups, self.species_linear) if self.is_residual else None
        x = self.linear_up(x, weight("linear_up"))
        w = radial.weights(self)
        message = self.linear(edge_conv(x, y, w, edges.graph, self.conv), weight("linear"))
        if self.has_density:  # the inverse first: a quotient's derivatives are more passes over the messages
            message = message * (radial.density(self) + 1).reciprocal()
        if not self.is_residual:
            message = apply_species_linear(message, weight("skip_tp"), groups, self.species_linear)
        return message, skip


class _Readout:
    """A readout of the scalars: a linear, or one with a hidden layer, or with two and biases."""

    def __init__(self, i: int, block: torch.nn.Module):
        self.block, self.name = block, f"readouts.{i}"
        self.is_linear = type(block).__name__ == "LinearReadoutBlock"
        first = block.linear if self.is_linear else block.linear_1
        self.first = PathLinear(first)  # type: ignore
        self.has_biases = type(block).__name__ == "NonLinearBiasReadoutBlock"
        # those with biases have scalars only, for which the stock module's layout is ours
        self.second, self._activation = None, getattr(block, "non_linearity", None)
        if not (self.is_linear or self.has_biases):
            factor = silu_factor(self._activation)
            self._activation = self._activation if factor is None else silu
            self.second = PathLinear(block.linear_2, scale=1.0 if factor is None else factor)  # type: ignore
        names = () if self.has_biases else ("linear",) if self.is_linear else ("linear_1", "linear_2")
        self.sparse_layers = tuple(f"{self.name}.{name}" for name in names)

    def __call__(self, parameters, x: torch.Tensor, head: int | torch.Tensor) -> torch.Tensor:  # [n_nodes]
        """The output of `head`, of one for all atoms or of each one's own [n_nodes]."""
        if self.is_linear:
            return column(self.first(x, parameters[f"{self.name}.linear.weight"]), head)
        hidden = self._activation(self.first(x, parameters[f"{self.name}.linear_1.weight"]))  # type: ignore
        hidden = self._of_head(hidden, head)
        if self.second is not None:
            return column(self.second(hidden, parameters[f"{self.name}.linear_2.weight"]), head)
        hidden = self._of_head(self._activation(self._biased("linear_mid", parameters, hidden)), head)  # type: ignore
        return column(self._biased("linear_2", parameters, hidden), head)

    def _of_head(self, hidden: torch.Tensor, head: int | torch.Tensor) -> torch.Tensor:
        """Hidden scalars, which are grouped by head: those of other heads as zeros."""
        n_heads = getattr(self.block, "num_heads", 1)
        if n_heads == 1:
            return hidden
        owner = torch.arange(hidden.shape[1], device=hidden.device) // (hidden.shape[1] // n_heads)
        is_mine = owner == (head if isinstance(head, int) else head.unsqueeze(1))
        return hidden * is_mine.to(hidden)

    def _biased(self, linear: str, parameters, x: torch.Tensor) -> torch.Tensor:
        replaced = {name: parameters[f"{self.name}.{linear}.{name}"] for name in ("weight", "bias")}
        return torch.func.functional_call(self.block.get_submodule(linear), replaced, (x,))
