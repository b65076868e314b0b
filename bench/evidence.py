"""Tables of the evidence that bench/accuracy/run.py leaves: every arm on every system, and the claims over them."""

from __future__ import annotations

import functools
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping
from statistics import geometric_mean

from scipy import stats

RESULTS = pathlib.Path(__file__).parent / "results" / "accuracy"
FORCES, ENERGY = "forces_mae_mev_a", "energy_mae_mev_atom"
ROLES = {"held_out": "held out", "development": "development"}
GROUPS = {"default": "molecules, MACE_SPICE", "crystal": "crystals, SevenNet-0"}  # by the table of systems.toml
CURVES = {"ethanol_curve": "ethanol", "3bpa_curve": "3BPA"}  # the same, of systems with several amounts of data
CARES = {  # the same, of what is done against forgetting
    "default": "nothing",
    "replay": "replay",
    "replay_tenth": "replay, weight 0.1",
    "l2sp": "pull by L2-SP",
    "ewc": "pull by EWC",
}
SPARSE, BEST_LORA, BETTER = "sparse_share0.03", "best low rank", "the better of the two"
MIXED, ALONE = "sparse+lora_share0.1975_rank1", ("sparse_share0.26", "lora_rank4")  # of as many values


@functools.cache
def everything() -> list[dict]:
    """Every result there is: by table, held-out systems first, then by name; sparse and low rank together, which were
    run apart, with the other arms of their system."""
    files = {file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}
    for name in [name for name, result in files.items() if group_of(result) in ("mixed", "curve_all")]:
        rows = [row for row in files.pop(name)["rows"] if row.get("values")]
        of = name.removesuffix("_mixed").removesuffix("_all")
        if of in files:
            files[of]["rows"] += rows
    roles = list(ROLES)
    return sorted(files.values(), key=lambda r: (group_of(r), roles.index(r["system"]["role"]), r["system"]["name"]))


def systems(*groups: str) -> list[dict]:
    """Results of these tables, those of GROUPS by default."""
    return [result for group in groups or GROUPS for result in everything() if group_of(result) == group]


def group_of(result: dict) -> str:
    """Its key in GROUPS."""
    return result["system"].get("of", "default")


def trained(result: dict) -> dict[str, dict]:
    """By the key of its arm, rows that have an error on test; and the best of several ranks by validation."""
    found = {row["arm"]: row for row in result["rows"] if row.get("values") and row.get("test")}
    ranks = [row for key, row in found.items() if key.startswith("lora")]
    if ranks:
        best = min(ranks, key=lambda row: min(r["valid_loss"] for r in row["rates"] if r["valid_loss"] is not None))
        found[BEST_LORA] = best | {"title": BEST_LORA}
    return found


def rivals(result: dict) -> dict[str, dict]:
    """`trained`, and of sparse and low rank with as many values the one with the lower force error on test."""
    found = trained(result)
    alone = [found[key] for key in ALONE if key in found]
    return found | {BETTER: min(alone, key=lambda row: row["test"][FORCES][0])} if len(alone) == 2 else found


def values_of(row: dict) -> int:
    """Values that are trained. Of full fine-tuning by its optimizer's state, two numbers of four bytes each: the count
    of older rows includes weights of absent elements, which are not trained."""
    return row["optimizer_bytes"] // 8 if row["arm"] == "full" else row["values"]


def first_of(rows: Mapping[str, dict], keys: Iterable[str]) -> dict | None:
    """The row of the first of these arms that there is."""
    return next((rows[key] for key in keys if key in rows), None)


def forgetting(row: dict, base: dict) -> float:
    """Force error on what the base knows, of an arm over that of the base."""
    return row["known"][FORCES][0] / base["known"][FORCES][0]


def untrained(result: dict) -> dict:
    """The row of the base with refitted E0."""
    return next(row for row in result["rows"] if row["arm"] == "zero-shot, E0 refit")


def forces_table() -> tuple[list[str], list[list[str]]]:
    """A line for each system: force errors of every arm; a star where the best rate is the edge of those tried."""
    keys = list(dict.fromkeys(key for r in systems() for key in trained(r) if key != BEST_LORA))
    titles = {key: row["title"] for r in systems() for key, row in trained(r).items()}
    lines = []
    for result in systems():
        asked, rows = result["system"], trained(result)
        name = f"{asked['name'].replace('_', ' ')}, {ROLES[asked['role']]}"
        cells = [_error(rows[key]) if key in rows else "" for key in keys]
        lines.append([name, f"{untrained(result)['test'][FORCES][0]:.0f}", *cells])
    return ["system", "before", *(titles[key] for key in keys)], lines


