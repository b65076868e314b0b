"""docs/models.md from tests/models_table.toml. `--check` says whether the page is what the table gives."""

import argparse
import pathlib
import sys
import tomllib

ROOT = pathlib.Path(__file__).parent.parent
TABLE, PAGE = ROOT / "tests" / "models_table.toml", ROOT / "docs" / "models.md"
OUTCOMES = {"kernels": "our kernels", "stock": "the package's own forward, with a warning", "refused": "refused"}
HEAD = """# Which models work

Made by `bench/models_page.py` of tests/models_table.toml; tests/backbones/test_models_table.py builds every class with
random weights, loads it, tunes two steps, merges, and compares what happens with this page.

"Our kernels": the model trains and predicts on our C++ kernels. "The package's own forward": it trains and predicts, at
the speed of its own package. "Refused": one sentence says so before anything runs.

## Published models

Licences are those that the sources below the table stated in November 2026. ASL is the Academic Software License,
which allows academic use and no commercial one. Read the licence of your model before you use it: it may bind what you
make of it, too.
"""
SOURCES = """Sources: [1] README of github.com/ACEsuit/mace-foundations. [2] What mace-torch 0.3.16 says when it
downloads the model, or in its docstring. [3] README of github.com/ACEsuit/mace-off. [4] README of
github.com/ACEsuit/mace, in a stored copy; the cards of the models were not read. [5] LICENSE inside sevenn 0.13.0,
whose wheel has these weights. [6] models/sevennet in github.com/janosh/matbench-discovery, not the authors' page.
[7] LICENSE inside nequip 0.19.1.

## Files of nequip

A NequIP is read from a checkpoint or a package without running what lies in them: of the pickled modules only the
tensors are kept. The installed nequip then builds the model from the file's config. What runs depends on its options:

| option of nequip's builder | runs on |
|---|---|
| `NequIPGNNModel`, `PresetNequIPGNNModel`, `FullNequIPGNNModel`, any irreps, `pair_potential` ZBL | our kernels |
| `per_edge_type_cutoff`, `convnet_resnet`, `convnet_nonlinearity_type: norm` | nequip's modules, with a warning |
| another builder or pair potential, `categorical_graph_field_embed`, modifiers other than those for speed | refused |
| trained by another class than `NequIPLightningModule` or `EMALightningModule` | refused: name the package of it |

`merge` writes a checkpoint, with the averaged weights where training averaged them. `nequip-package build` and
`nequip-compile` take it. tests/backbones/test_nequip.py holds each row. A step of
its preset M is in [results.md](results.md).

## A MACE by cuEquivariance

`--backend cueq --device cuda` runs a MACE by mace's own forward, with cuEquivariance's products of features and
harmonics. It is for models that our kernels do not cover. Before anything runs, each product is compared with mace's,
with its first and second derivatives; one that differs is refused. What was tried: its naive method on a CPU, and
faults planted on purpose. cuEquivariance's kernels were not tried, for want of a device. `pip install ".[mace,cueq]"`
in an environment of its own, and on a device cuequivariance-ops-torch-cu12 or -cu13.

## Tests that need an environment of their own

CI does not run these; they take minutes.

```sh
# nequix against its own package, in JAX; python3 -m venv nequix, then in it:
pip install jax equinox e3nn-jax jraph ase matscipy tqdm pyyaml optax && pip install --no-deps nequix==0.4.5
PATHTUNE_NEQUIX_PYTHON=nequix/bin/python pytest -m slow tests/backbones/test_nequix.py
# a NequIP that nequip-train trains and nequip-package packs, before and after; beside sevenn:
pip install -c constraints-sevenn.txt ".[sevenn,nequip,test]"
pytest -m slow tests/backbones/test_nequip.py
```"""


def table(header, rows):
    """Lines of a Markdown table."""
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *(f"| {' | '.join(row)} |" for row in rows), ""]


def page(content):
    """The text of the page."""
    rows = [[m["name"], m["blocks"], OUTCOMES[m["outcome"]], m["tested"], m["licence"]] for m in content["published"]]
    lines = [HEAD, *table(("model", "blocks", "runs on", "tested with", "licence of the weights"), rows), SOURCES, ""]
    kinds = {"model_class": "Model classes", "interaction": "Interaction blocks", "readout": "Readouts"}
    lines.append("## Classes of mace-torch 0.3.16\n")
    for key, title in kinds.items():
        rows = [[f"`{row['class']}`", OUTCOMES[row["outcome"]]] for row in content[key]]
        lines += [f"### {title}\n", *table(("class", "runs on"), rows)]
    rows = [[row["title"], f"`{', '.join(row['arguments'])}`", OUTCOMES[row["outcome"]]] for row in content["option"]]
    lines += ["### Options\n", *table(("option", "arguments", "runs on"), rows), "### What a refusal says\n"]
    for key in ("model_class", "readout", "option"):
        lines += [f"- {row['words']}" for row in content[key] if "words" in row]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = page(tomllib.loads(TABLE.read_text()))
    if not parser.parse_args().check:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        sys.exit("docs/models.md is not what the table gives: run python bench/models_page.py")
