"""Energies, forces and stresses by the package `nequix` itself (its JAX side, float32): what ours must equal.

    python bench/nequix_oracle.py MODEL.nqx STRUCTURES --n 50 --most-atoms 20 --out FILE.json

In an environment of its own, without pathtune: `pip install jax equinox e3nn-jax jraph ase matscipy tqdm pyyaml optax`
and `pip install --no-deps nequix==0.4.5` (whose own list asks for CUDA). STRUCTURES is extxyz, also packed with xz;
`--n` of them are taken at equal distances among those of at most `--most-atoms`. All are padded to one size, so that
JAX compiles once. The package rounds positions and cells to float32.
`--double` runs the same functions in float64 instead, with the constant of the activation still as float32 gives it:
what is left then is no rounding.
"""

import argparse
import json
import lzma

import ase.io
import e3nn_jax._src.activation
import equinox
import jax
import jax.numpy as jnp
import jraph
import numpy as np
from nequix.data import atomic_numbers_to_indices, dict_to_graphstuple, preprocess_graph
from nequix.model import load_model


def read(file, n, most_atoms):
    """`n` structures at equal distances among those of at most `most_atoms` atoms."""
    with (lzma.open if file.endswith(".xz") else open)(file, "rt") as stream:
        frames = ase.io.read(stream, ":", format="extxyz")
    frames = [atoms for atoms in frames if len(atoms) <= most_atoms]
    n = min(n, len(frames))
    return [frames[i * len(frames) // n] for i in range(n)]


def in_double(model):
    """The model in float64; e3nn-jax's sum over a normal distribution, made anew in each call, stays in float32."""
    points = e3nn_jax._src.activation.normalspace(1_000_001)
    e3nn_jax._src.activation.normalspace = lambda n: points
    jax.config.update("jax_enable_x64", True)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if equinox.is_inexact_array(leaf) else leaf, model)


def graph_in_double(graph, atoms):
    """The graph with positions, cell and shifts that were never rounded."""
    cell = None if graph.globals["cell"] is None else atoms.cell.array[None]
    return graph._replace(
        nodes={**graph.nodes, "positions": atoms.positions},
        edges={"shifts": graph.edges["shifts"].astype(np.float64)},
        globals={**graph.globals, "cell": cell},
    )


def main():
    """Write one record for each structure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("structures")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--most-atoms", type=int, default=1000)
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    model, config = load_model(args.model)
    frames = read(args.structures, args.n, args.most_atoms)
    index = atomic_numbers_to_indices(config["atomic_numbers"])
    graphs = [dict_to_graphstuple(preprocess_graph(atoms, index, config["cutoff"], False)) for atoms in frames]
    if args.double:
        model = in_double(model)
        graphs = [graph_in_double(graph, atoms) for graph, atoms in zip(graphs, frames)]
    n_node, n_edge = (max(int(getattr(g, name)[0]) for g in graphs) + 1 for name in ("n_node", "n_edge"))
    call, records = equinox.filter_jit(model), []
    for atoms, graph in zip(frames, graphs):
        energy, forces, stress = call(jraph.pad_with_graphs(graph, n_node, n_edge, 2))
        records.append(
            {
                "numbers": atoms.numbers.tolist(),
                "positions": atoms.positions.tolist(),
                "cell": atoms.cell.array.tolist(),
                "pbc": atoms.pbc.tolist(),
                "energy": float(energy[0]),
                "forces": np.asarray(forces)[: len(atoms)].tolist(),
                "stress": np.asarray(stress)[0].tolist(),
            }
        )
    with open(args.out, "w") as stream:
        json.dump(records, stream)


if __name__ == "__main__":
    main()
