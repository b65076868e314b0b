"""Options of a MACE model beside its blocks: what it reads of a structure, and what is refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pathtune.data import labels
from pathtune.errors import InputError

ENERGY_READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")


def refuse(stock: Any) -> None:
    """Raise InputError for blocks that no forward here can train, naming class and place."""
    for i, readout in enumerate(stock.readouts):
        name = type(readout).__name__
        if name not in ENERGY_READOUTS:
            raise InputError(
                f"model has a {name} (readouts.{i}), from which no energy of each head can be read, "
                f"expected one of {', '.join(ENERGY_READOUTS)}"
            )


def embedded_inputs(stock: Any) -> tuple[tuple[str, ...], dict[str, tuple[int, int]]]:
    """Names of the labels that the model embeds, and the whole numbers that a categorical one takes.

    Raises InputError for one that is no registered input label of a graph or atom.
    """
    if not hasattr(stock, "joint_embedding"):
        return (), {}
    specs: Mapping[str, Mapping[str, Any]] = stock.embedding_specs
    known = {label.name: label for label in labels() if label.is_input}
    ranges = {}
    for name, spec in specs.items():
        per = "graph" if spec["per"] == "graph" else "atom"
        if name not in known or known[name].per != per:
            raise InputError(
                f"model embeds {name!r} of each {per} (embedding_specs), expected one of "
                f"{', '.join(known)}; register_label(Label(name={name!r}, is_input=True, ...)) adds one"
            )
        if spec["type"] == "categorical":
            offset = int(spec.get("offset", 0))
            ranges[name] = (-offset, int(spec["num_classes"]) - 1 - offset)
    return tuple(specs), ranges
