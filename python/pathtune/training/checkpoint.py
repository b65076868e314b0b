"""What a checkpoint holds, which run it belongs to, and whether this run can go on from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from pathtune.adaptations.state import check_like
from pathtune.backbone import compare_fingerprints
from pathtune.data import Source
from pathtune.errors import InputError
from pathtune.files import shown
from pathtune.forms import check_form
from pathtune.model import Potential
from pathtune.options import to_mapping
from pathtune.training.options import FitConfig
from pathtune.training.plans import Plans

BOUND = {"options": "options", "train": "training data", "valid": "validation data"}
LINE = {  # of log.jsonl
    "epoch": int,
    "train_loss": float,
    "valid_loss": float,
    "valid_parts": {...: float},
    "valid_errors": {...: float},
    "lr": float,
    "is_eligible": bool,
    "active": int,
    "active_share": float,
    "seconds": float,
}
FORM = {
    "best": [{...: object}],
    "best_loss": (float, math.inf),
    "best_epoch": int,
    "start_loss": float,
    "epoch": int,
    "step": int,
    "loss_sum": float,
    "seconds": float,
    "last": [{...: object}],
    "optimizer": {"param_groups": [{"params": [int]}], "state": {...: {...: torch.Tensor}}},
    "lines": [LINE],
    "planned_epochs": int,
    "plan": str,
    "world_size": int,
    "e0": torch.Tensor,
    "bound": {**dict.fromkeys(BOUND, str), "base": {...: torch.Tensor}},
}


def bound_to(model: Potential, train: Source, valid: Source, config: FitConfig, options: str) -> dict[str, Any]:
    """What a checkpoint must share with the run that goes on from it.

    `options`: a hash of what a run's folder knows beside `config`. Epochs may be raised.
    """
    counted = {name: value for name, value in to_mapping(config).items() if name != "epochs"}
    return {
        "options": hashlib.sha256(repr((options, model.adaptation.kind, sorted(counted.items()))).encode()).hexdigest(),
        "train": train.fingerprint,
        "valid": valid.fingerprint,
        "base": model.base.fingerprint(model.elements or model.atomic_numbers),
    }


def check_belongs(state: Mapping[str, Any], bound: Mapping[str, Any], epochs: int, plans: Plans, where: str) -> None:
    """Raise InputError unless a run with these bounds, of so many epochs, can go on where `state` is."""
    for name, words in BOUND.items():
        if state["bound"][name] != bound[name]:
            raise InputError(f"{where}: belongs to a run with other {words}, expected one of this run")
    compare_fingerprints(state["bound"]["base"], bound["base"], where)
    epoch, planned = state["epoch"], state["planned_epochs"]
    if epoch > epochs or planned > epochs:
        done = f"has done {epoch} of {max(epoch, planned)} epochs"
        raise InputError(f"{where}: {done}, but epochs is {epochs}, expected at least {max(epoch, planned)}")
    limits = {"epoch": epochs, "best_epoch": epoch, "step": plans.steps(max(epoch, 0)), "planned_epochs": epochs}
    for name, most in limits.items():
        least = 1 if name == "planned_epochs" else 0
        if not least <= state[name] <= most:
            raise InputError(f"{where}: {name} is {state[name]}, expected {least} to {most}")
    if state["plan"] != plans.of(epoch).digest:
        raise InputError(f"{where}: belongs to a run with another plan of batches, expected the plan of this run")
    try:
        json.dumps(state["lines"])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: the lines of the log are not JSON ({error}), expected those of log.jsonl"
        ) from error
    if len(state["lines"]) != epoch:
        raise InputError(
            f"{where}: has {len(state['lines'])} lines of the log, expected one for each of {epoch} epochs"
        )


def check_states(state: Mapping[str, Any], model: Potential, optimizer: torch.optim.Optimizer, where: str) -> None:
    """Raise InputError unless the states of adaptations and optimizer fit this model, in types, shapes and numbers."""
    parts = model.adaptation.parts()
    check_like(state["e0"], model.e0, where, "e0")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = {id(p): p.shape for p in parameters}
    for name in ("best", "last"):
        if len(state[name]) != len(parts):
            raise InputError(f"{where}: {name} has {len(state[name])} adaptations, expected {len(parts)}")
        for part, mine in zip(parts, state[name]):
            part.check_state(mine, f"{where}, {name}")
            shapes |= {id(p): value.shape for p, value in zip(part.trainable(), mine.get("parameters", ()))}
    found, own = state["optimizer"], optimizer.state_dict()
    check_like(found["param_groups"], own["param_groups"], where, "optimizer")
    for mine, theirs in zip(own["param_groups"], found["param_groups"]):
        if theirs["params"] != mine["params"]:
            raise InputError(
                f"{where}: optimizer has the parameters {shown(theirs['params'])}, expected those of this run"
            )
    like = {}
    for k, p in enumerate(parameters):
        like[k] = dict.fromkeys(("exp_avg_sq", "z"), torch.empty(shapes[id(p)], dtype=p.dtype, device="meta"))
    for k, tensors in found["state"].items():
        check_form(k, tuple(like), where, "a number of a parameter in the optimizer")
        check_like(tensors, like[k], where, f"optimizer, parameter {k}")
