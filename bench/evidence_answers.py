"""Which arm and share for how many structures, and what it forgets: tables over all that bench/accuracy/run.py left."""

from __future__ import annotations

from collections.abc import Callable
from statistics import geometric_mean

from evidence import (
    CARES,
    CURVES,
    ENERGY,
    FORCES,
    ROLES,
    SPARSE,
    everything,
    first_of,
    forgetting,
    group_of,
    interval,
    span,
    systems,
    trained,
    untrained,
    values_of,
)

CRYSTALS, MOLECULES = "of a crystal, SevenNet-0", "of a molecule, MACE_SPICE"
ANSWERS = {  # title -> keys of its arm, of which a system has one
    "full fine-tuning": ("full",),
    "full, Kronecker basis": ("kron",),
    "sparse, 3 %": (SPARSE,),
    "sparse, 6.5 %": ("sparse_share0.065", "sparse_share0.0654"),
    "sparse, 26 or 30 %": ("sparse_share0.26", "sparse_share0.3"),
    "low rank, rank 4": ("lora_rank4",),
    "low rank, rank 16": ("lora_rank16",),
    "modulation": ("modulation",),
}
CLOSE = 1.03  # times the lowest error: as good
OF_ALL_SCOPES = "sparse_share0.067"
SECONDS = ("molecule_seconds", "crystal_seconds")


def over_full(result: dict, keys: tuple[str, ...], of: str = FORCES) -> float | None:
    """Error on test of the first of these arms that there is, over that of full fine-tuning."""
    rows = trained(result)
    row = first_of(rows, keys)
    return None if row is None else row["test"][of][0] / rows["full"]["test"][of][0]


def forgotten(result: dict, keys: tuple[str, ...]) -> float | None:
    """Force error on what the base knows, after over before."""
    row = first_of(trained(result), keys)
    return None if row is None else forgetting(row, untrained(result))


def amounts() -> dict[str, list[dict]]:
    """Results by their number of training structures, in words; crystals, which have about 60, together."""
    found: dict[int, list[dict]] = {}
    for result in systems("default", *CURVES):
        found.setdefault(result["n_structures"]["train"], []).append(result)
    named = {f"{n} {MOLECULES}": found[n] for n in sorted(found)}
    crystals = systems("crystal")
    if crystals:
        sizes = [result["n_structures"]["train"] for result in crystals]
        named[f"{span(sizes)} {CRYSTALS}"] = crystals
    return named


def answer_table() -> tuple[list[str], list[list[str]]]:
    """A line for each amount of data: every arm's error over full fine-tuning's and what it forgets; whom to take."""
    lines = []
    for words, results in amounts().items():
        errors = {title: _mean(results, lambda r, keys=keys: over_full(r, keys)) for title, keys in ANSWERS.items()}
        lost = {title: _mean(results, lambda r, keys=keys: forgotten(r, keys)) for title, keys in ANSWERS.items()}
        values = {title: _mean(results, lambda r, keys=keys: _values(r, keys)) for title, keys in ANSWERS.items()}
        there = {title: error for title, error in errors.items() if error is not None}
        good = [title for title, error in there.items() if error <= CLOSE * min(there.values())]
        cells = [f"{errors[t]:.2f} ({lost[t]:.1f})" if t in there else "" for t in ANSWERS]
        lines.append([words, str(len(results)), *cells, min(good, key=lambda title: values[title])])
    best = f"fewest values within {100 * (CLOSE - 1):.0f} % of the best"
    return ["training structures", "systems", *ANSWERS, best], lines


def curves_table() -> tuple[list[str], list[list[str]]]:
    """Errors of full fine-tuning, and of the other arms over them, for every amount of data of the curves."""
    results = sorted(systems(*CURVES), key=lambda r: (group_of(r), r["n_structures"]["train"]))
    heading = [f"{CURVES[group_of(r)]}, {r['n_structures']['train']}" for r in results]
    lines = [["full fine-tuning, meV/A", *(f"{trained(r)['full']['test'][FORCES][0]:.1f}" for r in results)]]
    arms = {t: keys for t, keys in ANSWERS.items() if keys != ("full",)} | {
        "3 % of all that can be adapted, all scopes": (OF_ALL_SCOPES,)
    }
    for title, keys in arms.items():
        ratios = [over_full(r, keys) for r in results]
        if all(ratio is None for ratio in ratios):
            continue
        lines.append([title.replace("26 or 30", "26"), *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)])
    return ["arm", *heading], lines


