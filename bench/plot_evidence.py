"""Pictures of what bench/accuracy/run.py left: answer and arms.png in docs/images.

python bench/plot_evidence.py
"""

from __future__ import annotations

import pathlib
import statistics

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import evidence
import evidence_answers as answers

IMAGES = pathlib.Path(__file__).parent.parent / "docs" / "images"
FULL, KRON = "#4c8bb8", "#1b3a5c"
ARM_COLOURS = {"full": FULL, "kron": KRON, "sparse": "#d1603d", "lora": "#5a9367", "modulation": "#8a6bb1",
               "sparse+lora": "#c9a227"}  # fmt: skip
ARM_NAMES = {"full": "full fine-tuning", "kron": "full, Kronecker basis", "sparse": "sparse",
             "lora": "low rank", "modulation": "modulation",
             "sparse+lora": "sparse + low rank"}  # fmt: skip
FEWEST_SYSTEMS = 3  # of a kind, for a picture of it
ANSWER_STYLES = {  # of the arms of evidence_answers.ANSWERS
    "full fine-tuning": (FULL, "--"), "full, Kronecker basis": (KRON, "-"),
    "sparse, 3 %": ("#d1603d", "-"), "sparse, 6.5 %": ("#e08e6d", "-"),
    "sparse, 26 or 30 %": ("#8c3214", "-"), "low rank, rank 4": ("#5a9367", "-"), "low rank, rank 16": ("#2f5d3a", "-"),
    "modulation": ("#8a6bb1", "-"),
}  # fmt: skip
SIGNS = {"o": "\u25cb", "s": "\u25a1"}  # of marks, in text
CARE_MARKS = {"default": "o", "replay": "s", "replay_tenth": "D", "l2sp": "^", "ewc": "v"}


def plot_answer() -> None:
    """Error and what is forgotten against the number of structures; and one against the other, with care against it."""
    figure, (errors, lost, both) = plt.subplots(1, 3, figsize=(10.5, 3.6))
    results = evidence.systems(*evidence.CURVES)
    amounts = sorted({r["n_structures"]["train"] for r in results})
    marks = [(group, mark) for group, mark in (("ethanol_curve", "o"), ("3bpa_curve", "s")) if evidence.systems(group)]
    for title, (colour, style) in ANSWER_STYLES.items():
        keys = answers.ANSWERS[title]
        for axes, of in ((errors, answers.over_full), (lost, answers.forgotten)):
            by_amount = [(r, of(r, keys)) for r in results]
            for group, marker in marks:
                mine = [(r["n_structures"]["train"], y) for r, y in by_amount if evidence.group_of(r) == group]
                points = sorted((n, y) for n, y in mine if y is not None)
                if points:
                    axes.plot(*zip(*points), marker=marker, ls=style, color=colour, ms=4, lw=1.2,
                              label=title if marker == "o" else None)  # fmt: skip
    for axes, words in ((errors, "force error / full fine-tuning's"), (lost, "forces on SPICE, error after / before")):
        axes.set_xscale("log")
        axes.set_xticks(amounts, map(str, amounts))
        axes.minorticks_off()
        signs = ", ".join(f"{SIGNS[mark]} {evidence.CURVES[group]}" for group, mark in marks)
        axes.set_xlabel(f"training structures ({signs})", fontsize=8)
        axes.set_ylabel(words, fontsize=8)
    _draw_cares(both)
    for axes in (errors, lost, both):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    figure.legend(*errors.get_legend_handles_labels(), fontsize=7.5, frameon=False, ncols=7, loc="upper center",
                  columnspacing=1.2, handlelength=1.6)  # fmt: skip
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(IMAGES / "answer.png", dpi=150)
    plt.close(figure)


def _draw_cares(axes: plt.Axes) -> None:
    """What is forgotten against the error on the own structures, for everything that is done against it."""
    for care, arm, _, error, lost in answers.cares_points():
        axes.plot(error, lost, CARE_MARKS[care], color=ANSWER_STYLES[arm][0], ms=6)
    for care, marker in CARE_MARKS.items():
        axes.plot([], [], marker, color="#606060", ms=5, label=evidence.CARES[care])
    axes.axhline(1, color="#b0b0b0", lw=0.8)
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set_xlabel("force error / full fine-tuning's, 50 structures", fontsize=8)
    axes.set_ylabel("forces on SPICE, error after / before", fontsize=8)
    axes.legend(fontsize=7, frameon=False, title="against forgetting", title_fontsize=7)


def plot_arms() -> None:
    """Against the values trained, for every arm: force error over full fine-tuning's, and what was forgotten."""
    results = evidence.systems()
    held = [evidence.group_of(r) for r in results]
    groups = [group for group in evidence.GROUPS if held.count(group) >= FEWEST_SYSTEMS]
    figure, panels = plt.subplots(len(groups), 2, figsize=(7.4, 3.1 * len(groups) + 0.3), squeeze=False)
    for row, group in zip(panels, groups):
        mine = [r for r, its in zip(results, held) if its == group]
        for kind, colour in ARM_COLOURS.items():
            points = [_points(mine, key) for key in _arms_of(mine, kind)]
            for axes, of in zip(row, (1, 2)):
                for values, *ratios in points:
                    axes.plot([values] * len(ratios[of - 1]), ratios[of - 1], ".", color=colour, alpha=0.35, ms=5)
                means = [(point[0], statistics.geometric_mean(point[of])) for point in points]
                if means:
                    axes.plot(*zip(*means), "o-", color=colour, ms=7, lw=1, label=ARM_NAMES[kind])
        row[0].axhline(1, color=FULL, ls="--", lw=1)
        row[0].set_ylabel("force error / full fine-tuning's", fontsize=8)
        row[1].set_ylabel("force error on what the base knows,\nafter / before", fontsize=8)
        for axes in row:
            axes.set_title(f"{len(mine)} {evidence.GROUPS[group]}", fontsize=8)
            axes.set_xlabel("values trained", fontsize=8)
            axes.set_xscale("log")
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=7)
    figure.legend(*panels[0][0].get_legend_handles_labels(), fontsize=8, frameon=False, ncols=3, loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    figure.savefig(IMAGES / "arms.png", dpi=150)
    plt.close(figure)


def _arms_of(results: list[dict], kind: str) -> list[str]:
    """Keys of the arms of a kind, in the order of the values that they train."""
    rows = [item for r in results for item in evidence.trained(r).items()]
    found = {key: evidence.values_of(row) for key, row in rows if key.partition("_")[0] == kind}
    return sorted(found, key=lambda key: found[key])


def _points(results: list[dict], key: str) -> tuple[float, list[float], list[float]]:
    """Of an arm: values trained, errors over full fine-tuning's, and errors on what is known, after over before."""
    there = [(evidence.trained(r), evidence.untrained(r)) for r in results if key in evidence.trained(r)]
    of = evidence.FORCES
    values = statistics.geometric_mean(evidence.values_of(rows[key]) for rows, _ in there)
    errors = [rows[key]["test"][of][0] / rows["full"]["test"][of][0] for rows, _ in there]
    return values, errors, [evidence.forgetting(rows[key], base) for rows, base in there]


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    plot_answer()
    plot_arms()
