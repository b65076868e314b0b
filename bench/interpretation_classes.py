"""Is l = 2 more in transition metals than in other materials? The runs of `bench/interpretation.py sets`, tested.

    python bench/interpretation_classes.py    # writes bench/results/interpretation_classes.json

For each measure of l = 2, the mean of two seeds of each material: the two-sided Mann-Whitney test between the classes;
and the class in a least-squares line measure = a + b class + c q_2, whose b is tested by Student's t, where q_2 is how
anisotropic the surroundings of the atoms are. All p-values together are corrected by Holm's method. Needs scipy.
"""

import json
import math
import pathlib
import statistics

import numpy as np
import scipy.stats

from interpretation import METALS, RESULTS, enrichment

OUT = pathlib.Path(__file__).parent / "results" / "interpretation_classes.json"


def of_group(key):
    """A measure that the run kept."""
    return lambda row: row["groups"]["l = 2"][key]


MEASURES = {
    "rate of changed weights over that of all": enrichment,
    "Shapley share of the loss taken off": of_group("shapley_share"),
    "share of the integrated gradients": of_group("integrated_share"),
    "loss that comes back without l = 2, of that taken off":
        lambda row: row["groups"]["l = 2"]["left_out"] / (row["loss_base"] - row["loss_tuned"]),
    "share of the base's Fisher information": of_group("fisher_share"),
}  # fmt: skip


def holm(p_values):
    """P-values corrected for their number: S. Holm, Scand. J. Stat. 6, 65 (1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    result, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        result[i] = least
    return result


def beside_anisotropy(values, is_metal, q2):
    """The class's part of a measure beside a line in q_2, and its p-value."""
    design = np.column_stack([np.ones(len(values)), is_metal, q2])
    found, *_ = np.linalg.lstsq(design, values, rcond=None)
    residual = values - design @ found
    freedom = len(values) - design.shape[1]
    error = math.sqrt(residual @ residual / freedom * np.linalg.inv(design.T @ design)[1, 1])
    return float(found[1]), float(2 * scipy.stats.t.sf(abs(found[1]) / error, freedom))


def table():
    """Header and rows of docs/interpretation.md."""
    result = json.loads(OUT.read_text())
    header = ["measure of l = 2", f"metals ({len(result['metals'])})", f"others ({len(result['others'])})", "p",
              "p beside q_2", "the smaller of both, after Holm"]  # fmt: skip
    body = [[row["measure"], f"{row['metals']:.3f}", f"{row['others']:.3f}", f"{row['p']:.2f}",
             f"{row['p_beside_q2']:.2f}", f"{min(row['p_holm'], row['p_beside_q2_holm']):.2f}"]
            for row in result["measures"]]  # fmt: skip
    return header, body


def main():
    """Test, correct, write and print."""
    rows = [row for row in map(json.loads, RESULTS.read_text().splitlines()) if row["kind"] == "sets"]
    gained = [r for r in rows if all(s["loss_tuned"] < s["loss_base"] for s in (r, r["second"]))]
    names = [row["set"] for row in gained]
    is_metal = np.array([name in METALS for name in names])
    q2 = np.array([row["anisotropy"]["2"] for row in gained])
    result = {"metals": [n for n in names if n in METALS], "others": [n for n in names if n not in METALS]}
    result["not_tuned"] = [row["set"] for row in rows if row not in gained]
    result["q2_with_class"] = float(np.corrcoef(q2, is_metal)[0, 1])
    table = []
    for name, measure in MEASURES.items():
        values = np.array([statistics.fmean(measure(r) or 0.0 for r in (row, row["second"])) for row in gained])
        alone = scipy.stats.mannwhitneyu(values[is_metal], values[~is_metal], alternative="two-sided").pvalue
        part, beside = beside_anisotropy(values, is_metal, q2)
        table.append({
            "measure": name, "metals": float(values[is_metal].mean()), "others": float(values[~is_metal].mean()),
            "p": float(alone), "class_beside_q2": part, "p_beside_q2": beside,
            "spearman_with_q2": float(scipy.stats.spearmanr(values, q2).statistic),
        })  # fmt: skip
    corrected = holm([row[key] for row in table for key in ("p", "p_beside_q2")])
    for i, row in enumerate(table):
        row["p_holm"], row["p_beside_q2_holm"] = corrected[2 * i : 2 * i + 2]
    result["measures"] = table
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
