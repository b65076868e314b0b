"""Write the tables of README.md and of docs/*.md from the JSON files in bench/results.

    python bench/tables.py            # rewrite what stands between the markers
    python bench/tables.py --check    # exit status 1 when a table is not what the JSON says
"""

from __future__ import annotations

import json
import pathlib
import re
import statistics
import sys

import evidence
import evidence_answers
import gpu_tables
import interpretation_classes
import interpretation_map
import magnetism_tables
import nequix_tables
import optimiser_tables
import scale

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
STEPS = ("step_mp-0b3-medium", "step_off23-medium", "step_demo", "step_sevennet-0", "step_mh-1", "step_sevennet-l3i5",
         "step_sevennet-mf-ompa", "step_nequip-m")  # fmt: skip


def rows(header: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def step_table() -> str:
    body = []
    for name in STEPS:
        if not (RESULTS / f"{name}.json").exists():
            continue
        r = load(name)
        ms = {key: f"{1000 * value:.0f} ms" for key, value in r["median_seconds"].items()}
        body.append([
            f"{r['model']}, {r['n_atoms']} atoms, {r['n_edges']} edges", ms["stock full"],
            f"{ms['pathtune full']} ({r['ratio']['full step']:.1f} x)",
            f"{ms['pathtune sparse']} ({r['ratio']['step']:.1f} x)",
            f"{ms['stock inference']} -> {ms['pathtune inference']} ({r['ratio']['inference']:.1f} x)",
            f"{r['peak_bytes']['ratio']:.1f} x less", f"{r['floor']['distance']:.1f} x",
        ])  # fmt: skip
    header = ["shape", "stock, all weights", "pathtune, all weights", "pathtune, 3 % of the reachable",
              "energy + forces", "peak memory", "from the floor"]  # fmt: skip
    return rows(header, body)


def kron_step_table() -> str:
    body = []
    for file in sorted(RESULTS.glob("step_kron_*.json")):
        r = json.loads(file.read_text())
        full, kron = (1000 * r["median_seconds"][f"pathtune {arm}"] for arm in ("full", "kron"))
        body.append([f"{r['model']}, {r['n_atoms']} atoms", f"{full:.0f} ms", f"{kron:.0f} ms", f"{kron / full:.2f}"])
    return rows(["shape", "full fine-tuning", "Kronecker basis", "ratio"], body)


TIME_SETS = {
    "ethanol450": "ethanol, 450 structures",
    "3bpa": "3BPA, 450 structures",
    "aspirin100": "aspirin, 100 structures",
}


def is_complete(runs: list[dict], name: str) -> bool:
    """Whether all three rates of mace_run_train and a long run of every arm of pathtune are there."""
    mine = [r for r in runs if r["set"] == name]
    return len([r for r in mine if r["rate"]]) == 3 and len([r for r in mine if r["epochs"] == 40]) == 6


def time_table() -> str:
    """The shortest command of each arm whose test force error is at or below mace_run_train's."""
    runs = [json.loads(line) for line in (RESULTS / "time_to_error.jsonl").read_text().splitlines()]
    body = []
    for name, title in TIME_SETS.items():
        if not is_complete(runs, name):
            continue
        mine = [r for r in runs if r["set"] == name]
        best = min((r for r in mine if r["rate"]), key=lambda r: r["valid_forces_mae_mev_a"])
        target, seconds = best["test_forces_mae_mev_a"], best["cpu_seconds"]
        row = [title, f"{target:.1f} in {seconds:.0f} s (rate {best['rate']})"]
        for arm in ("full", "sparse 10 %", "sparse 3 %"):
            there = [r for r in mine if r["arm"] == arm and r["test_forces_mae_mev_a"] <= target]
            found = min(there, key=lambda r: r["cpu_seconds"], default=None)
            row.append(
                f"{found['test_forces_mae_mev_a']:.1f} in {found['cpu_seconds']:.0f} s, {found['epochs']} epochs: "
                f"{seconds / found['cpu_seconds']:.1f} x faster"
                if found
                else f"not reached: {min(r['test_forces_mae_mev_a'] for r in mine if r['arm'] == arm):.1f} at best"
            )
        body.append(row)
    header = ["system", "mace_run_train, best of three rates, 40 epochs", "pathtune, all weights", "pathtune, 10 %",
              "pathtune, 3 %"]  # fmt: skip
    return rows(header, body)


ERRORS = {"energy_mae_mev_atom": "E meV/atom", "forces_mae_mev_a": "F meV/A", "stress_mae_gpa": "stress GPa"}


def accuracy_table(name: str, arms: tuple[str, ...] = ()) -> str:
    """The arms named, or all."""
    r = load(name)
    keys = [key for key in ERRORS if key in r["zero_shot"]]
    header = ["arm", "learning rate", "seeds", *(ERRORS[key] for key in keys), "F against full",
              "weights changed: of the reachable, of all", "F at step 0, validation", "s"]  # fmt: skip
    body = []
    for label, field in (("zero-shot", "zero_shot"), ("zero-shot, E0 refit", "zero_shot_e0")):
        body.append([label, "", "", *(f"{r[field][key]:.2f}" for key in keys), "", "none", "", ""])
    full = next(row for row in r["table"] if row["arm"] == "full")
    for row in r["table"]:
        if arms and row["arm"] not in arms:
            continue
        spread = row["n_seeds"] > 1  # one seed has none to show
        errors = [f"{row[key][0]:.2f}" + (f" (spread {row[key][1]:.2f})" if spread else "") for key in keys]
        changed = "all"
        if "active_share_of_all_weights" in row:
            shares = (row["active_share_of_reachable_weights"], row["active_share_of_all_weights"])
            changed = ", ".join(f"{100 * share:.3g} %" for share in shares)
        ratio = row["forces_mae_mev_a"][0] / full["forces_mae_mev_a"][0]
        label = {"full": "full fine-tuning", "L": "the paper's L", "H": "the paper's H"}.get(row["arm"], row["arm"])
        rate = f"{row['lr']:g} of {', '.join(f'{lr:g}' for lr in row['lrs'])}"
        step_0, seconds = f"{row['valid_forces_at_step_0']:.0f}", f"{row['seconds']:.0f}"
        body.append([label, rate, str(row["n_seeds"]), *errors, f"{ratio:.2f}", changed, step_0, seconds])
    return rows(header, body)


def sevennet_table() -> str:
    """Per set and arm, at the learning rate with the lowest validation loss of each seed: mean over the seeds."""
    lines = [json.loads(line) for line in (RESULTS / "accuracy_sevennet.jsonl").read_text().splitlines()]
    keys = ("energy_mae_mev_atom", "forces_mae_mev_a", "stress_mae_gpa")
    header = ["set", "arm", "learning rate", "E meV/atom", "F meV/A", "stress GPa",
              "changed, of reachable / adapted / all", "seconds", "peak MB", "F on MPtrj, meV/A"]  # fmt: skip
    body = []
    for name in dict.fromkeys(line["set"] for line in lines):
        mine = [line for line in lines if line["set"] == name]
        for arm in dict.fromkeys(line["arm"] for line in mine):
            runs = [line for line in mine if line["arm"] == arm]
            if arm == "zero-shot":
                for label, test in (("zero-shot", "test"), ("zero-shot, E0 refit", "test_e0")):
                    errors = [f"{runs[0][test][key]:.1f}" if key in runs[0][test] else "" for key in keys]
                    kept = f"{runs[0]['retention_forces_mae_mev_a']:.1f}"
                    body.append([name, label, "", *errors, "none", "", "", kept])
                continue
            best = [min((r for r in runs if r["seed"] == seed), key=lambda r: r["valid_loss"])
                    for seed in sorted({r["seed"] for r in runs})]  # fmt: skip
            body.append([name, arm, *_best_runs(best, keys)])
    return rows(header, body)


def _best_runs(runs: list[dict], keys: tuple[str, ...]) -> list[str]:
    def mean(of, digits: int = 1) -> str:
        values = [of(r) for r in runs]
        spread = f" (spread {max(values) - min(values):.{digits}f})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    errors = [mean(lambda r, key=key: r["test"][key], 2) if key in runs[0]["test"] else "" for key in keys]
    counts, changed = runs[0]["counts"], "all"
    if counts["active"]:
        changed = " / ".join(f"{100 * counts['active'] / counts[f'{of}_weights']:.2f} %"
                             for of in ("reachable", "adapted", "all"))  # fmt: skip
    seconds = statistics.median(r["seconds"] for r in runs)
    peaks = json.loads((RESULTS / "memory_sevennet.json").read_text())["peak_bytes"]
    peak = peaks[runs[0]["set"]][runs[0]["arm"]] / 1e6
    return [", ".join(dict.fromkeys(f"{r['lr']:g}" for r in runs)), *errors, changed, f"{seconds:.0f}", f"{peak:.0f}",
            mean(lambda r: r["retention_forces_mae_mev_a"])]  # fmt: skip


def cost_table() -> str:
    """Bytes, FLOPs and floor of each call, and what the emulator counted against the model."""
    r, counted = load("cost_model"), {(c["kernel"], c["call"]): c for c in load("emulated_traffic")["rows"]}
    body = []
    small, large = r["tables"]["1000"], r["tables"]["100000"]
    for a, b in zip(small, large):
        measured = counted.get((a["kernel"], a["call"]))
        ratio = f"{measured['ratio']:.2f}" if measured else ""
        body.append([a["kernel"], a["call"], f"{a['mbytes']:.3g}", f"{a['mflop']:.3g}", f"{a['floor_us']:.3g}",
                     f"{b['floor_us'] / 1000:.3g}", a["bound"], ratio])  # fmt: skip
    total = [sum(row["floor_us"] for row in table) for table in (small, large)]
    body.append(["all", "", "", "", f"{total[0]:.4g}", f"{total[1] / 1000:.4g}", "", ""])
    return rows(["operator", "call", "MB, 1,000 atoms", "MFLOP", "floor, us", "floor at 100,000 atoms, ms", "bound by",
                 "counted / model"], body)  # fmt: skip


def defect_table() -> str:
    """How many planted defects each check found first."""
    found = json.loads((RESULTS / "planted_defects.json").read_text())
    checks = ("values or emulator", "asan", "tsan", None)
    body = []
    for operator in dict.fromkeys(row["operator"] for row in found):
        mine = [row["found_by"] for row in found if row["operator"] == operator]
        body.append([operator, str(len(mine)), *(str(mine.count(check)) for check in checks)])
    header = ["operator", "planted", "wrong values or the emulator's report", "ASan + UBSan", "TSan", "not found"]
    return rows(header, body)


def reliability_table() -> str:
    """What became of changed files and command lines."""
    titles = {"adapters": "adapter files", "structures": "structure files", "configs": "config files of a fit",
              "commands": "command lines", "folders": "folders that are read again"}  # fmt: skip
    body = [
        [titles[name], *(f"{r[key]:,d}" for key in ("trials", "refused", "accepted", "failed")),
         f"{r['most_seconds']:.2f}", f"{r['most_megabytes']:.0f}"]
        for name, r in load("reliability").items()
    ]  # fmt: skip
    header = ["what is changed", "trials", "refused in one sentence", "accepted, and sound", "law broken",
              "most seconds", "most MB"]  # fmt: skip
    return rows(header, body)


def planted_table() -> str:
    """Planted mistakes of convention, by set, and how many were named."""
    body = []
    for model, found in load("conventions").items():
        for name in dict.fromkeys(row["set"] for row in found["planted"]):
            mine = [row for row in found["planted"] if row["set"] == name and row["mistake"]]
            quiet = all(row["is_named"] for row in found["planted"] if row["set"] == name and not row["mistake"])
            named = sum(row["is_named"] for row in mine)
            body.append([model, name, str(len(mine)), str(named), "none" if quiet else "yes"])
    return rows(["model", "set", "kinds planted", "named", "alarm with nothing planted"], body)


def alarm_table() -> str:
    """Sets as they are, and how many raised an alarm."""
    body = [
        [model, str(len(found["sets"])), str(sum(row["alarm"] is not None for row in found["sets"]))]
        for model, found in load("conventions").items()
    ]
    return rows(["model", "training sets as they are", "alarms"], body)


def trained_table() -> str:
    """Sets as they are, trained on for three epochs, and what was said of them."""
    body = []
    for model, found in load("conventions").items():
        runs = list(found.get("trained", {}).values())
        done = [run for run in runs if run["status"] in (0, 1)]
        worse = sum(run["is_worse"] for run in done)
        warned = sum(bool(run["warnings"]) and not run["is_worse"] for run in done)
        trained = f"{len(runs)} of {len(found['sets'])}"
        body.append([model, trained, str(len(runs) - len(done)), str(worse), str(warned)])
    header = ["model", "sets trained on", "stopped before training", "ended worse", "a label no better than a guess"]
    return rows(header, body)


def mean_and_spread(value: list[float], digits: int) -> str:
    mean, spread = value
    return f"{mean:,.{digits}f}" + (f" (spread {spread:,.{digits}f})" if spread else "")


def demo_table() -> str:
    body = []
    for row in load("demo")["rows"]:
        changed, share, size, seconds = (row[key][0] for key in ("changed", "share", "bytes", "seconds"))
        body.append([
            row["arm"], mean_and_spread(row["energy_mae_mev_atom"], 2), mean_and_spread(row["forces_mae_mev_a"], 1),
            f"{changed:,.0f} ({100 * share:.3g} %)" if changed else "none",
            f"{size / 1000:.0f}" if changed else "", f"{seconds:.0f}" if changed else "",
        ])  # fmt: skip
    r = load("demo")
    table = rows(["arm", "E meV/atom", "F meV/A", "weights changed", "to store, kB", "training, s"], body)
    return f"{table}\n\n{r['options']['epochs']} epochs; seeds {', '.join(map(str, r['seeds']))}."


def share_table() -> str:
    body = [[f"{100 * s['target_share']:g} %", f"{100 * s['active_share'][0]:.2f} %",
             mean_and_spread(s["forces_mae_mev_a"], 1)] for s in load("demo")["shares"]]  # fmt: skip
    return rows(["target share", "weights changed", "F meV/A"], body)


def demo_model_table() -> str:
    p = json.loads((ROOT / "python" / "pathtune" / "demo" / "model.json").read_text())["provenance"]
    total = load("demo")
    body = [
        ["weights", f"{p['n_weights']:,d}"],
        ["pretraining structures, GFN2-xTB", f"{p['n_train']:,d}"],
        ["epochs, best epoch", f"{p['epochs_done']}, {p['best_epoch']}"],
        ["held-out molecules", ", ".join(p["held_out_molecules"])],
        ["E MAE on those", f"{p['held_out']['energy_mae_mev_atom']:.1f} meV/atom"],
        ["F MAE on those", f"{p['held_out']['forces_mae_mev_a']:.1f} meV/A"],
        ["one demo, start to table", f"{max(total['wall_seconds']):.0f} s at most, {total['threads']} thread(s)"],
        ["peak memory of a demo", f"{max(total['peak_bytes']) / 1e9:.2f} GB"],
    ]
    return rows(["", ""], body)


DOCUMENTS = ("interpretation", "results", "results-before-0010", "gpu", "reliability", "scale", "magnetism",
             "decisions/0010-optimiser")  # fmt: skip
def scaling_table() -> str:
    per_atom = load("scaling")["ms_per_atom"]
    return rows(["atoms", *per_atom], [["ms per atom and step", *(f"{v:.2f}" for v in per_atom.values())]])


def operator_table() -> str:
    body = [[r["operator"], r["shape"], r["pass"], f"{r['stock_ms']:.2f}", f"{r['ours_ms']:.3f}", f"{r['ratio']:.1f} x"]
            for r in load("operators")["rows"]]  # fmt: skip
    return rows(["operator", "shape", "pass", "stock ms", "pathtune ms", "ratio"], body)


TABLES = {
    "interpretation": lambda: rows(*interpretation_classes.table()),
    **{name: (lambda make=make: rows(*make())) for name, make in interpretation_map.TABLES.items()},
    "adamw": lambda: rows(*optimiser_tables.adamw()),
    "radial": lambda: rows(*optimiser_tables.radial()),
    "epochs": lambda: rows(*optimiser_tables.epochs()),
    "rates": lambda: rows(*optimiser_tables.rates()),
    "sweeps": lambda: rows(*optimiser_tables.sweeps()),
    "frontier": lambda: rows(*optimiser_tables.frontier()),
    **{name: (lambda make=make: rows(*make())) for name, make in scale.TABLES.items()},
    **{name: (lambda make=make: rows(*make())) for name, make in magnetism_tables.TABLES.items()},
    "demo": demo_table,
    "optimiser": lambda: rows(*optimiser_tables.body(optimiser_tables.SYSTEMS)),
    "untouched": lambda: rows(*optimiser_tables.body(optimiser_tables.UNTOUCHED)),
    "optimiser_ratios": lambda: rows(*optimiser_tables.ratios()),
    "evidence": lambda: rows(*evidence.forces_table()),
    "arms": lambda: rows(*evidence.arms_table()),
    "claims": lambda: rows(*evidence.claims()),
    "answer": lambda: rows(*evidence_answers.answer_table()),
    "curves": lambda: rows(*evidence_answers.curves_table()),
    "ablation": lambda: rows(*evidence_answers.ablation_table()),
    "elsewhere": lambda: rows(*evidence_answers.elsewhere_table()),
    "cares": lambda: rows(*evidence_answers.cares_table()),
    "seconds": lambda: rows(*evidence_answers.seconds_table()),
    "demo_model": demo_model_table,
    "demo_shares": share_table,
    "scaling": scaling_table,
    "operators": operator_table,
    "kron_step": kron_step_table,
    "step": step_table,
    "time": time_table,
    "sevennet": sevennet_table,
    "nequix_agreement": lambda: rows(*nequix_tables.agreement()),
    "nequix_fits": lambda: rows(*nequix_tables.fits()),
    "nequix_step": lambda: rows(*nequix_tables.step()),
    "gpu_resources": lambda: rows(*gpu_tables.resource_table()),
    "gpu_costs": cost_table,
    "gpu_launches": lambda: rows(*gpu_tables.launch_table()),
    "gpu_traffic": lambda: rows(*gpu_tables.traffic_table()),
    "gpu_issued": lambda: rows(*gpu_tables.issued_table()),
    "gpu_defects": defect_table,
    "reliability": reliability_table,
    "planted": planted_table,
    "alarms": alarm_table,
    "trained": trained_table,
    "ethanol": lambda: accuracy_table("accuracy_ethanol"),
    "ethanol_short": lambda: accuracy_table("accuracy_ethanol", ("full", "sparse 3 %", "sparse 1 %", "L", "H")),
    "3bpa": lambda: accuracy_table("accuracy_3bpa"),
    "ethanol_sevennet": lambda: accuracy_table("accuracy_ethanol_sevennet"),
    "ge": lambda: accuracy_table("accuracy_ge"),
}


def render(text: str) -> str:
    """The text with every block between `<!-- table: NAME -->` and `<!-- end -->` made anew."""
    pattern = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.S)
    return pattern.sub(lambda m: f"{m.group(1)}{TABLES[m.group(2)]()}\n{m.group(3)}", text)


def main() -> int:
    stale = []
    for file in (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in DOCUMENTS)):
        text = file.read_text()
        if render(text) != text:
            stale.append(file.name)
            if "--check" not in sys.argv:
                file.write_text(render(text))
    print("rewritten:" if "--check" not in sys.argv else "stale:", ", ".join(stale) or "none")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
