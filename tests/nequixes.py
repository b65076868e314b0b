"""Small nequix models for tests, as the bytes of a file; imported after the fixture needs_e3nn."""

import json

import torch

from pathtune.backbones._nequix_file import NequixFile, write_nqx
from pathtune.backbones._nequix_shapes import array_shapes, config_of

CONFIG = {
    "cutoff": 3.5, "atomic_numbers": [1, 6, 8], "scale": 1.3, "shift": 0.25, "hidden_irreps": "8x0e + 5x1o + 3x2e",
    "lmax": 2, "n_layers": 3, "radial_basis_size": 4, "radial_mlp_size": 8, "radial_mlp_layers": 2,
    "radial_polynomial_p": 6.0, "mlp_init_scale": 4.0, "index_weights": False, "layer_norm": True,
    "avg_n_neighbors": 5.5, "atom_energies": {"1": -1.0, "6": -2.0, "8": -3.0}, "optimizer": "muon", "kernel": True,
}  # fmt: skip
VARIANTS = {
    "nequix-mp-1": {"hidden_irreps": "8x0e + 5x1o + 3x2e + 2x3o", "lmax": 3},
    "lmax 2": {},
    "harmonics beyond the features": {"hidden_irreps": "6x0e+4x1o", "lmax": 3},
    "no layer norm": {"layer_norm": False},
    "scalars only": {"hidden_irreps": "8x0e", "lmax": 0},
    "a gap in l": {"hidden_irreps": "8x0e + 3x2e"},
    "one layer, one radial matrix": {"n_layers": 1, "radial_mlp_layers": 0},
    "l = 4": {"hidden_irreps": "4x0e + 3x1o + 2x4e", "lmax": 4, "n_layers": 2},
}


def tiny_nequix(seed=0, tail=b"", **changes):
    """The bytes of a file of a random model of three elements, multiplicities that differ by irrep."""
    content = {**CONFIG, **changes}
    config = config_of(content, "tiny")
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shapes in array_shapes(config):
        sizes = [torch.Size(shape).numel() for shape in shapes]
        weight = torch.randn(sum(sizes), generator=generator)
        if ".radial_mlp." in name:
            weight = (weight / shapes[0][0] ** 0.5).reshape(shapes[0])
        weights[name] = 3.0 + weight if "layer_norm" in name else weight
    energies = torch.tensor([-1.0, -2.0, -3.0])
    return write_nqx(NequixFile(json.dumps(content).encode(), content, config, energies, weights, tail))


def nequix_file(folder, seed=0, **changes):
    """A file of such a model."""
    file = folder / "tiny.nqx"
    file.write_bytes(tiny_nequix(seed, **changes))
    return file
