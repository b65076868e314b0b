"""Plots from the JSON files in bench/results: step times, and force error against the share of weights changed.

python bench/plot.py    # writes step.png, accuracy.png and demo_curves.png in docs/images
"""

from __future__ import annotations

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = pathlib.Path(__file__).parent.parent
RESULTS, IMAGES = ROOT / "bench" / "results", ROOT / "docs" / "images"
COLOURS = {"stock full": "#b0b0b0", "pathtune full": "#4c8bb8", "pathtune sparse": "#d1603d"}


def plot_steps() -> None:
    results = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("step_*.json"))]
    results = [r for r in results if "pathtune sparse" in r["median_seconds"]]
    figure, axes = plt.subplots(figsize=(7, 3.2))
    for i, r in enumerate(results):
        for k, (name, colour) in enumerate(COLOURS.items()):
            ms = 1000 * r["median_seconds"][name]
            axes.barh(i + (1 - k) * 0.26, ms, height=0.24, color=colour, label=name if i == 0 else None)
            note = "" if name == "stock full" else f"  {r['median_seconds']['stock full'] * 1000 / ms:.0f} x"
            axes.text(ms * 1.05, i + (1 - k) * 0.26, f"{ms:.0f} ms{note}", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 2.5)
    axes.set_yticks(range(len(results)), [f"{r['model']}\n{r['n_atoms']} atoms" for r in results], fontsize=8)
    axes.set_xlabel("one training step, ms (median, 2 cores)")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(IMAGES / "step.png", dpi=150)


def plot_accuracy() -> None:
    result = json.loads((RESULTS / "accuracy_ethanol.json").read_text())
    figure, axes = plt.subplots(figsize=(5, 3.2))
    colours = {"full": "#4c8bb8", "L": "#d1603d", "H": "#7a9a3b"}
    for run in result["runs"]:
        counts = run["counts"]
        share = 100.0 if run["arm"] == "full" else 100 * counts["active"] / counts["reachable_weights"]
        axes.plot(share, run["test"]["forces_mae_mev_a"], "o", ms=5, color=colours[run["arm"]], alpha=0.7)
    for arm, colour in colours.items():
        label = "full fine-tuning" if arm == "full" else f"sparse, schedule {arm}"
        axes.plot([], [], "o", color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xticks([15, 30, 60, 100], ["15", "30", "60", "100"])
    axes.minorticks_off()
    axes.set_xlabel("weights changed, % of the reachable adapted ones")
    axes.set_ylabel("force MAE on test, meV/A")
    axes.set_title(f"ethanol, {result['train']} structures, {result['epochs']} epochs", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(IMAGES / "accuracy.png", dpi=150)


def plot_demo_curves() -> None:
    result = json.loads((RESULTS / "demo.json").read_text())
    figure, axes = plt.subplots(figsize=(5, 3.2))
    shades = {(arm, lr): s for arm, lrs in result["learning_rates"].items() for lr, s in zip(lrs, (0.3, 0.6, 1.0))}
    for run in result["curves"]:
        if run["arm"] == "full" or run["target_share"] == result["share"]:
            colour = COLOURS["pathtune full" if run["arm"] == "full" else "pathtune sparse"]
            epochs, shade = range(1, len(run["curve"]) + 1), shades[run["arm"], run["lr"]]
            axes.plot(epochs, run["curve"], color=colour, alpha=shade, lw=1)
    for arm, label in (("pathtune full", "full fine-tuning"), ("pathtune sparse", "sparse")):
        axes.plot([], [], color=COLOURS[arm], label=f"{label}, 3 learning rates x {len(result['seeds'])} seeds")
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation loss")
    axes.set_title("demo: glycine, 50 structures", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(IMAGES / "demo_curves.png", dpi=150)


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    plot_steps()
    plot_accuracy()
    plot_demo_curves()
