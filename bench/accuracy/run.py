"""The evidence: `pathtune compare` on every system of systems.toml, one after the other; given again, it goes on.

    python bench/accuracy/run.py                  # all of them, in the order of the file
    python bench/accuracy/run.py uracil toluene   # some; crystals in the environment of sevenn

A system's runs lie in --work; its table is written to bench/results/accuracy/NAME.json when it is finished, and what
is there already is not run again, unless systems.toml asks something else of it now. PATHTUNE_DATA as in
CONTRIBUTING.md. `python bench/tables.py` writes the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tomllib

import pathtune
from pathtune.adaptations.pull import PullOptions
from pathtune.training.provenance import processor
from pathtune.training.run import ModelOptions

HERE = pathlib.Path(__file__).parent
DATA = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data")).resolve()
RESULTS = HERE.parent / "results" / "accuracy"


def systems() -> list[dict]:
    """Every system with all its options."""
    tables = tomllib.loads((HERE / "systems.toml").read_text())
    named = [tables["default"] | _table(tables, system.get("of")) | system for system in tables["system"]]
    by_name, ablation = {system["name"]: system for system in named}, tables["ablation"]
    variants = [(variant, by_name[molecule]) for variant in ablation["variant"] for molecule in ablation["molecules"]]
    common = {key: value for key, value in ablation.items() if key not in ("molecules", "variant")}
    return named + [
        molecule | common | variant | {"of": "ablation", "name": f"{molecule['name']}_{variant['name']}"}
        for variant, molecule in variants
    ]


def _table(tables: dict, name: str | None) -> dict:
    """A table of options after that which it is `of` itself."""
    if name is None:
        return {}
    return _table(tables, tables[name].get("of")) | tables[name]


def model_of(name: str, work: pathlib.Path) -> str:
    """A name that pathtune knows, or the `.model` file of weights in the data folder, made by its own script."""
    if ":" in name:
        return name
    file = work / "models" / f"{name}.model"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(DATA / "weights" / "to_mace.py"), name, str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return str(file)


def run(system: dict, work: pathlib.Path) -> dict:
    """The comparison of one system, as its file in results holds it."""
    folder = DATA / system["data"]
    files = [f"{folder / file}.extxyz.xz@{frames}" for file, frames in zip(system["files"], system["frames"])]
    kinds = {kind for arm in system["arms"] for kind in arm.split("+")}
    names = ["arms", "seeds", *(["active_share"] if "sparse" in kinds else []), *(["rank"] if "lora" in kinds else [])]
    options = pathtune.CompareOptions(
        out=str(work / system["name"]),
        n_rates=system["n_rates"],
        equal=system.get("equal", "steps"),
        known=(str(DATA / system["known"]),),
        replay=str(DATA / system["replay"]) if "replay" in system else None,
        **{name: tuple(system[name]) for name in names},
    )
    weight = {"replay_weight": system["replay_weight"]} if "replay_weight" in system else {}
    config = pathtune.FitConfig(epochs=system["epochs"], batch_size=system["batch_size"], **weight)
    model = model_of(system["model"], work)
    more = {"model": ModelOptions(dtype="float32")}
    if "delta" in system:
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in system["delta"].items()}
        more["delta"] = pathtune.SparseDelta(**lists)
    if "pull" in system:
        data = str(DATA / system["pull_data"]) if "pull_data" in system else None
        more["pull"] = PullOptions(pull=system["pull"], pull_data=data)
    result = pathtune.compare(model, *files, options=options, config=config, more=more)
    if "elsewhere" in system:
        for row in result["rows"]:
            merged = work / system["name"] / "runs" / f"{row['arm']}_lr{row.get('lr') or 0:g}" / "merged.model"
            row["elsewhere"] = errors_elsewhere(str(merged) if row.get("values") else model, system["elsewhere"])
    kept = {key: result[key] for key in ("pathtune", "torch", "threads", "n_structures", "equal", "rows")}
    return {"system": system, "machine": processor(), **kept}


def errors_elsewhere(model: str, file: str) -> float:
    """Force MAE on structures of another kind than those trained on, meV/A; forces need no E0."""
    return round(pathtune.evaluate(pathtune.load(model, "float32"), str(DATA / file))["forces_mae_mev_a"], 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {system["name"]: system for system in systems()}
    parser.add_argument("names", nargs="*", choices=[*known, []], help="systems, all by default")
    parser.add_argument("--work", type=pathlib.Path, default=HERE.parent.parent / "runs" / "accuracy")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in args.names or known:
        file = RESULTS / f"{name}.json"
        if file.exists() and json.loads(file.read_text())["system"] == known[name]:
            continue
        try:
            result = run(known[name], args.work.resolve())
        except pathtune.InputError as error:  # such as a comparison of other options in --work: the others go on
            print(f"{name}: {error}", flush=True)
            continue
        file.write_text(json.dumps(result, indent=1) + "\n")
        errors = {row["title"]: row["test"]["forces_mae_mev_a"][0] for row in result["rows"] if row.get("test")}
        print(name, errors, flush=True)


if __name__ == "__main__":
    main()
