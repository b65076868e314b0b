"""Models of nequix (NequIP with a layer norm, for 89 elements): `.nqx` files, read without running anything in them.

The package itself is not needed. `stock` is a plain torch module of our own (nequix_plain.py), the same function as the
package's.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import torch

from pathtune.backbones._choice import choose
from pathtune.backbones._fingerprint import Fingerprinted
from pathtune.backbones._geometry import FEATURES, Edges, differentiate, prepare
from pathtune.backbones._nequix_file import read_nqx, write_nqx
from pathtune.backbones._packages import import_e3nn, quiet_torchscript
from pathtune.data import Batch, Request
from pathtune.errors import InputError
from pathtune.files import read_bytes
from pathtune.layers import Layer, Weights, whole_layer

PREFIX = "nequix:"


class NequixBackbone(Fingerprinted):
    """A nequix model; `stock` is never changed, replaced weights are passed to each call."""

    name = "Nequix"
    heads: tuple[str, ...] = ("Default",)
    readouts: tuple[str, ...] = ("readout.",)
    outputs: tuple[str, ...] = ("energy", "forces", "stress")
    inputs: tuple[str, ...] = ()
    rate = 0.5  # of every default learning rate: better than 1 for all weights and for 3 %, on copper and on silicon

    def __init__(self, stock: Any, backend: str = "auto", radial_tables: bool = True):
        from pathtune.backbones.nequix_forward import NequixForward

        self.stock: Any = stock.requires_grad_(False)
        self.parameters: dict[str, torch.nn.Parameter] = dict(stock.named_parameters())
        self.atomic_numbers: tuple[int, ...] = stock.config.atomic_numbers
        self.n_invariants = int(stock.readout.irreps_in.dim)
        self.r_max = stock.config.cutoff
        self.dtype: torch.dtype = self.parameters["readout.weight"].dtype
        self.layers = _layers(stock)
        self._radial_tables = radial_tables
        self.backend, own = choose(backend, lambda: None, lambda: NequixForward(stock, radial_tables))
        self.sparse_layers = own.sparse_layers if own is not None else frozenset()
        self._forward = own or _PlainForward(stock)

    def atomic_energies(self) -> torch.Tensor:
        """E0 [1, n_species], eV, float64: all that depends on the species alone, atom energies and the shift."""
        return (self.stock.atom_energies.detach().double() + self.stock.config.shift).unsqueeze(0)

    def predict(self, weights: Weights, batch: Batch, request: Request) -> dict[str, torch.Tensor]:
        """What `request` asks, by name, with `weights` in place of the model's own."""
        return differentiate(self._forward, weights, batch, request)

    def prepare(self, batch: Batch) -> None:
        """Make, on the host, what `predict` will read of the batch, and keep it with the batch."""
        prepare(self._forward, batch)

    def with_weights(self, weights: Mapping[str, torch.Tensor], e0: torch.Tensor, head: int) -> torch.nn.Module:
        """A plain model with these parameters and E0; the shift stays, the atom energies are what is left of E0."""
        stock = self._copied()
        stock.load_state_dict({name: w.detach() for name, w in weights.items()}, strict=False)
        stock.atom_energies.copy_(e0 - stock.config.shift)
        return stock.requires_grad_(True)

    @torch.no_grad()
    def draw_anew(self, seed: int) -> None:
        """Other weights in place, as nequix draws those of a model that was never trained."""
        generator = torch.Generator().manual_seed(seed)
        n_matrices = len(self.stock.layers[0].radial_mlp)
        for name, parameter in self.parameters.items():
            if name.endswith("layer_norm.weight"):
                parameter.fill_(1.0)
                continue
            std = 1.0
            if ".radial_mlp." in name:
                is_last = name.endswith(f".{n_matrices - 1}.weight")
                std = math.sqrt((1.0 if is_last else self.stock.config.mlp_init_scale) / parameter.shape[0])
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def copy(self) -> NequixBackbone:
        """An independent copy, parameters included."""
        return type(self)(self._copied(), self.backend, self._radial_tables)

    def _copied(self) -> Any:
        return plain_copy(self.stock)


class _PlainForward:
    """The plain module as a Forward."""

    by_pair = False

    def __init__(self, stock: Any):
        self.module = _NodeOutputs(stock)
        self.parameters = dict(stock.named_parameters())

    def node_outputs(self, parameters: Mapping[str, Any], batch: Batch, edges: Edges) -> dict[str, torch.Tensor]:
        """Energies [n_nodes] of the edges' vectors, and final features."""
        index = edges.index
        replaced = {f"stock.{name}": weight for name, weight in parameters.items()}
        arguments = (-edges.vectors, batch.species, index.row_sender, index.row_receiver)
        energy, features = torch.func.functional_call(self.module, replaced, arguments)
        return {"energy": energy, FEATURES: features}


class _NodeOutputs(torch.nn.Module):
    def __init__(self, stock: Any):
        super().__init__()
        self.stock = stock

    def forward(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.stock.node_outputs(*arguments)


def _layers(stock: Any) -> tuple[Layer, ...]:
    from pathtune.backbones._e3nn import layer_of

    linears, radial = [], []
    for name, module in stock.named_modules():
        owner, _, part = name.rpartition(".")
        layer = layer_of(name, module, species_input=owner == "layers.0" and part in ("linear_1", "skip"))
        if layer is not None and part in ("linear_2", "skip"):
            n_gates = stock.get_submodule(owner).n_gates
            paths = [dataclasses.replace(path, gates=n_gates if path.degree == 0 else 0) for path in layer.paths]
            layer = dataclasses.replace(layer, paths=tuple(paths))
        if layer is not None:
            linears.append(layer)
        elif owner.endswith(".radial_mlp"):
            radial.append(whole_layer(name, "radial", tuple(module.weight.shape), None, "weight"))
    return (*linears, *radial)


def load_nequix(
    source: str | pathlib.Path | torch.nn.Module,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
    radial_tables: bool = True,
) -> NequixBackbone:
    """A nequix backbone from `nequix:FILE`, a `.nqx` file, or a module that `merge` gave.

    Raises InputError for a missing file and for one that is no whole nequix model, or one that is not covered.
    """
    import_e3nn()
    from pathtune.backbones.nequix_plain import Nequix

    if isinstance(source, torch.nn.Module):
        stock = plain_copy(source)
        return NequixBackbone(stock.to(dtype) if dtype else stock, backend, radial_tables)
    where, path = str(source), str(source).removeprefix(PREFIX)
    if not pathlib.Path(path).is_file():
        raise InputError(f"{where}: no such file, expected a .nqx file of nequix")
    file = read_nqx(read_bytes(path), where)
    with quiet_torchscript():
        return NequixBackbone(Nequix(file, dtype or torch.float32), backend, radial_tables)


def plain_copy(module: Any) -> Any:
    """A new module with the same file, weights and energies."""
    with quiet_torchscript():
        new = type(module)(module.file, module.readout.weight.dtype)
    new.load_state_dict(module.state_dict())
    return new.to(module.readout.weight.device)


def nqx_of(module: Any) -> bytes:
    """A merged model as the file that nequix loads."""
    return write_nqx(module.to_file())
