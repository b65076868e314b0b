"""Models of nequip 0.19 (NequIP): its checkpoints and packages, read without running what lies in them.

The model is built anew by the installed nequip from the file's config, and gets the file's tensors.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import pathlib
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from pathtune.backbones._choice import choose
from pathtune.backbones._file_kind import begins_as_zip
from pathtune.backbones._fingerprint import Fingerprinted
from pathtune.backbones._geometry import FEATURES, Edges, differentiate, prepare
from pathtune.backbones._nequip_file import AVERAGE, NequipFile, checked_config, checkpoint_content, read_nequip
from pathtune.backbones._packages import import_nequip, quiet_torchscript
from pathtune.data import Batch, Request
from pathtune.errors import InputError
from pathtune.layers import Layer, Path, Weights, whole_layer

PREFIX = "nequip:"
FILE = "pathtune_file"  # attribute of a stock module: the file that it was built from
RESCALE = "per_type_energy_scale_shift"
READOUT = "model.func.per_atom_energy_readout."
EMBEDDING = "model.func.type_embed.embed_module"


class NequipBackbone(Fingerprinted):
    """A NequIP of the package nequip; `stock` is never changed, replaced weights are passed to each call."""

    name = "NequIP"
    heads: tuple[str, ...] = ("Default",)
    readouts: tuple[str, ...] = (READOUT,)
    outputs: tuple[str, ...] = ("energy", "forces", "stress")
    inputs: tuple[str, ...] = ()

    def __init__(self, stock: Any, atomic_numbers: tuple[int, ...], backend: str = "auto", radial_tables: bool = True):
        from pathtune.backbones.nequip_forward import NequipForward, unsupported

        self.stock: Any = stock.requires_grad_(False)
        skipped = (f"{RESCALE}.shifts", f"{RESCALE}.scales")
        self.parameters = {n: p for n, p in stock.named_parameters() if p.numel() and not n.endswith(skipped)}
        self.atomic_numbers = atomic_numbers
        self.r_max = float(stock.metadata["r_max"])
        self.dtype: torch.dtype = stock.model_dtype
        self.layers = _layers(stock)
        last = [m for n, m in stock.model.func.named_children() if n.endswith("_convnet")][-1]
        self.n_invariants = int(last.equivariant_nonlin.irreps_out.count("0e"))
        self._radial_tables = radial_tables
        self.backend, own = choose(
            backend, lambda: unsupported(stock), lambda: NequipForward(stock, len(atomic_numbers), radial_tables)
        )
        self.sparse_layers = own.sparse_layers if own is not None else frozenset()
        self._forward = own or _StockForward(stock)

    def atomic_energies(self) -> torch.Tensor:
        """E0 [1, n_species], eV, float64: nequip's shifts."""
        rescale = self.stock.model.func.get_submodule(RESCALE)
        shifts = rescale.shifts.detach().double().flatten() if rescale.has_shifts else torch.zeros(1).double()
        return shifts.expand(len(self.atomic_numbers)).clone().unsqueeze(0)

    def predict(self, weights: Weights, batch: Batch, request: Request) -> dict[str, torch.Tensor]:
        """What `request` asks, by name, with `weights` in place of the model's own."""
        return differentiate(self._forward, weights, batch, request)

    def prepare(self, batch: Batch) -> None:
        """Make, on the host, what `predict` will read of the batch, and keep it with the batch."""
        prepare(self._forward, batch)

    def with_weights(self, weights: Mapping[str, torch.Tensor], e0: torch.Tensor, head: int) -> torch.nn.Module:
        """A model of nequip with these parameters and E0 as its shifts."""
        stock = self._copied()
        stock.load_state_dict({name: w.detach() for name, w in weights.items()}, strict=False)
        rescale = stock.model.func.get_submodule(RESCALE)
        if not torch.equal(e0.cpu(), self.atomic_energies()[0].cpu()):
            shifts = e0.detach().double().reshape(-1, 1).to(rescale.shifts.device)
            if rescale.shifts_trainable:
                rescale.shifts.data.copy_(shifts)
            else:
                rescale.shifts = shifts
            rescale.has_shifts, rescale.shifts_shortcut = True, shifts.numel() == 1
        return stock.requires_grad_(True)

    @torch.no_grad()
    def draw_anew(self, seed: int) -> None:
        """Other weights in place: nequip's own, of another seed."""
        file = _file_of(self.stock)
        fresh = build({**file.config, "seed": seed}, self.dtype, "scratch")
        for name, parameter in fresh.named_parameters():
            if name in self.parameters:
                self.parameters[name].copy_(parameter)

    def copy(self) -> NequipBackbone:
        """An independent copy, parameters included."""
        return type(self)(self._copied(), self.atomic_numbers, self.backend, self._radial_tables)

    def _copied(self) -> Any:
        with quiet_torchscript():
            return copy.deepcopy(self.stock)


