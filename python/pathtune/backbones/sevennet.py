"""SevenNet models of sevenn 0.13: its checkpoints, and the pretrained ones that its own loader finds."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime
import io
import pathlib
import uuid
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pathtune.backbones._choice import choose, refuse_terms
from pathtune.backbones._fingerprint import Fingerprinted
from pathtune.backbones._geometry import differentiate, prepare
from pathtune.backbones._initial import draw_anew
from pathtune.backbones._packages import import_sevenn, quiet_torchscript
from pathtune.data import NO_VOLUME_A3, Batch, Request
from pathtune.errors import InputError
from pathtune.layers import Layer, Path, Weights, whole_layer

PREFIX = "sevennet:"
NEVER_TRAINED = (".denominator", "rescale_atomic_energy.shift", "rescale_atomic_energy.scale")  # in the wheel's models
CONFIG = "pathtune_config"  # attribute of a stock module that remembers its checkpoint's config


class SevenNetBackbone(Fingerprinted):
    """A stock SevenNet for one modality; `stock` is never changed, replaced weights are passed to each call."""

    def __init__(self, stock: Any, modality: str | None = None, backend: str = "auto", radial_tables: bool = True):
        from pathtune.backbones.sevennet_forward import SevenNetForward, unsupported

        self.stock: Any = stock.requires_grad_(False)
        self.parameters = {name: p for name, p in stock.named_parameters() if not name.endswith(NEVER_TRAINED)}
        self.modality, modalities = modality, stock.modal_map or {}
        self._modal_index = modalities[modality] if modality else 0
        self.heads: tuple[str, ...] = (modality or "Default",)
        self.name = f"SevenNet of modality {modality}" if modality else "SevenNet"
        self.readouts: tuple[str, ...] = ("reduce_input_to_hidden.", "reduce_hidden_to_energy.", "readout_FCN.")
        self.atomic_numbers = tuple(sorted(stock.type_map, key=stock.type_map.get))
        self.outputs: tuple[str, ...] = ("energy", "forces", "stress")
        self.inputs: tuple[str, ...] = ()
        self.n_invariants = _n_invariants(stock)
        self.r_max = float(stock.cutoff)
        self.dtype = next(stock.parameters()).dtype
        self.layers = _layers(stock, modality)
        self._radial_tables = radial_tables
        self.backend, self._forward = choose(
            backend, lambda: unsupported(stock), lambda: SevenNetForward(stock, self._modal_index, radial_tables)
        )
        self.sparse_layers = self._forward.sparse_layers if self._forward is not None else frozenset()

    def atomic_energies(self) -> torch.Tensor:
        """E0 [1, n_species], eV, float64: sevenn's shifts."""
        rescale = self.stock.rescale_atomic_energy
        shift = rescale.shift.detach().double()
        if getattr(rescale, "use_modal_wise_shift", False):
            shift = shift[self._modal_index]
        return shift.expand(len(self.atomic_numbers)).clone().unsqueeze(0)

    def predict(self, weights: Weights, batch: Batch, request: Request) -> dict[str, torch.Tensor]:
        """What `request` asks, by name, with `weights` in place of the stock model's own."""
        if self._forward is not None:
            return differentiate(self._forward, weights, batch, request)
        refuse_terms(request)
        # The shifts are zeroed, so that a float32 model never adds them: the interaction energy keeps its digits.
        zeroed = {"rescale_atomic_energy.shift": torch.zeros_like(self.stock.rescale_atomic_energy.shift)}
        replaced = {f"stock.{name}": w for name, w in {**weights, **zeroed}.items()}
        data = self._stock_input(batch)
        self.stock.force_output.training = request.training  # whether it keeps the graph
        out = torch.func.functional_call(_StockForward(self.stock), replaced, (data,))
        energy = out["inferred_total_energy"]
        result = {
            "energy": energy if request.training else energy.detach(),
            "forces": out.get("inferred_force", torch.zeros_like(batch.positions)),
        }
        if "stress" in request.outputs:
            voigt = -out.get("inferred_stress", energy.new_zeros(batch.n_graphs, 6))  # xx yy zz xy yz zx
            stress = voigt[:, [0, 3, 5, 3, 1, 4, 5, 4, 2]].reshape(-1, 3, 3)
            result["stress"] = torch.where(batch.volume < NO_VOLUME_A3, 0.0, stress)
        return {name: value for name, value in result.items() if name in request.outputs}

    def prepare(self, batch: Batch) -> None:
        """Make, on the host, what `predict` will read of the batch, and keep it with the batch."""
        if self._forward is not None:
            prepare(self._forward, batch)

    def with_weights(self, weights: Mapping[str, torch.Tensor], e0: torch.Tensor, head: int) -> torch.nn.Module:
        """A stock SevenNet with these parameters and E0 as its shifts."""
        with quiet_torchscript():
            stock: Any = copy.deepcopy(self.stock)
        stock.load_state_dict({name: w.detach() for name, w in weights.items()}, strict=False)
        rescale = stock.rescale_atomic_energy
        if getattr(rescale, "use_modal_wise_shift", False):
            rescale.shift.data[self._modal_index] = e0.to(rescale.shift)
        elif rescale.shift.numel() == e0.numel():
            self._say_what_moves(e0)
            rescale.shift.data.copy_(e0)
        else:  # one shift for all species
            self._say_what_moves(e0)
            from sevenn.nn.scale import SpeciesWiseRescale

            scale = rescale.scale.expand(e0.numel())
            stock.replace_module("rescale_atomic_energy", SpeciesWiseRescale(e0.tolist(), scale.tolist()))
            stock.to(self.dtype)
        for name, parameter in stock.named_parameters():
            parameter.requires_grad_(not name.endswith(NEVER_TRAINED))
        return stock

    def _say_what_moves(self, e0: torch.Tensor) -> None:
        """Warn where modalities share the shifts that are about to change."""
        others = [name for name in self.stock.modal_map or {} if name != self.modality]
        if others and not torch.equal(e0.cpu(), self.atomic_energies()[0].cpu()):
            warnings.warn(
                f"pathtune: the modalities of this SevenNet share one shift of the energies for each element: the E0 "
                f"of {self.modality} move the energies of {', '.join(others)} too",
                stacklevel=2,
            )

    def draw_anew(self, seed: int) -> None:
        """Other weights in place, as those of a model that was never trained; InputError where that is not known."""
        draw_anew(self.stock, self.parameters, seed, self.r_max)

    def copy(self) -> SevenNetBackbone:
        """An independent copy, parameters included."""
        with quiet_torchscript():
            return type(self)(copy.deepcopy(self.stock), self.modality, self.backend, self._radial_tables)

    def _stock_input(self, batch: Batch) -> dict[str, torch.Tensor]:
        shift = torch.einsum("ei,eij->ej", batch.unit_shifts, batch.cell[batch.node_graph[batch.sender]])
        vectors = batch.positions[batch.receiver] - batch.positions[batch.sender] + shift
        return {
            "x": batch.species,
            "edge_vec": -vectors.detach(),
            "edge_index": torch.stack([batch.receiver, batch.sender]),
            "cell_volume": batch.volume.flatten().clone(),
            "num_atoms": torch.bincount(batch.node_graph, minlength=batch.n_graphs),
            "batch": batch.node_graph,
            "modal_type": torch.full((batch.n_graphs,), self._modal_index, dtype=torch.int64),
        }


