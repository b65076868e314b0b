"""A nequix model in plain torch and e3nn, any precision: what the forward on our kernels is measured against.

Formulas are those of the package `nequix` 0.4.5, a NequIP with a layer norm. For an edge with vector r from receiver to
sender, b_n(r) = 2/r_c sin(n pi r / r_c) / r times a polynomial cutoff, y = Y(r) in e3nn's normalisation "component":

    m_i = 1/sqrt(N) sum_j  linear_1(h_j) x y_ij  *  MLP(b(r_ij))     x: all paths to irreps of the output
    h_i <- gate(norm(linear_2(m_i) + skip(h_i)))
    E_i = scale readout(h_i) + shift + E0 of the species

The first h is one-hot. Activations are silu over its root mean square under a normal distribution.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import e3nn
import torch
from e3nn import o3

from pathtune.backbones._nequix_file import NequixFile, changed
from pathtune.backbones._nequix_shapes import LayerSizes, NequixConfig, degree, layer_sizes, text

EPS = 1e-12  # of the layer norm
# Of silu under a normal distribution: 0.59645869, but this is how e3nn-jax sums it in float32, as in training
SILU_RMS = 0.5964577198028564


def silu(x: torch.Tensor) -> torch.Tensor:
    """silu with a root mean square of one, as e3nn-jax normalises it."""
    return torch.nn.functional.silu(x) / SILU_RMS


class Matrix(torch.nn.Module):
    """x @ weight, in the file's order [n_in, n_out]."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(n_in, n_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, n_out] of x [n, n_in]."""
        return x @ self.weight


class RadialNetwork(torch.nn.ModuleList):
    """Matrices with silu, not normalised, between them."""

    def __init__(self, sizes: list[int]):
        super().__init__(Matrix(*pair) for pair in itertools.pairwise(sizes))
        self.hs = sizes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n_edges, n_weights] of the radial basis [n_edges, n_basis]."""
        for k, matrix in enumerate(self):
            x = matrix(torch.nn.functional.silu(x) if k else x)
        return x


class RadialBasis(torch.nn.Module):
    """Bessel functions times a polynomial cutoff."""

    def __init__(self, n: int, cutoff: float, p: float):
        super().__init__()
        self.n, self.cutoff, self.p = n, cutoff, p

    def forward(self, r: torch.Tensor) -> torch.Tensor:
        """[n_edges, n_basis] of lengths [n_edges] in A."""
        x, p = (r / self.cutoff).unsqueeze(1), self.p
        k = torch.pi * torch.arange(1, self.n + 1, dtype=r.dtype, device=r.device)
        bessel = 2.0 / self.cutoff * torch.sin(k * x) / r.unsqueeze(1)
        envelope = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
        return bessel * envelope * (x < 1)


class LayerNorm(torch.nn.Module):
    """x over the root of a weighted sum of squares of all features, times a weight for each channel."""

    shares: torch.Tensor  # [dim]
    channels: torch.Tensor  # [dim]

    def __init__(self, irreps: Any):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(irreps.num_irreps))
        # a sum over channels of a mean over components, which the package divides by their number once more
        shares = [1.0 / (ir.dim**2 * len(irreps)) for mul, ir in irreps for _ in range(mul * ir.dim)]
        self.register_buffer("shares", torch.tensor(shares, dtype=torch.float64))
        channels = torch.arange(irreps.num_irreps).split([mul for mul, _ in irreps])
        self.register_buffer(
            "channels", torch.cat([c.repeat_interleave(ir.dim) for c, (_, ir) in zip(channels, irreps)])
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n_nodes, dim] of x [n_nodes, dim], in layout mul_ir."""
        mean_square = (x * x) @ self.shares.to(x)
        return x * (mean_square + EPS).rsqrt().unsqueeze(1) * self.weight[self.channels]


