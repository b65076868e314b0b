"""Tables of the evidence that bench/accuracy/run.py leaves: every arm on every system, and the claims over them."""

from __future__ import annotations

import json
import math
import pathlib
import statistics

RESULTS = pathlib.Path(__file__).parent / "results" / "accuracy"
FORCES, ENERGY = "forces_mae_mev_a", "energy_mae_mev_atom"
ROLES = {"held_out": "held out", "development": "development"}


def systems() -> list[dict]:
    """Results there are: held-out systems first, then by name."""
    found = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    return sorted(found, key=lambda r: (r["system"]["role"] != "held_out", r["system"]["name"]))


def trained(result: dict) -> list[dict]:
    """Rows of arms that have an error on test."""
    return [row for row in result["rows"] if row["values"] and row.get("test")]


def best_low_rank(result: dict) -> dict | None:
    """The rank with the lowest validation loss."""
    rows = [row for row in trained(result) if row["arm"].startswith("lora")]
    return min(rows, key=lambda row: min(r["valid_loss"] for r in row["rates"] if r["valid_loss"] is not None),
               default=None)  # fmt: skip


def of_kind(result: dict, kind: str) -> dict | None:
    """The row of the only arm of a kind, the best of several ranks."""
    if kind == "lora":
        return best_low_rank(result)
    return next((row for row in trained(result) if row["arm"].split("_")[0] == kind), None)


def body() -> tuple[list[str], list[list[str]]]:
    """Heading and lines: one for each system and arm."""
    heading = ["system", "", "arm", "values", "of reachable, adapted, all", "F meV/A", "/ full", "E meV/atom", "/ full",
               "rate"]  # fmt: skip
    lines = []
    for result in systems():
        asked = result["system"]
        name = f"{asked['name']}, {result['n_structures']['train']} structures, {trained(result)[0]['n_steps']} steps"
        for row in trained(result):
            shares = ", ".join(f"{100 * row['shares'][of]:.3g} %" for of in ("reachable", "adapted", "all"))
            over, test = row.get("over_full", {}), row["test"]
            lines.append([
                name, ROLES[asked["role"]], row["title"], f"{row['values']:,d}", shares, f"{test[FORCES][0]:.1f}",
                _ratio(over.get(FORCES)), f"{test[ENERGY][0]:.2f}", _ratio(over.get(ENERGY)),
                f"{row['lr']:.3g}" + ("*" if row["is_edge"] else ""),
            ])  # fmt: skip
    return heading, lines


def claims() -> tuple[list[str], list[list[str]]]:
    """Heading and lines: sparse against each rival over the systems that have both."""
    heading = ["", "systems", "force error, geometric mean of the ratio", "at or below", "energy error", "at or below"]
    lines = []
    for rival, words in (("full", "sparse / full fine-tuning"), ("lora", "sparse / best low rank by validation")):
        for role in ROLES:
            pairs = [(of_kind(r, "sparse"), of_kind(r, rival)) for r in systems() if r["system"]["role"] == role]
            pairs = [(mine, theirs) for mine, theirs in pairs if mine and theirs]
            if not pairs:
                continue
            line = [f"{words}, {ROLES[role]}", str(len(pairs))]
            for key in (FORCES, ENERGY):
                ratios = [mine["test"][key][0] / theirs["test"][key][0] for mine, theirs in pairs]
                mean = math.exp(statistics.mean(math.log(ratio) for ratio in ratios))
                line += [f"{mean:.2f}", f"{sum(ratio <= 1 for ratio in ratios)} of {len(ratios)}"]
            lines.append(line)
    return heading, lines


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