class _StockForward(torch.nn.Module):
    """The stock modules one after the other, without the lookups of AtomGraphSequential; any precision."""

    def __init__(self, stock: Any):
        super().__init__()
        self.stock = stock

    def forward(self, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        dtype = data["edge_vec"].dtype
        data["edge_vec"].requires_grad_()
        for module in self.stock:
            data = module(data)
            if type(module).__name__ == "OnehotEmbedding":  # which is float32 always
                data = {k: v.to(dtype) if v.is_floating_point() else v for k, v in data.items()}
        return data


def _n_invariants(stock: Any) -> int:
    """Scalars among the final features, which the readout reads first."""
    readout = stock._modules.get("reduce_input_to_hidden")
    first = readout.linear.irreps_in[0] if readout is not None else None
    return first.mul if first is not None and (first.ir.l, first.ir.p) == (0, 1) else 0


def _layers(stock: Any, modality: str | None) -> tuple[Layer, ...]:
    from pathtune.backbones._e3nn import layer_of

    layers = []
    for name, module in stock.named_modules():
        # one-hot species: the embedding's operand, and the second of self connections of the NequIP kind
        species_input = name == "onehot_to_feature_x.linear" or name.endswith(".fc_tensor_product")
        layer = layer_of(name, module, species_input)
        if layer is None:
            continue
        layer = dataclasses.replace(layer, paths=_with_gates(stock, name, module, layer.paths))
        if getattr(stock.get_submodule(name.split(".")[0]), "num_modalities", 0) > 1:
            n_blocks = len(list(module.irreps_in))
            modal = [k for k, ins in enumerate(module.instructions) if ins.i_in == n_blocks - 1]
            names = sorted(stock.modal_map, key=stock.modal_map.get)
            paths = [
                part
                for k, path in enumerate(layer.paths)
                for part in (_by_modality(path, names, modality) if k in modal else [path])
            ]
            layer = dataclasses.replace(layer, paths=tuple(paths))
        layers.append(layer)
    return (*layers, *_radial_layers(stock))


def _radial_layers(stock: Any) -> list[Layer]:
    """Matrices of the radial networks: a scope beyond the paper."""
    layers = []
    for name, parameter in stock.named_parameters():
        if ".weight_nn." in name and parameter.dim() == 2:
            module, _, weight = name.rpartition(".")
            layers.append(whole_layer(module, "radial", tuple(parameter.shape), None, weight))
    return layers


def _with_gates(stock: Any, name: str, module: Any, paths: Sequence[Path]) -> tuple[Path, ...]:
    """The paths of a linear, those with outputs that only gate other features with their number.

    The gate of an interaction reads what its self connection and its second self interaction give: scalars, gates, and
    the features that these gate.
    """
    part = name.split(".")[0]
    gate = stock._modules.get(f"{part.split('_')[0]}_equivariant_gate")
    if gate is None or not part.endswith(("_self_interaction_2", "_self_connection_intro")):
        return tuple(paths)
    n_scalars = sum(mul_ir.dim for mul_ir in gate.gate.irreps_scalars)
    last = n_scalars + gate.gate.irreps_gates.dim
    ranges = module.irreps_out.slices()
    instructions = [ins for ins in module.instructions if getattr(ins, "i_in", 0) != -1]
    return tuple(
        dataclasses.replace(path, gates=_overlap(ranges[ins.i_out], n_scalars, last) if path.degree == 0 else 0)
        for path, ins in zip(paths, instructions, strict=True)
    )


def _overlap(block: slice, start: int, stop: int) -> int:
    return max(0, min(block.stop, stop) - max(block.start, start))


def _by_modality(path: Path, names: Sequence[str], modality: str | None) -> list[Path]:
    """A path from the one-hot modality as one path for each: only the weights of ours are reachable."""
    mul_out = path.shape[-1]
    return [
        Path(f"{path.text} ({name})", path.offset + k * mul_out, (1, mul_out), None, name == modality, path.gates)
        for k, name in enumerate(names)
    ]


def load_sevennet(
    source: str | pathlib.Path | torch.nn.Module,
    dtype: torch.dtype | None = None,
    modality: str | None = None,
    backend: str = "auto",
    radial_tables: bool = True,
) -> SevenNetBackbone:
    """A SevenNet backbone from `sevennet:NAME`, `sevennet:NAME:MODALITY`, a checkpoint file, or a module.

    A checkpoint is a pickle: loading it can run code, so it is loaded only because the user named it. Raises
    InputError for a missing file, an unknown name or modality, or a file that is not a SevenNet checkpoint.
    """
    import_sevenn()
    if isinstance(source, torch.nn.Module):
        where = type(source).__name__
        with quiet_torchscript():
            stock: Any = copy.deepcopy(source)
    else:
        where, name = str(source), str(source).removeprefix(PREFIX)
        if not pathlib.Path(name).is_file() and ":" in name:
            name, _, modality = name.partition(":")
        stock = _load_file(_find(name, where), where)
    modalities = list(stock.modal_map or {})
    if modalities and modality not in modalities:
        found = "none is named" if modality is None else f"{modality!r} is none of them"
        raise InputError(f"{where}: has the modalities {', '.join(modalities)}, but {found}")
    if modality and not modalities:
        raise InputError(f"{where}: has no modalities, but {modality!r} is asked for")
    return SevenNetBackbone(stock.to(dtype) if dtype else stock, modality, backend, radial_tables)


def _find(name: str, where: str) -> pathlib.Path:
    """The file of a name, which sevenn's own loader finds in its wheel or its cache, or downloads."""
    if pathlib.Path(name).is_file():
        return pathlib.Path(name)
    from sevenn.util import get_available_pretrained_models, pretrained_name_to_path

    known = get_available_pretrained_models()
    if name.lower() not in known:
        raise InputError(f"{where}: no such file, and not a model that sevenn knows ({', '.join(known)})")
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return pathlib.Path(pretrained_name_to_path(name))
    except Exception as error:  # of the network, or of the folder that it writes to
        raise InputError(f"{where}: sevenn's download failed ({error}); name a checkpoint file instead") from error


def _load_file(path: pathlib.Path, where: str) -> Any:
    import sevenn
    from packaging.version import Version
    from sevenn.checkpoint import SevenNetCheckpoint

    try:
        with quiet_torchscript(), contextlib.redirect_stdout(io.StringIO()):
            checkpoint = SevenNetCheckpoint(path)
            config = checkpoint.config
            is_newer = Version(config["version"]) > Version(sevenn.__version__)
            stock: Any = None if is_newer else checkpoint.build_model()
    except Exception as error:
        raise InputError(f"{where}: not a SevenNet checkpoint ({type(error).__name__}: {error})") from error
    if is_newer:
        raise InputError(f"{where}: was written by sevenn {config['version']}, but {sevenn.__version__} is installed")
    setattr(stock, CONFIG, config)
    return stock


def checkpoint_of(stock: Any) -> dict[str, Any]:
    """A merged model as the checkpoint that sevenn loads. Raises InputError when it was not loaded from one."""
    import sevenn
    from sevenn.nn.scale import get_resolved_shift_scale

    if not hasattr(stock, CONFIG):
        raise InputError("the model was made of a module, not of a checkpoint: sevenn's config for it is not known")
    config = copy.deepcopy(getattr(stock, CONFIG))
    rescale = stock.rescale_atomic_energy
    config["shift"], config["scale"] = get_resolved_shift_scale(rescale, stock.type_map, stock.modal_map)
    config["version"] = sevenn.__version__  # of the order of weights, which older checkpoints have otherwise
    return {
        "config": config,
        # copying a module of e3nn turns constants of its compiled code into buffers
        "model_state_dict": {k: v for k, v in stock.state_dict().items() if "._tensor_constant" not in k},
        "optimizer_state_dict": {},
        "scheduler_state_dict": {},
        "epoch": 0,
        "time": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        "hash": uuid.uuid4().hex,
    }
