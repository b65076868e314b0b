"""Where processes meet in a step: sums cross, never means, over denominators that all know from the plan.

    L = sum_label w_label / n_label sum_rank S_label,rank        n_label: labelled numbers of the whole step

One flat buffer is summed over the processes in a step: the loss, whether one failed or has a request, which
parameters have a gradient, and the gradients of the parameters that are left.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pathtune.errors import InputError
from pathtune.losses import Term
from pathtune.processes import OneProcess


def whole(terms: Mapping[str, Term], counts: Mapping[str, int] | None) -> Mapping[str, Term]:
    """The terms with the counts of the whole step; None: this process has the whole step."""
    if counts is None:
        return terms
    return {name: Term(term.sum, counts.get(name, 0)) for name, term in terms.items()}


def meet(
    world: OneProcess,
    value: torch.Tensor,
    parameters: Sequence[torch.nn.Parameter],
    requests: Sequence[bool],
    failure: InputError | None = None,
) -> tuple[torch.Tensor, list[bool]]:
    """The loss of all processes, and which requests any of them has; gradients of `parameters` are summed in place.

    One process alone reads nothing of a device. Raises in all what `failure` is in one.
    """
    if world.size == 1:
        if failure is not None:
            raise failure
        return value.detach(), list(requests)
    kind = functools.reduce(torch.promote_types, [p.dtype for p in parameters])
    device = parameters[0].device
    flags = torch.tensor([float(failure is not None), *map(float, requests)], dtype=kind, device=device)
    has = torch.tensor([float(p.grad is not None) for p in parameters], dtype=kind, device=device)
    own = [
        torch.zeros_like(p, dtype=kind).flatten() if p.grad is None else p.grad.to(kind).flatten() for p in parameters
    ]
    flat = torch.cat([value.detach().to(device, kind).reshape(1), flags, has, *own])
    world.add(flat)
    first = 1 + len(flags)
    start = first + len(parameters)
    met = flat[:start].tolist()
    if met[1]:
        world.gather(functools.partial(_raise, failure))
    for k, p in enumerate(parameters):
        if met[first + k]:
            p.grad = flat[start : start + p.numel()].reshape(p.shape).to(p.dtype)
        start += p.numel()
    return flat[0], [bool(flag) for flag in met[2:first]]


def add_dense(world: OneProcess, gradients: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Dense gradients by name, summed over the processes."""
    if world.size == 1:
        return gradients
    flat = torch.cat([g.flatten() for g in gradients.values()])
    world.add(flat)
    parts = flat.split([g.numel() for g in gradients.values()])
    return {name: part.reshape(g.shape) for (name, g), part in zip(gradients.items(), parts)}


def check_candidates(world: OneProcess, state: Any, step: int) -> None:
    """Raise InputError in all processes where they do not train the same entries; `state`: of the adaptations."""
    if world.size == 1:
        return
    found = world.gather(lambda: integers_hash(state))
    other = next((rank for rank, mine in enumerate(found) if mine != found[0]), None)
    if other is not None:
        raise InputError(
            f"rank {other} chose other candidates than rank 0 after step {step}, expected the same: "
            "the processes must compute on machines of the same kind, with the same versions"
        )


def integers_hash(state: Any) -> str:
    """SHA-256 of all integer tensors in a nest of dicts and lists, in order."""
    digest = hashlib.sha256()

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor) and not value.is_floating_point():
            digest.update(value.cpu().numpy().tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                visit(value[key])
        elif isinstance(value, (list, tuple)):
            for element in value:
                visit(element)

    visit(state)
    return digest.hexdigest()


def _raise(failure: InputError | None) -> None:
    if failure is not None:
        raise failure
