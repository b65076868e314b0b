"""SevenNet's forward by our operators: layout ir_mul throughout, edges once per pair.

It reads the stock model's own parameters and sub-modules (radial basis and network, activations), so that
there is one set of weights. sevenn's edges point from receiver to sender, the other way round than ours:
spherical harmonics are taken of the negative vectors. Its denominators are folded into the coefficients of
the convolutions. What is not covered is named by `unsupported`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pathtune.backbones._e3nn import PathLinear, apply_species_linear, called, conv_table, skip_table
from pathtune.backbones._gate import Gate
from pathtune.backbones._geometry import FEATURES, Edges, Harmonics, species_groups
from pathtune.backbones._radial_tables import RadialTables, weights_of_layers
from pathtune.backbones._sevennet_radial import radial_functions, radial_parameters
from pathtune.data import Batch
from pathtune.ops import (
    SpeciesGroups,
    edge_conv,
)

INTROS = {"SelfConnectionLinearIntro": "linear", "SelfConnectionIntro": "fc_tensor_product"}
RESCALES = ("Rescale", "SpeciesWiseRescale", "ModalWiseRescale")


def unsupported(stock: Any) -> str | None:
    """The first module of a stock SevenNet that this forward does not cover, in words; None if none."""
    modules = stock._modules
    if "reduce_hidden_to_energy" not in modules:
        return "a readout other than two linears"
    for name, module in modules.items():
        kind = type(module).__name__
        if name.endswith("_convolution") and kind != "IrrepsConvolution":
            return f"convolution {kind} ({name})"
        if name.endswith("_self_connection_intro") and kind not in INTROS:
            return f"self connection {kind} ({name})"
        if kind == "IrrepsLinear" and any(ins.i_in == -1 for ins in module.linear.instructions):
            return f"a linear with a bias ({name})"
        if name.endswith("_self_interaction_2"):
            conv = modules[name.replace("self_interaction_2", "convolution")].convolution
            if conv.irreps_out.simplify() != module._irreps_in_wo_modal.simplify():
                return f"irreps that the convolution does not make ({name})"
    if {ins.i_out for ins in modules["onehot_to_feature_x"].linear.instructions} != {0}:
        return "an embedding of more than one irrep"
    return None if type(modules["rescale_atomic_energy"]).__name__ in RESCALES else "the rescaling of energies"


class SevenNetForward:
    """Tables of one stock model for one of its modalities; of its weights only those of frozen radial functions are
    kept, as tables of these.
    """

    by_pair = True  # the radial functions know the length of an edge only

    def __init__(self, stock: Any, modality: int, radial_tables: bool = True):
        self.modules = modules = stock._modules
        self.parameters = dict(stock.named_parameters())  # once: walking the modules costs a millisecond
        self.modality, self.n_species = modality, modules["onehot_idx_to_onehot"].num_classes
        self.harmonics = Harmonics(modules["edge_embedding"].spherical.sph, orientation=-1)
        self.embedding_weight = modules["onehot_to_feature_x"].linear.instructions[0].path_weight
        n_layers = sum(name.endswith("_convolution") for name in modules)
        self.layers = [_Layer(t, modules, modality, self.n_species) for t in range(n_layers)]
        self.sparse_layers = frozenset(name for layer in self.layers for name in layer.sparse_layers)
        self.hidden = _Linear("reduce_input_to_hidden", modules, modality)
        self.out = _Linear("reduce_hidden_to_energy", modules, modality)
        self.scale = energy_scale(modules["rescale_atomic_energy"], modality, self.n_species)
        self.tables: RadialTables | None = None
        if radial_tables and next(iter(self.parameters.values())).dtype == torch.float32:
            watched = {name: self.parameters[name] for name in radial_parameters(stock)}
            self.tables = RadialTables(
                lambda: radial_functions(modules, n_layers), watched, self.n_species, False, torch.float32
            )

    def node_outputs(self, parameters: Mapping[str, Any], batch: Batch, edges: Edges) -> dict[str, torch.Tensor]:
        """Energies [n_nodes] of the edges' vectors, and final features [n_nodes, dim] in layout ir_mul."""
        lengths, y = self.harmonics(edges)
        radial = self._radial(parameters, batch, edges, lengths)
        groups = species_groups(batch, self.n_species)
        x = self._embedding(parameters["onehot_to_feature_x.linear.weight"], batch.species)
        for layer in self.layers:
            x = layer(parameters, x, y, radial, edges, groups)
        energy = self.out(self.hidden(x, parameters), parameters)
        self.scale = self.scale.to(x)  # once: no step waits for a copy
        return {"energy": energy[:, 0] * self.scale[batch.species], FEATURES: x}

    def _radial(
        self, parameters: Mapping[str, Any], batch: Batch, edges: Edges, lengths: torch.Tensor
    ) -> Callable[[_Layer], torch.Tensor]:
        """The weights [n_rows, n_conv_weights] of a layer's convolution, from tables or by the stock's own network."""
        tabled = weights_of_layers(self.tables, lengths, edges, batch, parameters)
        if tabled is not None:
            return tabled
        embedding = self.modules["edge_embedding"]
        basis = called(embedding.basis_function, "edge_embedding.basis_function", parameters, lengths)
        radial = basis * embedding.cutoff_function(lengths).unsqueeze(1)
        return lambda layer: called(layer.radial, f"{layer.index}_convolution.weight_nn", parameters, radial)

    def _embedding(self, weight: torch.Tensor, species: torch.Tensor) -> torch.Tensor:  # [n_nodes, mul]
        rows = weight.reshape(-1, self.modules["onehot_to_feature_x"].irreps_out.dim)
        x = torch.nn.functional.embedding(species, rows[: self.n_species])
        if rows.shape[0] > self.n_species:  # and one row for each modality
            x = x + rows[self.n_species + self.modality]
        return x * self.embedding_weight


