"""Tables of force errors from bench/results: optimiser.jsonl and its like, for bench/tables.py."""

from __future__ import annotations

import json
import math
import pathlib
import statistics

RESULTS = pathlib.Path(__file__).parent / "results"
SYSTEMS = {
    "ethanol450": "ethanol, 450 structures, 2,280 steps",
    "3bpa": "3BPA, 450 structures, 2,280 steps",
    "ethanol50": "ethanol, 50 structures, 700 steps",
    "agau": "Ag-Au, 52 structures, 364 steps",
    "copper": "copper, 60 structures, 240 steps",
}
UNTOUCHED = {
    "salicylic": "salicylic acid, 100 structures, 780 steps",
    "paracetamol": "paracetamol, 100 structures, 780 steps",
    "lithium": "lithium, 60 structures, 240 steps",
    "tungsten": "tungsten, 60 structures, 240 steps",
    "hfo2": "HfO2, 60 structures, 240 steps",
}
ARMS = ("full", "auto", "10 %", "3 %")
Table = tuple[list[str], list[list[str]]]  # header and rows


def _runs(name: str) -> list[dict]:
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def _of(runs: list[dict], name: str, arm: str) -> list[dict]:
    return [r for r in runs if (r["set"], r["arm"]) == (name, arm)]


def _mean(runs: list[dict], key: str = "forces_mae_mev_a") -> float:
    return statistics.mean(r[key] for r in runs)


def body(systems: dict[str, str]) -> Table:
    """A row for each system and arm."""
    runs, lines = _runs("optimiser"), []
    for name, title in systems.items():
        full = _of(runs, name, "full")
        for arm in ARMS:
            mine = _of(runs, name, arm)
            if not mine:
                continue
            forces = [r["forces_mae_mev_a"] for r in mine]
            spread = f" (spread {max(forces) - min(forces):.1f})" if len(forces) > 1 else ""
            label = f"auto: {100 * mine[0]['share']:.3g} %" if arm == "auto" else arm
            lines.append(
                [title, label, f"{mine[0]['values']:,d}", f"{_mean(mine):.1f}{spread}"]
                + [f"{_mean(mine) / _mean(full):.2f}", f"{_mean(mine, 'energy_mae_mev_atom'):.2f}", str(len(mine))]
            )
    return ["system", "weights changed", "how many", "F meV/A", "/ full", "E meV/atom", "seeds"], lines


def ratios() -> Table:
    """Geometric means over the systems of the force error over full fine-tuning's."""
    runs, lines = _runs("optimiser"), []
    groups = {"chosen on": SYSTEMS, "untouched": UNTOUCHED, "all": {**SYSTEMS, **UNTOUCHED}}
    for title, systems in groups.items():
        line = [title]
        for arm in ("auto", "3 %"):
            there = [n for n in systems if _of(runs, n, arm) and _of(runs, n, "full")]
            logs = [math.log(_mean(_of(runs, n, arm)) / _mean(_of(runs, n, "full"))) for n in there]
            worst = max(there, key=lambda n: logs[there.index(n)], default="")
            found = f"{math.exp(statistics.mean(logs)):.3f} ({len(logs)} systems)" if logs else ""
            line += [found, f"{math.exp(max(logs)):.2f}, {worst}" if logs else ""]
        lines.append(line)
    return ["systems", "auto / full", "worst", "3 % / full", "worst"], lines


def frontier() -> Table:
    """Force error over full fine-tuning's, by share and amount of data."""
    runs = _runs("frontier")
    scopes = {None: None, "linear": "linear"}  # else every kind that the model has
    found = {(r["set"], r["frames"], r["share"], scopes.get(r["scope"], "more")): r["forces_mae_mev_a"] for r in runs}
    columns, arms = sorted({key[:2] for key in found}), sorted({key[:1:-1] for key in found if key[2]})
    lines = [["full, meV/A", *(f"{found[*column, None, None]:.1f}" for column in columns)]]
    for scope, share in arms:
        there = [c for c in columns if (*c, share, scope) in found]
        ratio = {c: f"{found[*c, share, scope] / found[*c, None, None]:.2f}" for c in there}
        label = f"{100 * share:g} %{'' if scope == 'linear' else ' of all scopes'}"
        lines.append([label, *(ratio.get(column, "") for column in columns)])
    return ["weights changed", *(f"{name}, {n}" for name, n in columns)], lines


