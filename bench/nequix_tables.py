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


def step():
    """Header and rows: processor seconds of a step."""
    found = json.loads((RESULTS / "nequix_step.json").read_text())
    body = [
        [what, *(f"{value:.3f} s ({found['times_faster'][what][name]:.1f} x)" for name, value in of.items())]
        for what, of in found["processor_seconds"].items()
    ]
    title = f"{found['model']}, {found['n_atoms']} atoms, {found['n_edges']} edges"
    return [title, "plain module, all weights", "pathtune, all weights", "pathtune, 3 % of the reachable"], body
