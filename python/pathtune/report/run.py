"""A finished run as the report needs it: its numbers, its base, its tuned model and its validation structures."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ase.data import atomic_numbers as numbers_of_symbols

from pathtune.adapter_file import load_adapter
from pathtune.adapter_tools import extract
from pathtune.data import Source, as_source, elements_of, subset
from pathtune.errors import InputError
from pathtune.files import read_text
from pathtune.forms import check_form, from_json
from pathtune.loading import load
from pathtune.model import Potential
from pathtune.options import from_mapping
from pathtune.training.checkpoint import LINE
from pathtune.training.folder import RunFolder
from pathtune.training.methods import read_config, read_metrics
from pathtune.training.options import FitConfig
from pathtune.training.provenance import file_hash
from pathtune.training.run import ModelOptions


@dataclasses.dataclass
class FinishedRun:
    """Everything that panels are made of."""

    folder: RunFolder
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]  # of config.toml
    lines: Sequence[Mapping[str, Any]]  # of log.jsonl
    base: Potential  # as training found it: E0 refitted
    model: Potential  # tuned
    valid: Source
    elements: tuple[int, ...]  # that count as reachable

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.folder.resolve().name

    def plain_base(self) -> Potential:
        """The base with its own E0."""
        return self.base.with_e0(self.base.base.atomic_energies()[self.base.head].to(self.base.device))

    @property
    def fit(self) -> FitConfig:
        """How it was trained."""
        return from_mapping(FitConfig, dict(self.config.get("fit", {})), f"{self.folder.config}, [fit]")


def read_run(where: str | pathlib.Path, base: Potential | None = None) -> FinishedRun:
    """The run of a folder. `base`: its model, where it is loaded already.

    The model that its config.toml names is loaded and, of an arm that no adapter holds, its merged.model: two pickles.
    Raises InputError for a folder that holds no run or an unfinished one, for files that are damaged, for a run without
    an adapter or merged model, and for a base that is not the one that it was trained from.
    """
    folder = RunFolder(where)
    metrics, config, lines = _texts(folder)
    own = _load_base(folder, metrics, config) if base is None else base
    model = _tuned(folder, own)
    shifts = (metrics["e0_fit"] or {}).get("shift_ev", {})
    e0 = own.e0.clone()
    for symbol, shift in shifts.items():
        if numbers_of_symbols.get(symbol) not in own.atomic_numbers:
            raise InputError(f"{folder.metrics}: shifts the energy of {symbol!r}, which the model does not know")
        e0[own.atomic_numbers.index(numbers_of_symbols[symbol])] += shift
    judged = as_source(folder.predictions)
    n_valid = metrics["n_structures"]["valid"]
    if len(judged) < n_valid:
        raise InputError(
            f"{folder.predictions}: has {len(judged)} structures, expected at least the {n_valid} of valid"
        )
    valid = subset(judged, range(n_valid))
    known = model.elements if model.elements and len(model.elements) < len(model.atomic_numbers) else elements_of(valid)
    return FinishedRun(folder, metrics, config, lines, own.with_e0(e0), model, valid, tuple(known))


def read_lines(folder: RunFolder) -> list[dict[str, Any]]:
    """The epochs of the log; InputError for a damaged one."""
    if not folder.log.is_file():
        return []
    texts = read_text(folder.log).splitlines()
    lines = [from_json(text, dict, str(folder.log), f"line {i}") for i, text in enumerate(texts, 1)]
    for i, line in enumerate(lines, 1):
        check_form(line, LINE, str(folder.log), f"line {i}")
    return lines


def _texts(folder: RunFolder) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    if not folder.folder.is_dir():
        raise InputError(f"{folder.folder}: no such folder, expected that of a run of pathtune fit")
    if not folder.metrics.is_file():
        if folder.config.is_file():
            raise InputError(
                f"{folder.folder}: holds an unfinished run (no metrics.json), expected a finished one: "
                "the same pathtune fit with --resume goes on"
            )
        raise InputError(f"{folder.folder}: holds no metrics.json, expected the folder of a finished run")
    return read_metrics(folder.metrics), read_config(folder.config), read_lines(folder)


def _load_base(folder: RunFolder, metrics: Mapping[str, Any], config: Mapping[str, Any]) -> Potential:
    options = from_mapping(ModelOptions, dict(config.get("model", {})), f"{folder.config}, [model]")
    if options.model is None:
        raise InputError(f"{folder.config}: names no model, expected the one that the run was trained from")
    expected, found = metrics.get("model_sha256"), file_hash(options.model)
    if isinstance(expected, str) and found != expected:
        state = "no such file" if found is None else f"its SHA-256 is {found[:12]}"
        raise InputError(f"{options.model}: {state}, expected the base that {folder.folder} has: {expected[:12]}")
    return load(options.model, options.dtype, options.head, options.backend, options.device)


def _tuned(folder: RunFolder, base: Potential) -> Potential:
    if folder.adapter.is_file():
        return load_adapter(base, folder.adapter)
    if folder.merged.is_file():
        head = base.base.heads[base.head]
        name = None if head == "Default" else head
        return extract(base, load(folder.merged, str(base.base.dtype).removeprefix("torch."), name))
    raise InputError(
        f"{folder.folder}: holds neither adapter.safetensors nor merged.model, expected what a finished run leaves"
    )


def to_json(value: Mapping[str, Any]) -> str:
    """The text of report.json."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
