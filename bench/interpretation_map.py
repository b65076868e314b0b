"""What the map of element by degree l says: the runs of interpretation_elements.py, beside Fisher information.

    python bench/interpretation_map.py    # writes bench/results/interpretation_map.json

For the runs on structures of 80 elements, elements of the d block against those of neither the d nor the f block, two
seeds together: the two-sided Mann-Whitney test of what the published map draws, of rates, of what the base predicts,
and of what of the rates it does not predict; corrected by Holm's method. Needs scipy.
"""

import json
import math
import pathlib
import statistics

import numpy as np
import scipy.stats
from ase.data import atomic_numbers

from interpretation_classes import holm

RESULTS = pathlib.Path(__file__).parent / "results"
RUNS, OUT = RESULTS / "interpretation_elements.jsonl", RESULTS / "interpretation_map.json"
D_BLOCK = [*range(21, 31), *range(39, 49), *range(72, 81)]
F_BLOCK = [*range(57, 72), *range(89, 104)]
DEGREES = ("l = 0", "l = 1", "l = 2")


def cells_of(row):
    """By element and group: counts of both seeds together, the rate, and means of what is predicted and of shares."""
    result = {}
    for one, other in zip(row["cells"], row["second"]["cells"]):
        key = one["element"], one["group"]
        assert key == (other["element"], other["group"])
        shares = [c["integrated_share"] for c in (one, other)]
        result[key] = {
            "changed": one["changed"] + other["changed"],
            "reachable": one["reachable"] + other["reachable"],
            "rates": [one["rate"], other["rate"]],
            "predicted": statistics.fmean([one["predicted_rate"] or 0.0, other["predicted_rate"] or 0.0]),
            "shares": shares,
            "share": None if None in shares else statistics.fmean(shares),
        }
    return result


def log_correlation(pairs):
    """Pearson's r of the logarithms, of pairs that are both positive."""
    kept = [(a, b) for a, b in pairs if a and b]
    return float(np.corrcoef(np.log(np.array(kept)).T)[0, 1]) if len(kept) > 3 else None


def of_row(row):
    """How the map of one set repeats, and how far the base's Fisher information predicts it."""
    cells = cells_of(row)
    return {
        "r_of_seeds": log_correlation([c["rates"] for c in cells.values()]),
        "r_with_fisher": log_correlation([(c["changed"], c["predicted"] * c["reachable"]) for c in cells.values()]),
        "completeness": [row["completeness"], row["second"]["completeness"]],
        "forces_mae_mev_a": [*row["forces_mae_mev_a"], row["second"]["forces_mae_mev_a"][1]],
        **{key: row["overlap"][key] for key in ("jaccard", "chance", "ceiling")},
    }  # fmt: skip


def planted(rows):
    """Of each planted cell, what the map says of it, beside the same cell where another was planted."""
    result = []
    maps = {(row["element"], f"l = {row['degree']}"): cells_of(row) for row in rows}
    for where, cells in maps.items():
        others = [m for key, m in maps.items() if key != where]
        shown = all(c["share"] is not None for m in maps.values() for c in m.values())
        ratio = {key: c["changed"] / c["reachable"] / c["predicted"] for key, c in cells.items() if c["predicted"]}
        result.append({
            "element": where[0], "group": where[1],
            "rate": cells[where]["changed"] / cells[where]["reachable"],
            "rate_elsewhere": statistics.fmean(m[where]["changed"] / m[where]["reachable"] for m in others),
            "predicted": cells[where]["predicted"],
            "share": cells[where]["share"],
            "share_elsewhere": statistics.fmean(m[where]["share"] for m in others) if shown else None,
            "largest_share": max(cells, key=lambda key: cells[key]["share"] or 0.0) if shown else None,
            "largest_rate": max(cells, key=lambda key: cells[key]["changed"] / cells[key]["reachable"]),
            "largest_over_predicted": max(ratio, key=ratio.get),
            "removed": [1 - r["loss"][1] / r["loss"][0] for row in rows
                        if (row["element"], f"l = {row['degree']}") == where for r in (row, row["second"])],
        })  # fmt: skip
    return result


def measures_of(cells, element):
    """Measures of l = 2 of one element; None where no weight of it was changed."""
    mine = {group: cells[element, group] for group in DEGREES}
    changed, reachable = (sum(c[key] for c in mine.values()) for key in ("changed", "reachable"))
    expected = sum(c["predicted"] * c["reachable"] for c in mine.values())
    if not changed or not expected:
        return None
    two, none = mine["l = 2"], mine["l = 0"]
    ratio = (two["changed"] + 0.5) / (none["changed"] + 0.5)
    enriched = two["changed"] / two["reachable"] / (changed / reachable)
    foretold = two["predicted"] / (expected / reachable)
    return {
        "count of l = 2 (as published)": two["changed"] / 2,
        "count of l = 0": none["changed"] / 2,
        "logarithm of the count of l = 2 over that of l = 0": math.log(ratio),
        "rate of l = 2 over that of all l": enriched,
        "the same, predicted by Fisher information": foretold,
        "found over predicted": enriched / foretold,
        "integrated share of l = 2, %": None if two["share"] is None else 100 * two["share"],
    }  # fmt: skip


