"""Whether several processes are about to do the same, and whether there is work for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from pathtune._version import __version__
from pathtune.data import Source
from pathtune.errors import InputError
from pathtune.model import Potential
from pathtune.options import to_mapping
from pathtune.processes import OneProcess
from pathtune.training.options import FitConfig
from pathtune.training.plans import Plans


def check_same(world: OneProcess, model: Potential, sets: Mapping[str, Source], config: FitConfig) -> None:
    """Raise InputError as check_alike, and where there are more processes than any step has structures."""
    if world.size == 1:
        return
    check_alike(world, model, sets, config)
    train = sets.get("train", sets.get("training"))
    plan = Plans(config, train).of(0) if train is not None else None
    if plan is not None:
        largest = max(len(plan.step(k)) for k in range(len(plan)))
        if largest < world.size:
            flag = "batch_size" if config.batch_atoms is None else "batch_atoms"
            raise InputError(
                f"{world.size} processes share steps of at most {largest} structures, expected no more processes than "
                f"structures in a step, or a larger {flag}"
            )


def check_alike(world: OneProcess, model: Potential, sets: Mapping[str, Source], config: FitConfig) -> None:
    """Raise InputError in all processes where one has other versions, options, data or weights than the first."""
    mine = {
        "pathtune": __version__,
        "torch": torch.__version__,
        "options": hashlib.sha256(repr(sorted(to_mapping(config).items())).encode()).hexdigest()[:12],
        "model": model_hash(model),
        **{f"{name} data": source.fingerprint[:12] for name, source in sets.items()},
    }
    found = world.gather(lambda: mine)
    for rank, theirs in enumerate(found):
        for key, value in theirs.items():
            if value != found[0].get(key):
                raise InputError(
                    f"rank {rank} has {key} {value}, rank 0 has {found[0].get(key)}, expected the same on all ranks"
                )


def model_hash(model: Potential) -> str:
    """A short hash of the weights and E0 of a base."""
    digest = hashlib.sha256(model.e0.cpu().numpy().tobytes())
    for name, value in model.base.parameters.items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