class _Layer:
    """Self connection, convolution between two linears, and gate."""

    def __init__(self, t: int, modules: Mapping[str, Any], modality: int, n_species: int):
        self.index = t
        intro, conv = modules[f"{t}_self_connection_intro"], modules[f"{t}_convolution"]
        kind = INTROS[type(intro).__name__]
        self.skip_name = f"{t}_self_connection_intro.{kind}"
        self.skip = PathLinear(intro.linear) if kind == "linear" else None
        self.species_linear = None if self.skip else skip_table(intro.fc_tensor_product, n_species)
        self.first = _Linear(f"{t}_self_interaction_1", modules, modality)
        self.radial = conv.weight_nn
        self.conv = conv_table(conv.convolution, 1.0 / float(conv.denominator), joined=True)
        self.second = _Linear(f"{t}_self_interaction_2", modules, modality)
        self.linears = [linear for linear in (self.skip, self.first.linear, self.second.linear) if linear]
        self.gate = Gate(modules[f"{t}_equivariant_gate"].gate)
        self.sparse_layers = (self.skip_name, f"{self.first.name}.linear", f"{self.second.name}.linear")

    def __call__(self, parameters, x, y, radial, edges: Edges, groups: SpeciesGroups) -> torch.Tensor:
        weight = parameters[f"{self.skip_name}.weight"]
        if self.skip is not None:
            skip = self.skip(x, weight)
        else:
            skip = apply_species_linear(x, weight, groups, self.species_linear)
        message = edge_conv(self.first(x, parameters), y, radial(self), edges.graph, self.conv)
        return self.gate(self.second(message, parameters) + skip)


class _Linear:
    """An IrrepsLinear; one that knows modalities reads a one-hot vector of them as its last scalars."""

    def __init__(self, name: str, modules: Mapping[str, Any], modality: int):
        self.name, self.modality = name, modality
        n = modules[name].num_modalities
        self.n_modalities = n if n > 1 else 0
        self.linear = PathLinear(modules[name].linear, self.n_modalities)

    def __call__(self, x: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
        if self.n_modalities:
            one_hot = x.new_zeros(x.shape[0], self.n_modalities)
            one_hot[:, self.modality] = 1.0
            x = torch.cat([x, one_hot], dim=1)
        return self.linear(x, parameters[f"{self.name}.linear.weight"])


def energy_scale(rescale: Any, modality: int, n_species: int) -> torch.Tensor:  # [n_species]
    """By what sevenn multiplies the output of the network, for one modality."""
    scale = rescale.scale.detach()
    if getattr(rescale, "use_modal_wise_scale", False):
        scale = scale[modality]
    return scale.expand(n_species).clone()
