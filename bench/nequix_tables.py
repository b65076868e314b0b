"""Tables of nequix for bench/tables.py: agreement with the package, and what a step takes."""

import json
import pathlib

RESULTS = pathlib.Path(__file__).parent / "results"


def agreement():
    """Header and rows: largest differences between our models and the package's."""
    parts = [json.loads((RESULTS / f"nequix_agreement{end}.json").read_text()) for end in ("", "_double")]
    found = parts[0] | parts[1]
    body = [
        [name, *(f"{of[key]:.1e}" for key in ("energy_ev_atom", "forces_ev_a", "stress_ev_a3"))]
        for name, of in found.items()
        if isinstance(of, dict) and "energy_ev_atom" in of
    ]
    return ["model", "E eV/atom", "F eV/A", "stress eV/A^3"], body


def fits():
    """Header and rows: test errors of each set's arms at the rate of the lowest validation loss."""
    lines = [json.loads(line) for line in (RESULTS / "nequix_fits.jsonl").read_text().splitlines()]
    body = []
    for name in dict.fromkeys(line["set"] for line in lines):
        best = {}
        for arm in dict.fromkeys(line["arm"] for line in lines):
            mine = [line for line in lines if (line["set"], line["arm"]) == (name, arm)]
            best[arm] = min(mine, key=lambda line: line["valid_loss"]) | {"n": len(mine)}
        body.append([name, "before", "", "", *_errors(next(iter(best.values()))["before"]), "", ""])
        for arm, line in best.items():
            over = line["forces_mae_mev_a"] / best["full"]["forces_mae_mev_a"]
            rate = f"{line['factor']:g} of {line['n']}"
            body.append([name, arm, f"{line['values']:,d}", rate, *_errors(line), f"{over:.2f}",
                         f"{line['processor_seconds']:.0f} s"])  # fmt: skip
    header = ["set", "arm", "weights", "rate, times decision 0010's", "E meV/atom", "F meV/A", "stress GPa", "F / full",
              "training"]  # fmt: skip
    return header, body


def _errors(scores):
    return [f"{scores[key]:.3g}" for key in ("energy_mae_mev_atom", "forces_mae_mev_a", "stress_mae_gpa")]


def step():
    """Header and rows: processor seconds of a step."""
    found = json.loads((RESULTS / "nequix_step.json").read_text())
    body = [
        [what, *(f"{value:.3f} s ({found['times_faster'][what][name]:.1f} x)" for name, value in of.items())]
        for what, of in found["processor_seconds"].items()
    ]
    title = f"{found['model']}, {found['n_atoms']} atoms, {found['n_edges']} edges"
    return [title, "plain module, all weights", "pathtune, all weights", "pathtune, 3 % of the reachable"], body