def cares_points() -> list[tuple[str, str, int, float, float]]:
    """What is done against forgetting, arm, systems, error over that of plain full fine-tuning, what is forgotten."""
    by_care = {care: {r["system"]["data"]: r for r in everything() if group_of(r) == care} for care in CARES}
    asked = set.intersection(*(set(found) for found in by_care.values() if found))  # the same systems for all
    plain = by_care["default"]
    points = []
    for care, found in by_care.items():
        for title in ("full fine-tuning", "full, Kronecker basis", "sparse, 3 %", "low rank, rank 4"):
            (key,) = ANSWERS[title]
            results = [r for data, r in found.items() if data in asked]
            rows = [(r, first_of(trained(r), (key, _pulled(key)))) for r in results]
            rows = [(r, row) for r, row in rows if row is not None]
            if not rows:
                continue
            errors = [
                row["test"][FORCES][0] / trained(plain[r["system"]["data"]])["full"]["test"][FORCES][0]
                for r, row in rows
            ]
            lost = [forgetting(row, untrained(r)) for r, row in rows]
            points.append((care, title, len(rows), geometric_mean(errors), geometric_mean(lost)))
    return points


def _pulled(key: str) -> str:
    """The key of an arm with a pull."""
    kind, _, size = key.partition("_")
    return f"{kind}+pull" + (f"_{size}" if size else "")


def cares_table() -> tuple[list[str], list[list[str]]]:
    """A line for each arm with each thing done against forgetting."""
    heading = ["against forgetting", "arm", "systems", "F / full fine-tuning without it",
               "F on what the base knows, after / before"]  # fmt: skip
    return heading, [
        [CARES[c], arm, str(n), f"{error:.2f}", f"{lost:.2f}"] for c, arm, n, error, lost in cares_points()
    ]


def seconds_table() -> tuple[list[str], list[list[str]]]:
    """3 % against full fine-tuning with the same seconds, and with the same steps."""
    alike = {r["system"]["data"]: r for r in systems()}
    lines, ratios = [], []
    for r in systems(*SECONDS):
        epochs, beside = r["equal"]["epochs"], alike.get(r["system"]["data"])
        same = over_full(beside, (SPARSE,)) if beside else None
        found = [over_full(r, (SPARSE,)), over_full(r, (SPARSE,), ENERGY)]
        ratios.append(found[0])
        lines.append([
            f"{r['system']['name'].removesuffix('_seconds')}, {ROLES[r['system']['role']]}",
            f"{epochs['full']} and {epochs[SPARSE]}", *(f"{ratio:.2f}" for ratio in found),
            "" if same is None else f"{same:.2f}",
        ])  # fmt: skip
    if ratios:
        lines.append(["geometric mean", "", f"{geometric_mean(ratios):.2f}", "", ""])
    return ["system", "epochs, full and 3 %", "F, 3 % / full", "E, 3 % / full", "F with the same steps"], lines


def ablation_table() -> tuple[list[str], list[list[str]]]:
    """A line for each changed part of sparse fine-tuning: errors over those of the defaults, as many values."""
    plain = {r["system"]["data"]: trained(r).get(SPARSE) for r in systems("default")}
    found: dict[str, list[tuple[dict, dict]]] = {}
    for r in systems("ablation"):
        (row,) = (row for key, row in trained(r).items() if key.startswith("sparse"))
        found.setdefault(r["system"]["words"], []).append((row, plain[r["system"]["data"]]))
    lines = []
    for words, pairs in found.items():
        ratios = [[a["test"][of][0] / b["test"][of][0] for a, b in pairs] for of in (FORCES, ENERGY)]
        lines.append([words, str(len(pairs)), interval(ratios[0]), f"{geometric_mean(ratios[1]):.2f}"])
    return ["changed", "molecules", "F / defaults", "E / defaults"], sorted(lines, key=lambda line: line[2])


def elsewhere_table() -> tuple[list[str], list[list[str]]]:
    """Force errors on methanol of what was trained on ethanol."""
    results = sorted(systems("ethanol_curve"), key=lambda r: r["n_structures"]["train"])
    results = [r for r in results if "elsewhere" in untrained(r)]
    lines = [["before", *(f"{untrained(r)['elsewhere']:.0f}" for r in results)]]
    for title, keys in ANSWERS.items():
        rows = [first_of(trained(r), keys) for r in results]
        if not any(rows):
            continue
        lines.append([title.replace("26 or 30", "26"), *(f"{row['elsewhere']:.1f}" if row else "" for row in rows)])
    return ["arm", *(f"{r['n_structures']['train']} of ethanol" for r in results)], lines


def _values(result: dict, keys: tuple[str, ...]) -> float | None:
    row = first_of(trained(result), keys)
    return None if row is None else values_of(row)


def _mean(results: list[dict], of: Callable[[dict], float | None]) -> float | None:
    """Geometric mean over those results that have it."""
    found = [value for value in map(of, results) if value is not None]
    return geometric_mean(found) if found else None