class Interaction(torch.nn.Module):
    """One layer, in layout mul_ir."""

    def __init__(self, sizes: LayerSizes, config: NequixConfig):
        super().__init__()
        features, joined, gated = (o3.Irreps(text(part)) for part in (sizes.features, sizes.joined, sizes.gated))
        harmonics = o3.Irreps([(1, (l, degree(l).p)) for l in range(config.lmax + 1)])
        self.n_scalars, self.n_gates, self.gated = sizes.n_scalars, sizes.n_gates, o3.Irreps(text(sizes.gated[1:]))
        self.avg_n_neighbors = config.avg_n_neighbors
        hidden = [config.radial_mlp_size] * config.radial_mlp_layers
        self.radial_mlp = RadialNetwork([config.radial_basis_size, *hidden, sum(mul for mul, _ in sizes.messages)])
        self.linear_1 = o3.Linear(features, features)
        self.convolution = o3.TensorProduct(
            features,
            harmonics,
            o3.Irreps([(mul, tuple(ir)) for mul, ir in sizes.messages]),
            [(i, l, k, "uvu", True) for k, (i, l, _) in enumerate(sizes.paths)],
            shared_weights=False,
            internal_weights=False,
        )
        self.linear_2 = o3.Linear(joined, gated)
        self.skip = o3.Linear(features, gated)
        self.layer_norm = LayerNorm(gated) if config.layer_norm else None

    def forward(
        self,
        x: torch.Tensor,  # [n_nodes, dim_in]
        y: torch.Tensor,  # [n_edges, dim_y]
        radial: torch.Tensor,  # [n_edges, n_basis]
        sender: torch.Tensor,  # [n_edges]
        receiver: torch.Tensor,  # [n_edges]
    ) -> torch.Tensor:  # [n_nodes, dim_out]
        """Features after the layer."""
        messages = self.convolution(self.linear_1(x)[sender], y, self.radial_mlp(radial))
        summed = messages.new_zeros(x.shape[0], messages.shape[1]).index_add(0, receiver, messages)
        x = self.linear_2(summed / math.sqrt(self.avg_n_neighbors)) + self.skip(x)
        return self._gate(x if self.layer_norm is None else self.layer_norm(x))

    def _gate(self, x: torch.Tensor) -> torch.Tensor:
        scalars, gates, features = x.split(
            [self.n_scalars, self.n_gates, x.shape[1] - self.n_scalars - self.n_gates], 1
        )
        parts, begin = [silu(scalars)], 0
        for (mul, ir), block in zip(self.gated, features.split([mul_ir.dim for mul_ir in self.gated], 1)):
            gate = silu(gates[:, begin : begin + mul]).unsqueeze(2)
            parts.append((block.unflatten(1, (mul, ir.dim)) * gate).flatten(1))
            begin += mul
        return torch.cat(parts, 1)


@contextlib.contextmanager
def _e3nn_defaults() -> Iterator[None]:
    """3j in float64, and no TorchScript, which e3nn 0.4.4 would compile for seconds."""
    dtype, options = torch.get_default_dtype(), e3nn.get_optimization_defaults()
    torch.set_default_dtype(torch.float64)
    e3nn.set_optimization_defaults(jit_script_fx=False)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        e3nn.set_optimization_defaults(**options)


class Nequix(torch.nn.Module):
    """The whole model, with the weights of its file; `dtype` is float32 or float64."""

    atom_energies: torch.Tensor  # [n_species] eV

    def __init__(self, file: NequixFile, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.file, self.config = file, file.config
        config = self.config
        with _e3nn_defaults():
            self.harmonics = o3.SphericalHarmonics(list(range(config.lmax + 1)), True, "component")
            self.basis = RadialBasis(config.radial_basis_size, config.cutoff, config.radial_polynomial_p)
            self.layers = torch.nn.ModuleList(Interaction(sizes, config) for sizes in layer_sizes(config))
            self.readout = o3.Linear(f"{config.hidden[0][0]}x0e", "1x0e")
        self.register_buffer("atom_energies", file.atom_energies.double())  # [n_species] eV
        weights = {name: w.double() for name, w in file.weights.items()}
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, weight in weights.items():
                parameters.pop(name).copy_(weight)
        if parameters:
            raise ValueError(f"the file gives no {', '.join(parameters)}")
        self.to(dtype)

    def node_outputs(
        self,
        vectors: torch.Tensor,  # [n_edges, 3] A, from receiver to sender
        species: torch.Tensor,  # [n_nodes] counted in ascending atomic numbers
        sender: torch.Tensor,  # [n_edges]
        receiver: torch.Tensor,  # [n_edges]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies [n_nodes] in eV without shift and E0, and the last features [n_nodes, n_scalars]."""
        x = torch.nn.functional.one_hot(species, len(self.config.atomic_numbers)).to(vectors)
        y, radial = self.harmonics(vectors), self.basis(vectors.norm(dim=1))
        for layer in self.layers:
            x = layer(x, y, radial, sender, receiver)
        return self.config.scale * self.readout(x)[:, 0], x

    def forward(
        self, vectors: torch.Tensor, species: torch.Tensor, sender: torch.Tensor, receiver: torch.Tensor
    ) -> torch.Tensor:
        """Energies [n_nodes] in eV with everything, arguments as those of `node_outputs`."""
        energies, _ = self.node_outputs(vectors, species, sender, receiver)
        return energies + self.config.shift + self.atom_energies.to(energies)[species]

    def to_file(self) -> NequixFile:
        """As a file of nequix, in float32: with its own weights and energies, which may have been replaced."""
        weights: dict[str, Any] = {name: p.detach() for name, p in self.named_parameters()}
        return changed(self.file, self.atom_energies, weights)
