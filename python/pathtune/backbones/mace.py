"""MACE models of mace-torch 0.3.16."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pathtune.backbones._choice import choose, refuse_terms
from pathtune.backbones._fingerprint import Blocks, fingerprint, layer_blocks, shapes
from pathtune.backbones._geometry import differentiate, prepare
from pathtune.backbones._initial import draw_anew
from pathtune.backbones._mace_cueq import accelerated
from pathtune.backbones._mace_files import converted, read_mace
from pathtune.backbones._mace_layers import copied, dead_parameters, layers_of
from pathtune.backbones._mace_options import embedded_inputs, refuse
from pathtune.backbones._packages import import_mace, quiet_torchscript
from pathtune.data import NO_VOLUME_A3, Batch, Request
from pathtune.errors import InputError
from pathtune.layers import Weights


class MaceBackbone:
    """A stock MACE or ScaleShiftMACE; `stock` is never changed, replaced weights are passed to each call."""

    def __init__(
        self, stock: Any, backend: str = "auto", radial_tables: bool = True, device: torch.device | None = None
    ):
        mace = import_mace()
        from pathtune.backbones.mace_forward import MaceForward, unsupported

        known = (mace.modules.MACE, mace.modules.ScaleShiftMACE)
        if type(stock) not in known:
            raise InputError(f"model is a {type(stock).__name__}, expected a MACE or ScaleShiftMACE of mace-torch")
        refuse(stock)
        self.stock: Any = stock.requires_grad_(False)
        dead = dead_parameters(stock)
        self.parameters = {name: p for name, p in stock.named_parameters() if name not in dead}
        self.name = type(stock).__name__
        self._radial_tables = radial_tables
        self._device, self._module = device or torch.device("cpu"), stock  # what computes where no forward of ours does
        if backend == "cueq":
            self.backend, self._forward = backend, None
            self._module = accelerated(stock, self._device)
        else:
            self.backend, self._forward = choose(
                backend, lambda: unsupported(stock), lambda: MaceForward(stock, radial_tables)
            )
        self.layers = layers_of(stock)
        self.readouts: tuple[str, ...] = ("readouts.",)
        self.sparse_layers = self._forward.sparse_layers if self._forward is not None else frozenset()
        self.by_species = self._forward.by_species if self._forward is not None else frozenset()
        self.atomic_numbers = tuple(int(z) for z in stock.atomic_numbers)
        self.heads: tuple[str, ...] = tuple(getattr(stock, "heads", None) or ("Default",))
        self.outputs: tuple[str, ...] = ("energy", "forces", "stress")
        self.inputs, self.input_ranges = embedded_inputs(stock)
        first = stock.products[-1].linear.irreps_out[0]
        self.n_invariants = first.mul if (first.ir.l, first.ir.p) == (0, 1) else 0
        self.r_max = float(stock.r_max)
        self.dtype = next(stock.parameters()).dtype

    def atomic_energies(self) -> torch.Tensor:
        """E0 [n_heads, n_species], eV, float64."""
        return torch.atleast_2d(self.stock.atomic_energies_fn.atomic_energies).detach().double()  # type: ignore

    def predict(self, weights: Weights, batch: Batch, request: Request) -> dict[str, torch.Tensor]:
        """What `request` asks, by name, with `weights` in place of the stock model's own."""
        if self._forward is not None:
            return differentiate(self._forward, weights, batch, request)
        refuse_terms(request, self.backend)
        # E0 is zeroed, so that a float32 model never adds it: the interaction energy keeps its digits.
        zero_e0 = torch.zeros_like(self.stock.atomic_energies_fn.atomic_energies)  # type: ignore
        own = {} if self._module is self.stock else dict(self.stock.named_parameters())
        replaced = {**own, **weights, "atomic_energies_fn.atomic_energies": zero_e0}
        needs_stress = "stress" in request.outputs
        options = {"training": request.training, "compute_force": True, "compute_stress": needs_stress}
        data = self._stock_input(batch)
        out = torch.func.functional_call(self._module, replaced, (data,), options)
        has_own_energy = hasattr(self.stock, "embedding_readout")  # of charge and spin, which is no interaction
        is_interaction = "interaction_energy" in out and not has_own_energy
        result = {
            "energy": out["interaction_energy"] if is_interaction else out["energy"],
            "forces": out["forces"],
        }
        if needs_stress:
            result["stress"] = torch.where(batch.volume < NO_VOLUME_A3, 0.0, out["stress"])
        return {name: value for name, value in result.items() if name in request.outputs}

    def prepare(self, batch: Batch) -> None:
        """Make, on the host, what `predict` will read of the batch, and keep it with the batch."""
        if self._forward is not None:
            prepare(self._forward, batch)

    def with_weights(self, weights: Mapping[str, torch.Tensor], e0: torch.Tensor, head: int) -> torch.nn.Module:
        """A stock MACE with these parameters and atomic energies."""
        stock: Any = copied(self.stock)
        stock.load_state_dict({name: w.detach() for name, w in weights.items()}, strict=False)
        energies = stock.atomic_energies_fn.atomic_energies.double()  # float64: E0 needs the digits
        if energies.dim() > 1:
            energies[head] = e0
        else:
            energies = e0.clone()
        stock.atomic_energies_fn.atomic_energies = energies
        for parameter in stock.parameters():
            parameter.requires_grad_(True)
        return stock

    def shapes(self) -> dict[str, list[int]]:
        """Shape of every parameter, the number of species as 0: what an adapter's base must share."""
        return shapes(self._blocks())

    def fingerprint(self, elements: Sequence[int]) -> dict[str, torch.Tensor]:
        """Mean and rms [n_blocks, 2] of every parameter; species-indexed ones per element, float64.

        Species linears are divided by sqrt(n_species), as e3nn's path weight does: so mace's reduction of
        the species table, which rescales them, changes nothing.
        """
        species = [self.atomic_numbers.index(z) for z in elements]
        rescaled = len(self.atomic_numbers) ** -0.5
        scale = lambda name: 1.0 if "products." in name else rescaled  # noqa: E731
        return fingerprint(self.parameters, self._blocks(), species, scale)

    def _blocks(self) -> dict[str, Blocks]:
        known = layer_blocks(self.layers)
        return {name: known.get(name, [(tuple(p.shape), None)]) for name, p in self.parameters.items()}

    def draw_anew(self, seed: int) -> None:
        """Other weights in place, as those of a model that was never trained; InputError where that is not known."""
        draw_anew(self.stock, self.parameters, seed, self.r_max)

    def copy(self) -> MaceBackbone:
        """An independent copy, parameters included."""
        with quiet_torchscript():
            return type(self)(copied(self.stock), self.backend, self._radial_tables, self._device)

    def _stock_input(self, batch: Batch) -> dict[str, torch.Tensor]:
        one_hot = torch.nn.functional.one_hot(batch.species, len(self.atomic_numbers)).to(self.dtype)
        ptr = torch.zeros(batch.n_graphs + 1, dtype=torch.int64)
        ptr[1:] = batch.n_atoms.cumsum(0)
        shifts = torch.einsum("ei,eij->ej", batch.unit_shifts, batch.cell[batch.node_graph[batch.sender]])
        # A molecule gets a unit cell: stock divides by the volume, and zero would give NaN gradients of a stress.
        cell = torch.where(batch.volume < NO_VOLUME_A3, torch.eye(3).to(batch.cell), batch.cell)
        return {
            "positions": batch.positions.detach().clone(),
            "node_attrs": one_hot,
            "edge_index": torch.stack([batch.sender, batch.receiver]),
            "unit_shifts": batch.unit_shifts,
            "shifts": shifts,
            "cell": cell.reshape(-1, 3),
            "batch": batch.node_graph,
            "ptr": ptr,
            "head": batch.head,
            **{name: batch.labels[name].value.to(self.dtype) for name in self.inputs},
        }


def load_mace(
    source: str | pathlib.Path | torch.nn.Module,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
    radial_tables: bool = True,
    device: torch.device | None = None,
) -> MaceBackbone:
    """A MACE backbone from a `.model` file, a folder of `pathtune export`, a module, "demo", or a name that mace's own
    downloader knows.

    A `.model` file is a pickle: loading it can run code, so it is loaded only because the user named it. Low-rank
    adapters of mace are merged, models in the layout of cuEquivariance or OpenEquivariance converted by mace. Raises
    InputError for a missing file, an unknown name, or a file that is not a MACE model. `device`: where backend "cueq"
    is to compute.
    """
    import_mace()
    if isinstance(source, torch.nn.Module):
        where = type(source).__name__
        stock = source if isinstance(source, torch.jit.ScriptModule) else copied(source)
    else:
        where, stock = str(source), read_mace(str(source))
    stock = converted(stock, where)
    return MaceBackbone(stock.to(dtype) if dtype else stock, backend, radial_tables, device)
