"""Tables of docs/magnetism.md, of what bench/magnetism*.py measured."""

import json
import pathlib
import statistics

RESULTS = pathlib.Path(__file__).parent / "results"
E, F, T = "energy_mae_mev_atom", "forces_mae_mev_a", "magforces_mae_mev_mu_b"


def lines_of(name):
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def shown(value, form="{:.3g}"):
    return "-" if value is None else form.format(value)


def start():
    """Before any step of training."""
    body = [[line["set"], line["layer"], *(shown(line.get(key)) for key in (E, F, T))]
            for line in lines_of("magnetism")]  # fmt: skip
    return ["set", "layer", "E meV/atom", "F meV/A", "T meV/mu_B"], body


def check():
    """E against T."""
    body = []
    for line in lines_of("magnetism"):
        found = line.get("check")
        if line["layer"] == "start" and found:
            says = "yes" if found["explained"] > 0.9 and found["factor"] > 0 else "no"
            factor = f"{found['factor']:.3f} +- {found['error']:.3f}"
            body.append([line["set"], factor, f"{100 * found['explained']:.1f} %", says])
    return ["set", "factor of T", "energies explained", "is it known"], body


def chosen():
    """By set and arm, the line of the lowest validation loss of each seed."""
    lines = lines_of("magnetism_trained")
    keys = dict.fromkeys((line["set"], line["arm"]) for line in lines)
    found = {}
    for name, arm in keys:
        mine = [line for line in lines if (line["set"], line["arm"]) == (name, arm)]
        seeds = sorted({line["seed"] for line in mine})
        found[name, arm] = [min((r for r in mine if r["seed"] == s), key=lambda r: r["valid_loss"]) for s in seeds]
    return found


def mean(runs, key):
    """Over seeds, with the largest minus the smallest in brackets."""
    values = [run["test"][key] for run in runs if key in run["test"]]
    if not values:
        return "-"
    spread = f" ({max(values) - min(values):.2g})" if len(values) > 1 else ""
    return shown(statistics.mean(values)) + spread


def trained():
    """Test errors of the trained arms."""
    body = []
    for (name, arm), runs in chosen().items():
        first = runs[0]
        n_rates = len({r["factor"] for r in lines_of("magnetism_trained") if (r["set"], r["arm"]) == (name, arm)})
        sizes = [f"{first['n_changed'] - first['n_spin']:,d}", f"{first['n_spin']:,d}"]
        seconds = statistics.mean(run["cpu_s"] for run in runs)
        errors = [mean(runs, key) for key in (E, F, T)]
        body.append([name, arm, str(len(runs)), str(n_rates), str(first["steps"]), *errors, *sizes, f"{seconds:.0f} s"])
    header = ["set", "arm", "seeds", "rates", "steps", "E meV/atom", "F meV/A", "T meV/mu_B", "weights",
              "spin values", "processor"]  # fmt: skip
    return header, body


def groups():
    """Those of fe_fcc_deepspin by temperature."""
    body = []
    for (name, arm), runs in chosen().items():
        if name == "fe_fcc_deepspin":
            body.append([arm, *(" / ".join(mean(runs, f"{group} {key}") for group in ("cold", "warm", "hot"))
                                for key in (E, F, T))])  # fmt: skip
    return ["arm", "E meV/atom, cold / warm / hot", "F meV/A", "T meV/mu_B"], body


def lengths():
    """|m| as an output."""
    r = json.loads((RESULTS / "magnetism_lengths.json").read_text())
    best = [min((h for h in r["heads"] if h["seed"] == s), key=lambda h: h["valid"]) for s in (0, 1, 2)]
    body = [["mean of the training set", *(f"{r['mean'][key]:.3f}" for key in ("test", "transfer"))],
            ["ridge regression on the features", *(f"{r['ridge'][key]:.3f}" for key in ("test", "transfer"))],
            [f"head, mean of {len(best)} seeds",
             *(f"{statistics.mean(h[key] for h in best):.3f}" for key in ("test", "transfer"))]]  # fmt: skip
    return ["error of a length, mu_B", "fe_snap_collinear, test", "iron of mp_fe_li_v_static"], body


def several():
    """Where a length is no function of positions."""
    r = json.loads((RESULTS / "magnetism_lengths.json").read_text())["several"]
    body = [[str(r["groups"]), str(r["frames"]), f"{r['most_mu_b']:.2f} mu_B", f"{r['most_mev_atom']:.0f} meV/atom"]]
    return ["groups of equal positions with other lengths", "frames", "lengths differ by up to", "energies by"], body


def step():
    """What a spin layer adds to a step."""
    r = json.loads((RESULTS / "magnetism_step.json").read_text())
    body = [[arm, f"{one['plain_ms']:.0f} ms", f"{one['pair_ratio']:.2f} x", f"{one['many-body_ratio']:.2f} x"]
            for arm, one in r.items()]  # fmt: skip
    return ["arm", "step without spin", "with pair", "with many-body"], body


TABLES = {"spin_start": start, "spin_check": check, "spin_trained": trained, "spin_groups": groups,
          "spin_lengths": lengths, "spin_several": several, "spin_step": step}  # fmt: skip
