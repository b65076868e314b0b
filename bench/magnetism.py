"""What the start of a spin layer reaches on the magnetic sets: SevenNet-0, frozen, before any step of training.

`python bench/magnetism.py` needs sevenn and PATHTUNE_DATA. It writes bench/results/magnetism.jsonl line by line and
skips the lines that are there.
"""

import json
import os
import pathlib
import warnings

import pathtune
from pathtune.data import as_source, batches

RESULTS = pathlib.Path(__file__).parent / "results" / "magnetism.jsonl"
CASES = (
    ("nio_deepspin", ("Ni",), "none", {}),
    ("nio_deepspin", ("Ni",), "start", {}),
    ("nio_deepspin", ("Ni",), "start, perpendicular", {"magforces_part": "perpendicular"}),
    ("nio_deepspin", ("Ni",), "start, perpendicular, fitted scale",
     {"magforces_part": "perpendicular", "magforces_scale": "fit"}),
    ("fe_fcc_deepspin", ("Fe",), "none", {}),
    ("fe_fcc_deepspin", ("Fe",), "start", {}),
)  # fmt: skip


def measured(name, elements, layer, options):
    """Test errors of one case."""
    folder = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data")) / "magnetic" / name
    train, test = (as_source(folder / f"{split}.extxyz.xz") for split in ("train", "test"))
    base, _ = pathtune.refit_e0(pathtune.load("sevennet:7net-0"), train)
    model, summary = base, {}
    if layer != "none":
        model = pathtune.adapt(base, ["spin"], train.elements, {"spin": pathtune.SpinLayer(spin=elements, **options)})
        spin = model.adaptation.parts()[0]
        spin.begin(model, batches(model, train, 1), None)
        summary = spin.summary()
    scores = pathtune.evaluate(model, test)
    per_element = scores["per_element"][elements[0]]
    return {
        "set": name, "layer": layer, "frames": len(train), **summary,
        **{key: value for key, value in scores.items() if "_mae_" in key},
        **{f"{key} of {elements[0]}": value for key, value in per_element.items() if "_mae_" in key},
    }  # fmt: skip


def main():
    """Run what is not there."""
    warnings.simplefilter("ignore")
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(line["set"], line["layer"]) for line in lines}
    for case in CASES:
        if (case[0], case[2]) not in done:
            with RESULTS.open("a") as stream:
                stream.write(json.dumps(measured(*case)) + "\n")


if __name__ == "__main__":
    main()
