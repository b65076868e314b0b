"""The methods paragraph of a finished run: one function for `pathtune describe` and for the report."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from pathtune.atomic_energies import GIVEN, ISOLATED, LEAST_SQUARES
from pathtune.data import labels
from pathtune.errors import InputError
from pathtune.forms import check_form, read_json, read_toml
from pathtune.options import from_mapping
from pathtune.training.options import FitConfig

GROUPED = {"per_element": {...: {...: float}}, "per_config_type": {...: {...: float}}}
SCORES = {"n_structures": int, **GROUPED}  # and errors by their names
METRICS = {
    "arm": str,
    "base": str,
    "valid": SCORES,
    "valid_before": SCORES,
    "counts": {"active": int, "all_weights": int, "adapted_weights": int, "reachable_weights": int},
    "active_share": float,
    "is_start": bool,
    "warnings": [str],
    "best_epoch": int,
    "best_reason": str,
    "epochs": int,
    "batch_size": int,
    "learning_rate": float,
    "beta1": float,
    "seed": int,
    "dtype": str,
    "seconds": float,
    "n_structures": {"train": int, "valid": int},
    "shares": {"reachable": float, "adapted": float, "all": float},
    "fingerprints": {...: str},
    "versions": {...: str},
    "machine": {"processor": str, "threads": int},
    "e0_fit": (None, dict),
}
MAY_HOLD = {  # what is not in every run
    "model": (str, None),
    "model_sha256": (str, None),
    "units": [str],
    "test": {...: object},
}
E0_ASKED = {"origin": (GIVEN, ISOLATED), "e0_ev": {...: float}, "n_left_out": int}
DIGITS = 12  # of a hash, enough to tell two files apart


def read_metrics(file: pathlib.Path) -> dict[str, Any]:
    """What metrics.json of a finished run holds. Raises InputError for a file that is missing, damaged, or of something
    else."""
    if not file.is_file():
        raise InputError(f"{file}: cannot be read (no such file), expected the folder of a finished run")
    metrics = read_json(file, dict)
    for name in ("versions", "shares"):
        if name not in metrics:
            raise InputError(f"{file}: holds no {name}, expected a run of this version of pathtune")
    return checked_metrics(metrics, str(file))


def checked_metrics(metrics: Any, where: str) -> dict[str, Any]:
    """As they stand, if they are those of a run; InputError otherwise."""
    check_form(metrics, METRICS, where)
    for name, form in MAY_HOLD.items():
        if name in metrics:
            check_form(metrics[name], form, where, name)
    if metrics["e0_fit"] is not None:
        check_form(metrics["e0_fit"], {"shift_ev": {...: float}}, where, "e0_fit")
        if metrics["e0_fit"].get("origin", LEAST_SQUARES) != LEAST_SQUARES:
            check_form(metrics["e0_fit"], E0_ASKED, where, "e0_fit")
    for name in ("valid", "valid_before", "test"):
        scores = metrics.get(name, {})
        errors = {label.rmse_key: float for label in labels() if label.mae_key in scores}
        check_form(scores, {**dict.fromkeys(scores, float), **errors, **GROUPED} if scores else {}, where, name)
    if "test" in metrics:
        check_form(metrics["n_structures"], {"test": int}, where, "n_structures")
    return metrics


def read_config(file: pathlib.Path) -> dict[str, Any]:
    """What config.toml of a run holds; InputError as read_toml, and for options of its training that are none."""
    config = read_toml(file)
    check_form(config, {...: dict}, str(file))
    from_mapping(FitConfig, config.get("fit", {}), f"{file}, [fit]")
    return config


def describe(metrics: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The paragraph, of what metrics.json and config.toml of a run hold."""
    fit, data = config.get("fit", {}), metrics["n_structures"]
    counts, versions = metrics["counts"], metrics["versions"]
    weights = ", ".join(f"{label.name} {fit[key]:g}" for label, key in _weights(fit, metrics["valid"]))
    sentences = [
        f"The pretrained {metrics['base']} {metrics.get('model') or 'model'}{_hash(metrics.get('model_sha256'))} was "
        f"fine-tuned (arm {metrics['arm']}) on {data['train']} structures, with {data['valid']} for validation"
        + (f" and {data['test']} for testing." if "test" in data else "."),
        f"{counts['active']:,d} of its {counts['all_weights']:,d} weights were changed ({_shares(metrics)})"
        + (f" and {counts['added']:,d} values added beside them." if counts.get("added") else "."),
        f"Training took {metrics['epochs']} epochs in batches of {metrics['batch_size']} with schedule-free AdamW, "
        f"learning rate {metrics['learning_rate']:.3g}, beta1 {metrics['beta1']:.3g}, seed {metrics['seed']}, "
        f"precision {metrics['dtype']}, on a {fit.get('loss', '')} loss with the weights {weights}.",
        _types(fit),
        _units(metrics),
        _offsets(metrics),
        _e0(metrics),
        f"The result is the best epoch on validation: {metrics['best_reason']}."
        if not metrics["is_start"]
        else "The training made it worse; the result is the pretrained model with refitted atomic energies.",
        f"Validation errors: {_errors(metrics['valid'])}.",
        f"Test errors: {_errors(metrics['test'])}." if "test" in metrics else "",
        f"Software: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        f"Machine: {metrics['machine']['processor']}, {_plural(metrics['machine']['threads'], 'thread')}"
        + (f", {metrics['machine']['gpu']}" if "gpu" in metrics["machine"] else "")
        + f"; {metrics['seconds']:.0f} s of training.",
        f"Data (SHA-256 of the content): {_fingerprints(metrics['fingerprints'])}.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _shares(metrics: Mapping[str, Any]) -> str:
    """The share of weights by every denominator; what differs by an order of magnitude is not left to the reader."""
    counts, shares = metrics["counts"], metrics["shares"]
    return (
        f"{100 * shares['reachable']:.3g} % of the {counts['reachable_weights']:,d} adapted ones that the data can "
        f"reach, {100 * shares['adapted']:.3g} % of the {counts['adapted_weights']:,d} adapted ones, "
        f"{100 * shares['all']:.3g} % of all"
    )


def _types(fit: Mapping[str, Any]) -> str:
    pairs = [pair.rpartition("=") for pair in fit.get("config_type_weights", ())]
    weights = ", ".join(f"{weight} for {name}" for name, _, weight in pairs)
    return f"By config_type, structures counted {weights}." if pairs else ""


def _units(metrics: Mapping[str, Any]) -> str:
    pairs = [pair.partition("=") for pair in metrics.get("units", ())]
    return f"Converted when read: {', '.join(f'{name} from {unit}' for name, _, unit in pairs)}." if pairs else ""


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _weights(fit: Mapping[str, Any], scores: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """Labels that the structures had, and the options that weigh them."""
    found = [(label, f"{label.name}_weight") for label in labels() if label.mae_key in scores]
    return [(label, key) for label, key in found if key in fit]


def _offsets(metrics: Mapping[str, Any]) -> str:
    offsets = metrics.get("energy_offsets_ev_atom") or {}
    values = ", ".join(f"{1000 * value:+.1f} meV/atom from {name}" for name, value in offsets.items())
    says = "Constants found by least squares were taken from the energies of some config_types"
    return f"{says}: {values}." if values else ""


def _e0(metrics: Mapping[str, Any]) -> str:
    if not metrics["e0_fit"]:
        return "Atomic energies were kept."
    origin = metrics["e0_fit"].get("origin", LEAST_SQUARES)
    if origin != LEAST_SQUARES:
        energies = ", ".join(f"{element} {value:.8g} eV" for element, value in metrics["e0_fit"]["e0_ev"].items())
        if origin == GIVEN:
            return f"Atomic energies were given ({energies})."
        return (
            f"Atomic energies are those of the isolated atoms in the data ({energies}), whose "
            f"{_plural(metrics['e0_fit']['n_left_out'], 'frame')} were left out of the training."
        )
    elements = ", ".join(metrics["e0_fit"]["shift_ev"])
    return f"Atomic energies ({elements}) were refitted to the training data by least squares." if elements else ""


def _errors(scores: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{label.word} MAE {scores[label.mae_key]:.3g} and RMSE {scores[label.rmse_key]:.3g} {label.report_unit}"
        for label in labels()
        if label.mae_key in scores
    )


def _fingerprints(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value[:DIGITS]}" for name, value in found.items())


def _hash(value: str | None) -> str:
    return f" (SHA-256 {value[:DIGITS]})" if value else ""
