"""NequIP's forward by our operators: layout ir_mul throughout, edges once per pair.

It reads the stock model's own parameters and sub-modules (radial basis and networks, activations, readout, pair
potential), so that there is one set of weights. nequip's vectors point from receiver to sender, the other way round
than ours. The self connection is a product of the features with the embedding of the atom's type: for each species that
is a linear, whose weights are the product's weights times the row of the embedding. What is not covered is named by
`unsupported`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pathtune.backbones._e3nn import PathLinear, called, conv_table, skip_table
from pathtune.backbones._gate import Gate
from pathtune.backbones._geometry import FEATURES, Edges, Harmonics, species_groups
from pathtune.backbones._packages import quiet_torchscript
from pathtune.backbones._radial_tables import RadialFunction, RadialTables, weights_of_layers
from pathtune.data import Batch
from pathtune.ops import SpeciesGroups, edge_conv, species_linear
from pathtune.tables.irreps import layout_permutation

FUNC = "model.func"


def layer_names(stock: Any) -> list[str]:
    """Names of the interaction layers among the children of the stock model's network, in order."""
    return [name for name, _ in stock.model.func.named_children() if name.endswith("_convnet")]


def unsupported(stock: Any) -> str | None:
    """The first option of a stock NequIP that this forward does not cover, in words; None if none."""
    modules = stock.model.func
    if modules.edge_norm._per_edge_type:
        return "cutoffs by the types of an edge (per_edge_type_cutoff)"
    for name in layer_names(stock):
        layer = modules.get_submodule(name)
        if type(layer.equivariant_nonlin).__name__ != "Gate":
            return f"the nonlinearity {type(layer.equivariant_nonlin).__name__} ({name}, convnet_nonlinearity_type)"
        if layer.resnet:
            return f"an update that adds the features ({name}, convnet_resnet)"
        if type(layer.conv.tp_scatter).__name__ != "TensorProductScatter":
            return f"the product {type(layer.conv.tp_scatter).__name__} ({name})"
        orders = [layout_permutation(i) for i in (layer.equivariant_nonlin.irreps_in, layer.conv.linear_2.irreps_out)]
        if not torch.equal(*orders):
            return f"irreps of one kind that the gate reads apart ({name})"
    return None


class NequipForward:
    """Tables of one stock model; of its weights only those of frozen radial functions are kept, as tables of these."""

    by_pair = True  # the radial functions know the length of an edge only

    def __init__(self, stock: Any, n_species: int, radial_tables: bool = True):
        self.parameters = dict(stock.named_parameters())
        self.modules, self.n_species = dict(stock.model.func.named_children()), n_species
        self.harmonics = Harmonics(self.modules["spharm"].sh, orientation=-1)
        self.basis = _Basis(self.modules)
        self.layers = [_Layer(t, name, self.modules[name]) for t, name in enumerate(layer_names(stock))]
        self.sparse_layers = frozenset(name for layer in self.layers for name in layer.sparse_layers)
        self.tables: RadialTables | None = None
        if radial_tables and stock.model_dtype == torch.float32:
            parts = (".edge_mlp.", ".bessel_encode.")
            watched = {n: p for n, p in self.parameters.items() if any(part in n for part in parts)}
            self.tables = RadialTables(lambda: self._radial_functions(), watched, n_species, False, torch.float32)

    def node_outputs(self, parameters: Mapping[str, Any], batch: Batch, edges: Edges) -> dict[str, torch.Tensor]:
        """Energies [n_nodes] of the edges' vectors, and final features [n_nodes, n_scalars]."""
        lengths, y = self.harmonics(edges)
        radial = self._radial(parameters, batch, edges, lengths)
        groups = species_groups(batch, self.n_species)
        embedding = parameters[f"{FUNC}.type_embed.embed_module.weight"]
        x = torch.nn.functional.embedding(batch.species, embedding)
        for layer in self.layers:
            x = layer(parameters, x, y, radial, edges, batch.species, groups, embedding)
        readout = self.modules["per_atom_energy_readout"].mlp_module
        energy = called(readout, f"{FUNC}.per_atom_energy_readout.mlp_module", parameters, x)
        rescale = self.modules["per_type_energy_scale_shift"]
        if rescale.has_scales:
            scales = rescale.scales.detach().flatten().expand(self.n_species).to(energy)
            energy = energy * scales[batch.species].unsqueeze(1)
        if "pair_potential" in self.modules:
            energy = self._with_pairs(energy, batch, edges)
        return {"energy": energy[:, 0], FEATURES: x}

    def _radial(
        self, parameters: Mapping[str, Any], batch: Batch, edges: Edges, lengths: torch.Tensor
    ) -> Callable[[_Layer], torch.Tensor]:
        """The weights [n_rows, n_conv_weights] of a layer's convolution, from tables or by its network."""
        tabled = weights_of_layers(self.tables, lengths, edges, batch, parameters)
        if tabled is not None:
            return tabled
        basis = self.basis(lengths, parameters)
        return lambda layer: called(layer.radial, f"{layer.name}.conv.edge_mlp", parameters, basis)

    def _with_pairs(self, energy: torch.Tensor, batch: Batch, edges: Edges) -> torch.Tensor:
        """The energies [n_nodes, 1] and those of the stock pair potential."""
        index, lengths = edges.index, edges.vectors.norm(dim=1)
        both = torch.cat([lengths, lengths]).unsqueeze(1)
        receiver = torch.cat([index.row_receiver, index.row_sender])
        sender = torch.cat([index.row_sender, index.row_receiver])
        data = {
            "pos": batch.positions,
            "atom_types": batch.species,
            "edge_index": torch.stack([receiver, sender]),
            "edge_vectors": both,  # only its lengths are read
            "edge_lengths": both,
            "normed_edge_lengths": both * self.modules["edge_norm"]._rmax_recip,
            "atomic_energy": energy,
        }
        return self.modules["pair_potential"](data)["atomic_energy"].to(energy)

    def _radial_functions(self) -> dict[str, RadialFunction]:
        """Weights of the convolutions ("w0", ...), from copies in float64."""
        with quiet_torchscript():
            basis = _Basis({n: copy.deepcopy(self.modules[n]).cpu().double() for n in _Basis.parts})
            networks = [copy.deepcopy(layer.radial).cpu().double() for layer in self.layers]
        basis.bessel._output_dtype = torch.float64
        end = float(self.modules["edge_norm"].r_max)

        def weights(network):
            return lambda r, a, b: network(basis(r, {}))

        return {f"w{t}": RadialFunction(weights(network), lambda a, b: end) for t, network in enumerate(networks)}


