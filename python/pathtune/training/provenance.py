"""What a methods section needs to know of a run, beside its options."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import torch

from pathtune._version import __version__
from pathtune.data import Source
from pathtune.model import Potential
from pathtune.processes import world
from pathtune.training.options import FitConfig, learning_rate
from pathtune.training.plans import Plans

CPU_FILE = "/proc/cpuinfo"


def provenance(model: Potential, sets: Mapping[str, Source], config: FitConfig) -> dict[str, Any]:
    """Rate and beta1 in force, versions, numbers and fingerprints of the structures, seed and machine."""
    plans = Plans(config, *(sets[name] for name in ("train", "replay") if name in sets))
    n_steps = plans.before(config.epochs)
    beta1 = model.adaptation.parts()[0].beta1(n_steps) if config.beta1 is None else config.beta1
    return {
        "learning_rate": learning_rate(model, config, n_steps),
        "beta1": beta1,
        **plans.batch(),
        "n_processes": world().size,
        "n_steps": n_steps,
        "seed": config.seed,
        "base": model.base.name,
        "dtype": str(model.base.dtype).removeprefix("torch."),
        "n_structures": {name: len(source) for name, source in sets.items()},
        "fingerprints": {name: source.fingerprint for name, source in sets.items()},
        "versions": versions(model),
        "machine": machine(model.device),
    }


def versions(model: Potential) -> dict[str, str]:
    """Of pathtune, torch and the package of the backbone."""
    package = type(model.base.stock).__module__.split(".")[0]
    names = _distributions().get(package, [])
    found = {name: importlib.metadata.version(name) for name in names[:1]}
    return {"pathtune": __version__, "torch": torch.__version__, **found, "python": platform.python_version()}


@functools.cache  # every installed file is looked at
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, threads, and the GPU where one computes."""
    result = {
        "system": platform.platform(),
        "processor": processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        result["gpu"] = torch.cuda.get_device_name(device)
    return result


def processor() -> str | None:
    """Its name; None where the system does not say."""
    names = [line for line in _lines(CPU_FILE) if line.startswith("model name")]
    return names[0].split(":", 1)[1].strip() if names else None


def file_hash(file: str | pathlib.Path) -> str | None:
    """SHA-256 of a file; None for a name that is no file."""
    path = pathlib.Path(file)
    if not path.is_file():
        return None
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _lines(file: str) -> list[str]:
    path = pathlib.Path(file)
    return path.read_text().splitlines() if path.is_file() else []