def arms_table() -> tuple[list[str], list[list[str]]]:
    """A line for each arm and kind of system: geometric means over the systems, of ratios to full fine-tuning."""
    heading = ["systems", "arm", "values", "F / full", "at or below full", "E / full",
               "F on what the base knows, after / before", "F at high T and P, after / before",
               "seconds a step / full"]  # fmt: skip
    lines = []
    for group, words in GROUPS.items():
        mine = systems(group)
        keys = list(dict.fromkeys(key for r in mine for key in trained(r)))
        for key in keys:
            there = [(trained(r)[key], trained(r)["full"], untrained(r)) for r in mine if key in trained(r)]
            values = [values_of(row) for row, _, _ in there]
            forces = [row["test"][FORCES][0] / full["test"][FORCES][0] for row, full, _ in there]
            energies = [row["test"][ENERGY][0] / full["test"][ENERGY][0] for row, full, _ in there]
            known = [forgetting(row, base) for row, _, base in there if row["known"]]
            hot = [row["elsewhere"] / base["elsewhere"] for row, _, base in there if row.get("elsewhere")]
            steps = [row["step_seconds"] / full["step_seconds"] for row, full, _ in there]
            below = f"{sum(f <= 1 for f in forces)} of {len(forces)}"
            lines.append([
                _number(len(there), words), there[0][0]["title"], span(values),
                *(("1", "", "1") if key == "full" else (interval(forces), below, f"{geometric_mean(energies):.2f}")),
                *(f"{geometric_mean(ratios):.2f}" if ratios else "" for ratios in (known, hot, steps)),
            ])  # fmt: skip
    return heading, lines


RIVALS = (  # keys of arms, of which a system has one
    (("kron",), "full", "Kronecker basis / full fine-tuning"),
    (("kron",), BEST_LORA, "Kronecker basis / best low rank by validation"),
    ((SPARSE,), "full", "3 % / full fine-tuning"),
    ((SPARSE,), BEST_LORA, "3 % / best low rank by validation"),
    ((SPARSE,), "modulation", "3 % / modulation"),
    (("sparse_share0.065",), "lora_rank1", "as many values as rank 1: sparse / rank 1"),
    (("sparse_share0.26", "sparse_share0.0654"), "lora_rank4", "as many values as rank 4: sparse / rank 4"),
    ((MIXED,), BETTER, "as many values as rank 4: sparse + rank 1 / the better of the two alone"),
    (("sparse_share0.0135",), "full", "0.5 % of the adapted weights / full fine-tuning"),
    (("sparse_share0.067",), "full", "3 % of what can be adapted, all scopes / full fine-tuning"),
    (("sparse_share0.3",), "full", "30 % / full fine-tuning"),
)
OVER = {  # which systems a claim is over: tables of systems.toml, role, fewest structures
    "molecules, held out": (("default",), "held_out", 0),
    "molecules, development": (("default",), "development", 0),
    "molecules": (("default",), None, 0),
    "molecules, 225 to 900 structures": (tuple(CURVES), None, 200),
    "crystals": (("crystal",), None, 0),
}


def claims() -> tuple[list[str], list[list[str]]]:
    """Heading and lines: an arm against its rival over the systems that have both, with 95 % intervals."""
    heading = ["", "", "systems", "force error, ratio", "at or below", "energy error, ratio", "at or below"]
    lines = []
    for keys, theirs, words in RIVALS:
        for over, (groups, role, fewest) in OVER.items():
            there = [r for r in systems(*groups) if r["n_structures"]["train"] >= fewest]
            rows = [rivals(r) for r in there if role in (None, r["system"]["role"])]
            mine = [first_of(row, keys) for row in rows]
            pairs = [(a, row[theirs]) for a, row in zip(mine, rows) if a is not None and theirs in row]
            if not pairs:
                continue
            line = [words, over, str(len(pairs))]
            for key in (FORCES, ENERGY):
                ratios = [a["test"][key][0] / b["test"][key][0] for a, b in pairs]
                line += [interval(ratios), f"{sum(ratio <= 1 for ratio in ratios)} of {len(ratios)}"]
            lines.append(line)
    return heading, lines


def interval(ratios: list[float]) -> str:
    """Their geometric mean, and its 95 % interval by Student's t of the logarithms, from three on."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.mean(logs)
    if len(logs) < 3:
        return f"{math.exp(mean):.2f}"
    half = stats.t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(mean):.2f} ({math.exp(mean - half):.2f} to {math.exp(mean + half):.2f})"


def _error(row: dict) -> str:
    return f"{row['test'][FORCES][0]:.1f}{'*' if row['is_edge'] else ''}"


def _number(n: int, words: str) -> str:
    """So many systems, of a group in words whose first is their plural."""
    first, _, rest = words.partition("s, ")
    return f"{n} {first}{'' if n == 1 else 's'}, {rest}"


def span(values: list[int]) -> str:
    """From the least to the largest, or the one that they all are."""
    low, high = min(values), max(values)
    return f"{low:,d}" if low == high else f"{low:,d} to {high:,d}"