class _StockForward:
    """nequip's own modules as a Forward: energies of the edges' vectors, without the shifts."""

    by_pair = False

    def __init__(self, stock: Any):
        self.module = _NodeOutputs(stock)
        self.parameters = dict(stock.named_parameters())
        self.shifts = f"model.func.{RESCALE}.shifts"
        self.zeros = torch.zeros_like(stock.model.func.get_submodule(RESCALE).shifts)

    def node_outputs(self, parameters: Mapping[str, Any], batch: Batch, edges: Edges) -> dict[str, torch.Tensor]:
        """Energies [n_nodes] of the edges' vectors, and final features."""
        index = edges.index
        data = {
            "pos": batch.positions,
            "atom_types": batch.species,
            "edge_index": torch.stack([index.row_receiver, index.row_sender]),
            "edge_vectors": -edges.vectors,
        }
        replaced = {f"stock.{name}": weight for name, weight in parameters.items()}
        replaced[f"stock.{self.shifts}"] = self.zeros.to(batch.positions.device)
        energy, features = torch.func.functional_call(self.module, replaced, (data,))
        return {"energy": energy[:, 0].to(edges.vectors), FEATURES: features}


class _NodeOutputs(torch.nn.Module):
    def __init__(self, stock: Any):
        super().__init__()
        self.stock = stock

    def forward(self, data: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        data = self.stock.model.func(data)
        return data["atomic_energy"], data["node_features"]


def _layers(stock: Any) -> tuple[Layer, ...]:
    from pathtune.backbones._e3nn import layer_of

    embedding = stock.get_submodule(EMBEDDING).weight
    path = Path("0e -> 0e", 0, tuple(embedding.shape), 0)
    linears, radial = [Layer(EMBEDDING, "species linear", (path,), path.numel)], []
    for name, module in stock.named_modules():
        owner, _, part = name.rpartition(".")
        layer = layer_of(name, module) if part in ("linear_1", "linear_2", "sc") else None
        if layer is not None:
            if part != "linear_1":
                gate = stock.get_submodule(owner.rpartition(".")[0]).equivariant_nonlin
                layer = dataclasses.replace(layer, paths=_with_gates(gate, module, layer.paths))
            linears.append(layer)
        elif ".edge_mlp." in name and getattr(module, "weight", None) is not None:
            radial.append(whole_layer(name, "radial", tuple(module.weight.shape), None, "weight"))
        elif name.startswith(READOUT) and getattr(module, "weight", None) is not None:
            path = Path("0e -> 0e", 0, tuple(module.weight.shape))
            linears.append(Layer(name, "path linear", (path,), path.numel))
    return (*linears, *radial)


def _with_gates(gate: Any, module: Any, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """The paths of a linear before a gate, those to scalars that only gate other features with their number."""
    if type(gate).__name__ != "Gate":
        return paths
    first, result = sum(m.dim for m in gate.irreps_scalars), []
    last = first + sum(m.dim for m in gate.irreps_gates)
    ranges = module.irreps_out.slices()
    instructions = [ins for ins in module.instructions if getattr(ins, "i_in", 0) != -1]
    for path, ins in zip(paths, instructions, strict=True):
        block = ranges[ins.i_out]
        n_gates = max(0, min(block.stop, last) - max(block.start, first))
        result.append(dataclasses.replace(path, gates=n_gates if path.degree == 0 else 0))
    return tuple(result)


def load_nequip(
    source: str | pathlib.Path | torch.nn.Module,
    dtype: torch.dtype | None = None,
    backend: str = "auto",
    radial_tables: bool = True,
) -> NequipBackbone:
    """A NequIP backbone from a checkpoint or a package of nequip, also as `nequip:FILE`, or from a module.

    Raises InputError for a missing file, a model that is not nequip's own or is not covered, and for types that are no
    chemical symbols.
    """
    if not isinstance(source, torch.nn.Module):
        where, path = str(source), pathlib.Path(str(source).removeprefix(PREFIX))
        if where.startswith("nequip.net:"):
            raise InputError(f"{where}: names a model to download, expected its file: download it by nequip itself")
        if not path.is_file():
            raise InputError(f"{where}: no such file, expected a .ckpt or .nequip.zip of nequip")
        if not begins_as_zip(path):
            raise InputError(f"{where}: is no zip, expected a .ckpt or .nequip.zip of nequip")
        file = read_nequip(path, where)
        stock = build(file.config, dtype, where)
        _give(stock, file, where)
    else:
        where = type(source).__name__
        import_nequip()
        with quiet_torchscript():
            stock = copy.deepcopy(source)
        if dtype not in (None, stock.model_dtype):
            stock = _in(dtype, stock)
    return NequipBackbone(stock, _atomic_numbers(stock, where), backend, radial_tables)


def _in(dtype: torch.dtype | None, stock: Any) -> Any:
    """The model built anew in another precision."""
    file = _file_of(stock)
    new = build(file.config, dtype, type(stock).__name__)
    _give(new, dataclasses.replace(file, state=dict(stock.state_dict())), type(stock).__name__)
    return new


def _give(stock: Any, file: NequipFile, where: str) -> None:
    """The tensors of a file to the model that was built from its config; averaged ones where it has them."""
    own, rescale = dict(stock.named_parameters()), stock.model.func.get_submodule(RESCALE)
    state: dict[str, Any] = dict(file.state)
    for k, name in enumerate(own):
        state[name] = state.pop(AVERAGE.format(k), state.get(name))
    for name in ("shifts", "scales"):  # may be one number in the config, and one for each type in the file
        found = state.get(f"model.func.{RESCALE}.{name}")
        if found is not None and not isinstance(getattr(rescale, name), torch.nn.Parameter):
            setattr(rescale, name, found.clone())
            setattr(rescale, f"has_{name}", found.numel() > 0)
            setattr(rescale, f"{name}_shortcut", found.numel() == 1)
    expected = stock.state_dict()
    given = {name: state[name] for name in expected if name in state and "._compiled_" not in name}
    wrong = [n for n in own if given.get(n) is None or given[n].shape != expected[n].shape]
    if wrong:
        found = list(given[wrong[0]].shape) if given.get(wrong[0]) is not None else "missing"
        raise InputError(f"{where}: {wrong[0]} is {found}, expected {list(expected[wrong[0]].shape)} by its config")
    with torch.no_grad():
        for name, w in given.items():
            expected[name].copy_(w)
    setattr(stock, FILE, dataclasses.replace(file, state={}))


def _file_of(stock: Any) -> NequipFile:
    if not hasattr(stock, FILE):
        raise InputError("the model was made of a module, not of a file: nequip's config for it is not known")
    return getattr(stock, FILE)


def build(config: Mapping[str, Any], dtype: torch.dtype | None, where: str) -> Any:
    """nequip's own model of a checked config, with random weights."""
    arguments = {key: value for key, value in checked_config(config, where).items() if key != "compile_mode"}
    builder = getattr(import_nequip().model, arguments.pop("_target_").rpartition(".")[2])
    if dtype is not None:
        arguments["model_dtype"] = str(dtype).removeprefix("torch.")
    try:
        with nequip_globals(), quiet_torchscript():
            return builder(**arguments)
    except Exception as error:
        raise InputError(f"{where}: nequip cannot build its model ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def nequip_globals() -> Iterator[None]:
    """The state of the process that nequip's builders ask for, and afterwards the state from before."""
    import e3nn
    from nequip.utils.global_state import set_global_state

    dtype, options, environment = torch.get_default_dtype(), e3nn.get_optimization_defaults(), dict(os.environ)
    strategy, states = torch.multiprocessing.get_sharing_strategy(), (random.getstate(), np.random.get_state())
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            set_global_state()
            torch.set_default_dtype(torch.float64)  # which it does in its first call only
            e3nn.set_optimization_defaults(specialized_code=True, optimize_einsums=True, jit_mode="eager")
            yield
    finally:
        torch.set_default_dtype(dtype)
        e3nn.set_optimization_defaults(**options)
        torch.multiprocessing.set_sharing_strategy(strategy)
        random.setstate(states[0])
        np.random.set_state(states[1])
        for name in set(os.environ) - set(environment):
            del os.environ[name]


def _atomic_numbers(stock: Any, where: str) -> tuple[int, ...]:
    from ase.data import atomic_numbers

    names = list(stock.type_names)
    if unknown := [name for name in names if name not in atomic_numbers or name == "X"]:
        raise InputError(f"{where}: has the atom type {unknown[0]!r}, expected chemical symbols")
    return tuple(atomic_numbers[name] for name in names)


def checkpoint_of(stock: Any) -> dict[str, Any]:
    """A merged model as the checkpoint that nequip loads. Raises InputError when it was not loaded from a file."""
    file = _file_of(stock)
    rescale, config = stock.model.func.get_submodule(RESCALE), dict(file.config)
    for name in ("scales", "shifts"):
        values = getattr(rescale, name).detach().flatten().tolist()
        if len(values) > 1:
            config[f"per_type_energy_{name}"] = dict(zip(stock.type_names, values))
        elif values:
            config[f"per_type_energy_{name}"] = values[0]
    config["model_dtype"] = str(stock.model_dtype).removeprefix("torch.")
    state = {name: w.detach().cpu().clone() for name, w in stock.state_dict().items()}
    return checkpoint_content(dataclasses.replace(file, config=config), state)
