"""Plots from the JSON files in bench/results: step times, and force error against the share of weights changed.

python bench/plot.py    # writes step, accuracy, demo_curves, time_to_error and frontier.png in docs/images
"""

from __future__ import annotations

import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import tables

ROOT = pathlib.Path(__file__).parent.parent
RESULTS, IMAGES = ROOT / "bench" / "results", ROOT / "docs" / "images"
COLOURS = {"stock full": "#b0b0b0", "pathtune full": "#4c8bb8", "pathtune sparse": "#d1603d"}


def plot_steps() -> None:
    results = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("step_*.json"))]
    results = [r for r in results if "pathtune sparse" in r["median_seconds"]]
    figure, axes = plt.subplots(figsize=(7, 1 + 0.72 * len(results)))
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
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(IMAGES / "step.png", dpi=150)


def plot_accuracy() -> None:
    files = {"ethanol": "ethanol", "3bpa": "3BPA", "ge": "germanium"}
    figure, panels = plt.subplots(1, 3, figsize=(9, 3))
    for axes, (case, title) in zip(panels, files.items()):
        result = json.loads((RESULTS / f"accuracy_{case}.json").read_text())
        full = next(row for row in result["table"] if row["arm"] == "full")["forces_mae_mev_a"][0]
        axes.axhline(full, color="#4c8bb8", ls="--", label="full fine-tuning")
        marks = (("sparse 3 %", "#d1603d", "pathtune, 3 % and 1 %"), ("sparse 1 %", "#d1603d", None),
                 ("L", "#7a9a3b", "the paper's L and H"), ("H", "#7a9a3b", None))  # fmt: skip
        for arm, colour, label in marks:
            row = next((row for row in result["table"] if row["arm"] == arm), None)
            if row:
                share = 100 * row["active_share_of_reachable_weights"]
                axes.plot(share, row["forces_mae_mev_a"][0], "o", color=colour, label=label)
        axes.set_xscale("log")
        axes.set_xlim(0.7, 130)
        axes.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
        axes.minorticks_off()
        axes.set_ylim(0.94 * full, 1.25 * full)
        axes.set_title(f"{title}, {result['epochs']} epochs", fontsize=9)
        axes.set_xlabel("weights changed, % of the reachable", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("force MAE on test, meV/A")
    panels[0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(IMAGES / "accuracy.png", dpi=150)


def plot_demo_curves() -> None:
    result = json.loads((RESULTS / "demo.json").read_text())
    figure, axes = plt.subplots(figsize=(5, 3.2))
    shades = {(arm, lr): s for arm in ("full", "sparse") for lr, s in zip(result["learning_rates"], (0.3, 0.6, 1.0))}
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


TIME_ARMS = {"full": "pathtune full", "sparse 10 %": "pathtune sparse", "sparse 3 %": "pathtune sparse"}


def plot_time_to_error() -> None:
    """Test error against seconds of the processor: every point is a whole command."""
    runs = [json.loads(line) for line in (RESULTS / "time_to_error.jsonl").read_text().splitlines()]
    names = [name for name in tables.TIME_SETS if tables.is_complete(runs, name)]
    figure, panels = plt.subplots(1, len(names), figsize=(3.2 * len(names), 3.2), squeeze=False)
    for axes, name in zip(panels[0], names):
        mine = [r for r in runs if r["set"] == name]
        stock = [r for r in mine if r["rate"]]
        best = min(stock, key=lambda r: r["valid_forces_mae_mev_a"])
        axes.axhline(best["test_forces_mae_mev_a"], color="#b0b0b0", ls="--", lw=1)
        axes.plot([r["cpu_seconds"] for r in stock], [r["test_forces_mae_mev_a"] for r in stock], "s", color="#808080",
                  label="mace_run_train, 40 epochs, 3 rates")  # fmt: skip
        for arm, colour in TIME_ARMS.items():
            by_length = sorted((r for r in mine if r["arm"] == arm), key=lambda r: r["epochs"])
            points = [(r["cpu_seconds"], r["test_forces_mae_mev_a"]) for r in by_length]
            style = "o:" if arm == "sparse 3 %" else "o-"
            label = "pathtune, all weights" if arm == "full" else f"pathtune, {arm.removeprefix('sparse ')}"
            axes.plot(*zip(*points), style, color=COLOURS[colour], label=label, ms=4, lw=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([5, 10, 30, 100, 300], ["5", "10", "30", "100", "300"])
        low, high = axes.get_ylim()
        ticks = [t for t in (10, 15, 20, 30, 35, 40, 45, 50, 60, 80) if low <= t <= high]
        axes.set_yticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_title(tables.TIME_SETS[name], fontsize=9)
        axes.set_xlabel("seconds of one core, whole command", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("force MAE on test, meV/A")
    figure.legend(*panels[0][0].get_legend_handles_labels(), fontsize=7, frameon=False, ncols=4, loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(IMAGES / "time_to_error.png", dpi=150)


def plot_frontier() -> None:
    """Force error over full fine-tuning's against the share, for three amounts of data."""
    runs = [json.loads(line) for line in (RESULTS / "frontier.jsonl").read_text().splitlines()]
    titles = {"ethanol": "ethanol", "3bpa": "3BPA", "titanium": "titanium"}
    names = [n for n in titles if any(r["set"] == n for r in runs)]
    figure, panels = plt.subplots(1, len(names), figsize=(3.4 * len(names), 3.2), sharey=True, squeeze=False)
    for axes, name in zip(panels[0], names):
        mine = [r for r in runs if r["set"] == name]
        for n, shade in zip(sorted({r["frames"] for r in mine}), ("#f0b08a", "#d1603d", "#7a2f14")):
            there = [r for r in mine if r["frames"] == n]
            full = next(r["forces_mae_mev_a"] for r in there if r["share"] is None)
            linear = sorted((r for r in there if r["scope"] == "linear"), key=lambda r: r["share"])
            points = [(100 * r["share"], r["forces_mae_mev_a"] / full) for r in linear]
            axes.plot(*zip(*points), "o-", color=shade, ms=4, lw=1.2, label=f"{n} structures")
        axes.axhline(1, color="#4c8bb8", ls="--", lw=1)
        axes.set_xscale("log")
        axes.set_xticks([0.5, 1, 3, 10, 30, 100], ["0.5", "1", "3", "10", "30", "100"])
        axes.minorticks_off()
        axes.set_title(titles[name], fontsize=9)
        axes.set_xlabel("weights changed, % of the reachable linear ones", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7, frameon=False)
    panels[0][0].set_ylabel("force error / full fine-tuning's")
    figure.tight_layout()
    figure.savefig(IMAGES / "frontier.png", dpi=150)


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    plot_steps()
    plot_accuracy()
    plot_demo_curves()
    plot_time_to_error()
    plot_frontier()
