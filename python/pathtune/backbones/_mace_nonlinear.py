"""MACE's RealAgnosticResidualNonLinearInteractionBlock (MH-0, MH-1, OMOL-0) by our operators.

Its radial networks also read an embedding of the sender's and of the receiver's species, so that an edge and its
reverse differ. The first matrix of a network is applied to the radial basis of each edge, and to the embeddings of the
species that there are, not to those of every edge: the sum is the same.
"""

from __future__ import annotations

from typing import Any

import torch

from pathtune.backbones._e3nn import PathLinear, conv_table
from pathtune.backbones._geometry import Edges
from pathtune.data import Batch
from pathtune.ops import edge_conv

NONLINEAR = "RealAgnosticResidualNonLinearInteractionBlock"
LINEARS = ("linear_up", "linear_res", "linear_1", "linear_2", "skip_tp")


def unsupported_nonlinear(i: int, block: Any) -> str | None:
    """What of such a block is not covered, in words; None if all is."""
    for name in ("conv_tp_weights", "density_fn"):
        if type(getattr(block, name)).__name__ != "RadialMLP":
            return f"radial network {type(getattr(block, name)).__name__} (interactions.{i}.{name})"
    gated = [ir for _, ir in block.equivariant_nonlin.irreps_gated]
    if len(set(gated)) < len(gated):
        return f"a gate with one irrep in several blocks (interactions.{i})"
    return None


class NonLinearLayer:
    """The interaction; what follows it is a Product."""

    def __init__(self, i: int, block: Any, n_species: int):
        self.index, self.name, self._n_species = i, f"interactions.{i}", n_species
        self._up, self._res, self._first, self._second, self._skip = (
            PathLinear(getattr(block, name)) for name in LINEARS
        )
        self.linears = (self._up, self._res, self._first, self._second, self._skip)
        self.conv = conv_table(block.conv_tp)
        self.species_linear = None
        self.radial = _Network(block, f"{self.name}.conv_tp_weights", block.conv_tp_weights)
        self._density = _Network(block, f"{self.name}.density_fn", block.density_fn)
        self._gate = _gate(block.equivariant_nonlin)
        self._embedding_weight = float(block.source_embedding.instructions[0].path_weight)
        self.sparse_layers = tuple(f"{self.name}.{name}" for name in LINEARS)
        self.by_species: tuple[str, ...] = ()

    def __call__(
        self, parameters: Any, x: torch.Tensor, y: torch.Tensor, radial: Any, batch: Batch, edges: Edges
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Message and skip connection [n_nodes, dim] of features x; `radial`: basis and cutoff of each edge."""

        def weight(name: str):
            return parameters[f"{self.name}.{name}"]

        skip = self._skip(x, weight("skip_tp.weight"))
        x = self._up(x, weight("linear_up.weight"))
        basis, cutoff, index = radial.basis, radial.cutoff, edges.index
        pair = batch.species[index.row_sender], batch.species[index.row_receiver]
        embeddings = [
            weight(f"{name}.weight").reshape(self._n_species, -1) * self._embedding_weight
            for name in ("source_embedding", "target_embedding")
        ]
        w = self.radial(parameters, basis, embeddings, pair, cutoff)
        density = torch.tanh(self._density(parameters, basis, embeddings, pair) ** 2)
        density = density if cutoff is None else density * cutoff
        total = density.new_zeros(x.shape[0], 1).index_add(0, index.row_receiver, density)
        message = self._first(edge_conv(x, y, w, edges.graph, self.conv), weight("linear_1.weight"))
        message = message / (total * weight("beta") + weight("alpha")) + self._res(x, weight("linear_res.weight"))
        return self._second(self._gate(message), weight("linear_2.weight")), skip


class _Network:
    """A RadialMLP of the radial basis of an edge and the embeddings of its sender and receiver."""

    def __init__(self, block: Any, name: str, network: Any):
        self._name = name
        self._steps = list(enumerate(network.net))
        self._n_basis = network.hs[0] - 2 * block.source_embedding.irreps_out.dim
        self.hs = [self._n_basis, *network.hs[1:]]  # of what is computed for each edge

    def __call__(
        self,
        parameters: Any,
        basis: torch.Tensor,
        embeddings: list[torch.Tensor],
        pair: tuple[torch.Tensor, ...],
        cutoff: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[n_edges, n_out] of basis [n_edges, n_basis], embeddings [n_species, mul], and species [n_edges] of both.

        The product with `cutoff` [n_edges, 1], c, is taken before the last matrix: c (W h + b) = [W b] [c h, c].
        """
        functional, h = torch.nn.functional, basis
        for k, module in self._steps:
            name = f"{self._name}.net.{k}"
            if k == 0:
                matrix = parameters[f"{name}.weight"]
                parts = matrix[:, self._n_basis :].chunk(2, dim=1)
                h = functional.linear(basis, matrix[:, : self._n_basis], parameters[f"{name}.bias"])
                for embedding, part, species in zip(embeddings, parts, pair):
                    h = h + functional.embedding(species, embedding @ part.T)
            elif isinstance(module, torch.nn.Linear):
                weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
                if cutoff is None or k < self._steps[-1][0]:
                    h = functional.linear(h, weight, bias)
                else:
                    h = torch.cat([h * cutoff, cutoff], 1) @ torch.cat([weight, bias[:, None]], 1).T
            elif isinstance(module, torch.nn.LayerNorm):
                weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
                h = functional.layer_norm(h, module.normalized_shape, weight, bias, module.eps)
            else:
                h = module(h)
        return h


def _gate(gate: Any) -> Any:
    """The stock gate in layout ir_mul, by mace's own class."""
    return type(gate)(
        gate.irreps_scalars,
        [gate._act_scalar] * len(gate.irreps_scalars),
        gate.irreps_gates,
        [gate._act_gate] * len(gate.irreps_gates),
        gate.irreps_gated,
        layout="ir_mul",
    )