def by_class(row):
    """The d block against elements of neither d nor f block."""
    cells = cells_of(row)
    found = {e: measures_of(cells, e) for e in dict.fromkeys(element for element, _ in cells)}
    found = {e: m for e, m in found.items() if m and atomic_numbers[e] not in F_BLOCK}
    is_d = np.array([atomic_numbers[e] in D_BLOCK for e in found])
    atoms = [row["atoms"].get(e, 0) for e in found]
    result = []
    for name in next(iter(found.values())):
        values = [m[name] for m in found.values()]
        if None in values:
            continue
        values = np.array(values)
        result.append({
            "measure": name, "d_block": float(values[is_d].mean()), "others": float(values[~is_d].mean()),
            "p": float(scipy.stats.mannwhitneyu(values[is_d], values[~is_d], alternative="two-sided").pvalue),
            "spearman_with_atoms": float(scipy.stats.spearmanr(values, atoms).statistic),
        })  # fmt: skip
    for measure, p in zip(result, holm([m["p"] for m in result])):
        measure["p_holm"] = p
    per_element = {e: {g: cells[e, g]["changed"] for g in DEGREES} for e in found}
    atoms = np.array(atoms)
    return {"d_block": int(is_d.sum()), "others": int((~is_d).sum()), "measures": result, "changed": per_element,
            "atoms": {"d_block": float(atoms[is_d].mean()), "others": float(atoms[~is_d].mean())}}  # fmt: skip


def sets_table():
    """Header and rows of docs/interpretation.md: every cell of the three sets."""
    header = ["set", "cell", "rate, two seeds", "rate predicted", "share of the loss taken off, two seeds"]
    body = []
    for name, found in json.loads(OUT.read_text())["sets"].items():
        for cell in found["cells"]:
            shares = ["hidden" if s is None else f"{100 * s:.1f}" for s in cell["shares"]]
            body.append([name, f"{cell['element']}, {cell['group']}",
                         ", ".join(f"{100 * r:.1f}" for r in cell["rates"]) + " %", f"{100 * cell['predicted']:.1f} %",
                         ", ".join(shares) + " %"])  # fmt: skip
    return header, body


def planted_table():
    """Header and rows of docs/interpretation.md: the planted cells."""
    header = ["weights moved", "share of the loss taken off in that cell (elsewhere planted)",
              "rate of that cell (elsewhere planted)", "cell of the largest share", "cell of the largest rate",
              "cell of the largest rate over the predicted"]  # fmt: skip
    def cell(key):
        return "hidden" if key is None else ", ".join(key)
    body = []
    for row in json.loads(OUT.read_text())["planted"]:
        hidden = row["share_elsewhere"] is None
        share = "hidden" if hidden else f"{100 * row['share']:.1f} % ({100 * row['share_elsewhere']:.1f} %)"
        body.append([f"{row['element']}, {row['group']}", share,
                     f"{100 * row['rate']:.1f} % ({100 * row['rate_elsewhere']:.1f} %)",
                     cell(row["largest_share"]), cell(row["largest_rate"]), cell(row["largest_over_predicted"])])
    return header, body  # fmt: skip


def class_table():
    """Header and rows of docs/interpretation.md: the d block against the others."""
    found = json.loads(OUT.read_text())["table"]
    header = ["measure, by element", f"d block ({found['d_block']})", f"others ({found['others']})", "p",
              "p after Holm", "rank correlation with the number of atoms"]  # fmt: skip
    return header, [[m["measure"], f"{m['d_block']:.3g}", f"{m['others']:.3g}", f"{m['p']:.2g}",
                     f"{m['p_holm']:.2g}", f"{m['spearman_with_atoms']:.2f}"] for m in found["measures"]]  # fmt: skip


TABLES = {"element_sets": sets_table, "element_planted": planted_table, "element_classes": class_table}


def main():
    """Read, test, write, print."""
    rows = [json.loads(line) for line in RUNS.read_text().splitlines()]
    result = {"base": next(row for row in rows if row["kind"] == "base")}
    result["sets"] = {
        row["set"]: of_row(row)
        | {"cells": [{"element": e, "group": g, **cell} for (e, g), cell in cells_of(row).items()]}
        for row in rows
        if row["kind"] == "sets"
    }
    result["planted"] = planted([row for row in rows if row["kind"] == "planted"])
    table = next((row for row in rows if row["kind"] == "table"), None)
    result["table"] = of_row(table) | by_class(table) if table else None
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "sets"}, indent=1)[:6000])


if __name__ == "__main__":
    main()