def sweeps() -> Table:
    """What `choose_share` answered (bench/choose.py) against full-length runs at every share it tried."""
    grid = {(r["set"], r["frames"], r["share"]): r for r in _runs("frontier") if r["scope"] in (None, "linear")}
    lines, near, costs = [], [], []
    for r in _runs("choose"):
        tried = [None if p["is_full"] else p["share"] for p in r["points"]]
        runs = {share: grid[r["set"], r["frames"], share] for share in tried}
        errors = {share: run["forces_mae_mev_a"] for share, run in runs.items()}
        answer = None if r["is_full_better"] else r["share"]
        costs.append(r["cpu_seconds"] / sum(run["cpu_seconds"] for run in runs.values()))
        near.append(errors[answer] / min(errors.values()))
        best = min(errors, key=lambda share: errors[share])
        words = ["full" if share is None else f"{100 * share:g} %" for share in (answer, best)]
        lines.append([f"{r['set']}, {r['frames']}", *words, f"{near[-1]:.3f}", f"{costs[-1]:.2f}"])
    within = f"{sum(ratio <= 1.03 for ratio in near)} of {len(near)} within 3 %"
    lines.append(["all", "", "", within, f"{statistics.median(costs):.2f}"] if near else [])
    return ["structures", "answer", "lowest error", "error of the answer / lowest", "seconds / all runs"], lines


VARIANTS = {  # factor of the default rate, warm-up, beta2: what is searched in rates.jsonl
    "default": (1.0, 0.0, 0.999), "half the rate": (0.5, 0.0, 0.999), "a quarter": (0.25, 0.0, 0.999),
    "twice": (2.0, 0.0, 0.999), "warm-up": (1.0, 0.1, 0.999), "warm-up, half": (0.5, 0.1, 0.999),
    "beta2 0.99": (1.0, 0.0, 0.99), "beta2 0.95": (1.0, 0.0, 0.95),
}  # fmt: skip


def rates() -> Table:
    """Force errors of seed 0 by rate, warm-up and beta2; in brackets the energy's."""
    runs = [r for r in _runs("rates") if r["seed"] == 0]
    names = dict.fromkeys((r["set"], r["arm"]) for r in runs)
    defaults = [r for r in _runs("optimiser") if r["seed"] == 0] + [
        {**r, "set": f"nequix-{r['set']}"} for r in _runs("nequix_fits") if (r["seed"], r["factor"]) == (0, 1.0)
    ]
    lines = []
    for name, arm in names:
        mine = {(r["factor"], r["warm_up"], r["beta2"]): r for r in _of(runs, name, arm)}
        mine.setdefault(VARIANTS["default"], next(iter(_of(defaults, name, arm)), None))
        lines.append([f"{name}, {arm}", *(_errors(mine.get(v)) for v in VARIANTS.values())])
    return ["set, weights changed", *VARIANTS], lines


def adamw() -> Table:
    """AdamW at its best rate by validation against schedule-free, seed 0."""
    runs, lines = _runs("adamw"), []
    for name, arm in dict.fromkeys((r["set"], r["arm"]) for r in runs):
        mine = _of(runs, name, arm)
        best = min(mine, key=lambda r: r["valid_loss"])
        ours = next(r for r in _of(_runs("optimiser"), name, arm) if r["seed"] == 0)
        lines.append([f"{name}, {arm}", f"{best['rate']:g}", _errors(best), _errors(ours)])
    return ["set, weights changed", "rate of AdamW", "AdamW", "schedule-free"], lines


def radial() -> Table:
    """`auto` with and without radial weights: means over the seeds of force errors, in brackets of energies."""
    runs = [r for r in _runs("rates") if (r["factor"], r["warm_up"], r["beta2"]) == VARIANTS["default"]]
    lines = []
    for name in ("agau", "copper", "titanium"):
        arms = ("full", "auto", "auto with radial")
        found = {arm: _of(_runs("optimiser"), name, arm) or _of(runs, name, arm) for arm in arms}
        n_seeds = {len({r["seed"] for r in mine}) for mine in found.values()}
        cells = [f"{_mean(mine):.1f} ({_mean(mine, 'energy_mae_mev_atom'):.1f})" for mine in found.values()]
        lines.append([name, *cells, str(min(n_seeds))])
    return ["set", "all weights", "auto", "auto with radial weights", "seeds"], lines


def _errors(run: dict | None) -> str:
    return f"{run['forces_mae_mev_a']:.1f} ({run['energy_mae_mev_atom']:.1f})" if run else ""


def epochs() -> Table:
    """Force errors of shorter runs over that of the longest run of full fine-tuning, geometric means over the sets."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for name, arm, n in dict.fromkeys((r["set"], r["arm"], r["epochs"]) for r in _runs("epochs")):
        mine = [r for r in _runs("epochs") if (r["set"], r["arm"], r["epochs"]) == (name, arm, n)]
        found.setdefault((arm, n), {})[name] = _mean(mine)
    lengths = sorted({n for _, n in found})
    whole = found["full", lengths[-1]]
    lines = []
    for arm, title in (("full", "full fine-tuning"), ("kron", "full, Kronecker basis")):
        ratios = [statistics.geometric_mean(found[arm, n][name] / whole[name] for name in whole) for n in lengths]
        lines.append([title, *(f"{ratio:.2f}" for ratio in ratios)])
    return ["", *(f"{n} epochs" for n in lengths)], lines