class _Basis:
    """Bessel functions times the cutoff, by the stock modules."""

    parts = ("edge_norm", "bessel_encode", "factor")

    def __init__(self, modules: Mapping[str, Any]):
        self.bessel, self.norm, self.factor = modules["bessel_encode"], modules["edge_norm"], modules["factor"].factor

    def __call__(self, lengths: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:  # [n_rows, n_basis]
        data = {self.bessel.norm_length_field: lengths.unsqueeze(1) * self.norm._rmax_recip}
        data = called(self.bessel, f"{FUNC}.bessel_encode", parameters, data)
        return data[self.bessel.edge_invariant_field] * self.factor


class _Layer:
    """Convolution between two linears, self connection, and gate."""

    def __init__(self, t: int, name: str, layer: Any):
        self.index, self.name, conv = t, f"{FUNC}.{name}", layer.conv
        norm = conv.avg_num_neighbors_norm.norm_const.detach().flatten()
        self.norm = None if norm.numel() == 1 else norm  # of the sender's type
        self.first, self.second = PathLinear(conv.linear_1), PathLinear(conv.linear_2)
        scale = float(norm) if norm.numel() == 1 else 1.0
        self.conv = conv_table(conv.tp_scatter.tp, scale, joined=True)
        self.radial, self.gate = conv.edge_mlp, Gate(layer.equivariant_nonlin)
        self.skip = None if conv.sc is None else _SelfConnection(f"{self.name}.conv.sc.weight", conv.sc)
        self.species_linear = None if self.skip is None else self.skip.table(1)
        self.linears = [self.first, self.second]
        self.sparse_layers = tuple(f"{self.name}.conv.{part}" for part in ("linear_1", "linear_2"))

    def __call__(
        self, parameters, x, y, radial, edges: Edges, species, groups: SpeciesGroups, embedding
    ) -> torch.Tensor:
        first = self.first(x, parameters[f"{self.name}.conv.linear_1.weight"])
        if self.norm is not None:
            first = first * self.norm.to(first)[species].unsqueeze(1)
        message = edge_conv(first, y, radial(self), edges.graph, self.conv)
        new = self.second(message, parameters[f"{self.name}.conv.linear_2.weight"])
        if self.skip is not None:
            new = new + self.skip(x, parameters, embedding, groups)
        return self.gate(new)


class _SelfConnection:
    """A product with the embedding of the type, as a linear of each species that is there."""

    def __init__(self, name: str, module: Any):
        self.name = name
        self.table = functools.cache(lambda n_species: skip_table(module, n_species))
        self.shapes = [tuple(ins.path_shape) for ins in module.instructions]

    def __call__(self, x, parameters: Mapping[str, Any], embedding: torch.Tensor, groups: SpeciesGroups):
        rows, flat, parts, begin = embedding[groups.present], parameters[self.name], [], 0
        for shape in self.shapes:
            n = torch.Size(shape).numel()
            parts.append(torch.einsum("uvw,sv->usw", flat[begin : begin + n].reshape(shape), rows).flatten())
            begin += n
        return species_linear(x, torch.cat(parts), groups.of_present, self.table(rows.shape[0]))
