"""Files of nequip: checkpoints (.ckpt) and packages (.nequip.zip), read without running anything in them.

Both are zips. A checkpoint is one pickle of plain containers and tensors, which torch's own restricted unpickler reads.
A package holds the source of a whole nequip and pickled modules of it: of these only the tensors are kept (`_Inert`),
and the config, which lies beside them as text.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import io
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
import yaml

from pathtune.errors import InputError
from pathtune.files import shown

KEY = "model.sole_model."  # how the names of a model's tensors begin in a checkpoint
BUILDERS = ("NequIPGNNModel", "PresetNequIPGNNModel", "FullNequIPGNNModel")
POTENTIALS = ("ZBL",)
TRAINERS = ("NequIPLightningModule", "EMALightningModule")
SPEED_ONLY = ("enable_OpenEquivariance", "enable_CuEquivariance")  # modifiers that change no number
OURS = ", ".join(BUILDERS)


@dataclasses.dataclass(frozen=True)
class NequipFile:
    """What of a file makes the model."""

    config: dict[str, Any]  # the builder's arguments, and its name under "_target_"
    state: dict[str, torch.Tensor]  # by their names in the model
    info: dict[str, Any]  # of the training, as nequip keeps it


def read_nequip(path: pathlib.Path, where: str) -> NequipFile:
    """A file of one of nequip's own models. Raises InputError for any other, in one sentence."""
    with zipfile.ZipFile(path) as archive:
        members = {name.partition("/")[2]: name for name in archive.namelist()}
        try:
            if "model/package_metadata.txt" in members:
                return _of_package(archive, members, where)
            return _of_checkpoint(path, where)
        except (KeyError, TypeError, AttributeError, IndexError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise InputError(f"{where}: is no whole file of nequip ({type(error).__name__}: {error})") from error


def _of_checkpoint(path: pathlib.Path, where: str) -> NequipFile:
    content = torch.load(path, map_location="cpu", weights_only=True)
    parameters = content["hyper_parameters"]
    info = dict(parameters["info_dict"])
    config = checked_config(parameters["model"], where)
    trainer = str(info["training_module"]["_target_"])
    if trainer.rpartition(".")[2] not in TRAINERS:
        raise InputError(
            f"{where}: was trained by {trainer}, whose weights to use are not known here, expected "
            f"{' or '.join(TRAINERS)}: make a package of it (nequip-package build) and name that"
        )
    states = content["state_dict"]
    state = {name.removeprefix(KEY): w for name, w in states.items() if name.startswith(KEY)}
    if not state:
        raise InputError(f"{where}: holds several models, expected one (named sole_model)")
    averaged = [states[f"ema.ema_weight_{k}"] for k in range(sum(n.startswith("ema.ema_weight_") for n in states))]
    return NequipFile(config, {**state, **{AVERAGE.format(k): w for k, w in enumerate(averaged)}}, info)


AVERAGE = "averaged.{}"  # name in `state` of the average of the model's parameter of that number


def _of_package(archive: zipfile.ZipFile, members: Mapping[str, str], where: str) -> NequipFile:
    config = yaml.safe_load(archive.read(members["model/config.yaml"]))
    metadata = yaml.safe_load(archive.read(members["model/package_metadata.txt"]))
    checked = checked_config(config["training_module"]["model"], where)
    root = members["model/package_metadata.txt"].partition("/")[0]
    content = archive.read(members["model/eager_model.pkl"])
    module = _Unpickler(io.BytesIO(content), lambda key: archive.read(f"{root}/.data/{key}.storage")).load()
    state = dict(_tensors(_child(module, "sole_model", where)))
    return NequipFile(checked, state, {**config, "versions": metadata["versions"]})


def checked_config(found: Any, where: str) -> dict[str, Any]:
    """The builder's arguments. Raises InputError for a builder, or a part of the model, that is not nequip's own."""
    config = copy.deepcopy(dict(found))
    target = str(config.get("_target_"))
    if target == "nequip.model.modify":
        named = [str(m.get("modifier")) for m in config.get("modifiers", [])]
        if unknown := [name for name in named if name not in SPEED_ONLY]:
            raise InputError(f"{where}: is modified by {unknown[0]}, which is not covered, expected a model without it")
        return checked_config(config["model"], where)
    package, _, name = target.rpartition(".")
    if target.startswith("allegro"):
        raise InputError(
            f"{where}: is an Allegro ({target}), whose layers have no kernels and no layers to adapt here, expected a "
            f"NequIP ({OURS}); fine-tune it by nequip itself"
        )
    if package not in ("nequip.model", "nequip.model.nequip_models") or name not in BUILDERS:
        raise InputError(f"{where}: is built by {target}, expected one of nequip's {OURS}")
    potential = config.get("pair_potential")
    if potential is not None:
        package, _, name = str(potential.get("_target_")).rpartition(".")
        if package not in ("nequip.nn.pair_potential", "nequip.nn") or name not in POTENTIALS:
            raise InputError(f"{where}: pair_potential is {shown(potential)}, expected {', '.join(POTENTIALS)} or none")
    if config.get("categorical_graph_field_embed"):
        fields = ", ".join(str(field.get("field")) for field in config["categorical_graph_field_embed"])
        raise InputError(f"{where}: embeds {fields} of each structure (categorical_graph_field_embed), expected none")
    inner = {key: value for key, value in config.items() if key not in ("_target_", "pair_potential")}
    if targets := list(_targets([inner, {**(potential or {}), "_target_": None}])):
        raise InputError(f"{where}: asks for {targets[0]} to be run, expected numbers and names only")
    return config


def _targets(value: Any):
    """What nested configs ask hydra to call."""
    if isinstance(value, Mapping):
        if value.get("_target_") is not None:
            yield value["_target_"]
        value = value.values()
    if not isinstance(value, (str, bytes)) and hasattr(value, "__iter__"):
        for part in value:
            yield from _targets(part)


class _Inert:
    """Stands for any class or function in the pickle of a package: it is never run, its state is only kept."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any, **kwargs: Any) -> _Inert:
        return _Inert()

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """As the pickle of a list asks."""

    def extend(self, values: Any) -> None:
        """As the pickle of a list asks."""

    def add(self, value: Any) -> None:
        """As the pickle of a set asks."""


STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *more: Any) -> Any:
    return torch.as_strided(storage, size, stride, offset).clone() if isinstance(storage, torch.Tensor) else None


def _parameter(tensor: Any, *more: Any) -> Any:
    return tensor


class _Unpickler(pickle.Unpickler):
    """Tensors and plain containers; everything else becomes an _Inert."""

    def __init__(self, stream: io.BytesIO, read):
        super().__init__(stream)
        self._read = read

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("collections", "OrderedDict"): collections.OrderedDict,
        }
        return known.get((module, name), _Inert)

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isdigit():
            return _Inert()
        content = self._read(key)
        return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _child(module: Any, name: str, where: str) -> Any:
    modules = module.state["_modules"]
    if list(modules) != [name]:
        raise InputError(f"{where}: holds the models {', '.join(modules)}, expected one (named {name})")
    return modules[name]


def _tensors(module: Any, prefix: str = ""):
    """Parameters and buffers of a module that was not built, by name."""
    if not isinstance(module.state, Mapping):
        return
    for kind in ("_parameters", "_buffers"):
        for name, tensor in module.state.get(kind, {}).items():
            if isinstance(tensor, torch.Tensor):
                yield prefix + name, tensor
    for name, child in module.state.get("_modules", {}).items():
        if isinstance(child, _Inert):
            yield from _tensors(child, f"{prefix}{name}.")


def checkpoint_content(file: NequipFile, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """A checkpoint of nequip with one model, of plain containers and tensors: what its loader needs, and no more."""
    import lightning
    from nequip.utils import get_current_code_versions

    module = {"_target_": "nequip.train.NequIPLightningModule", "model": file.config}
    return {
        "state_dict": {"run_stage": torch.zeros(1, dtype=torch.int64), **{f"{KEY}{n}": w for n, w in state.items()}},
        "hyper_parameters": {
            "model": file.config,
            "num_datasets": {"train": 1, "val": 0, "test": 0, "predict": 0},
            "info_dict": {**file.info, "versions": get_current_code_versions(verbose=False), "training_module": module},
        },
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
        "loops": None,
    }
