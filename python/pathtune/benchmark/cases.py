"""Models with the shapes of published ones and random weights, or real ones, and structures of a given size."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import ase.build
import ase.data
import numpy as np
import torch

from pathtune.data import Structure, demo_file, from_atoms, read_structures
from pathtune.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Hyper-parameters of a MACE and the kind of structures it is timed on."""

    hidden_irreps: str
    r_max: float  # A
    n_species: int
    interactions: str  # middle of the class names
    num_bessel: int
    distance_transform: str
    pair_repulsion: bool
    structures: str  # "metal", "aspirin" or "glycine"
    correlation: int = 3
    max_ell: int = 3
    more: tuple[tuple[str, Any], ...] = ()  # other arguments of the constructor


CASES = {
    # of MACE-MP-0b3 medium, 9,063,204 weights
    "mp-0b3-medium": Case(
        hidden_irreps="128x0e+128x1o",
        r_max=6.0,
        n_species=89,
        interactions="Density",
        num_bessel=10,
        distance_transform="Agnesi",
        pair_repulsion=True,
        structures="metal",
    ),
    # of MACE-OFF23 medium, 1,428,368 weights
    "off23-medium": Case(
        hidden_irreps="128x0e+128x1o",
        r_max=5.0,
        n_species=10,
        interactions="",
        num_bessel=8,
        distance_transform="None",
        pair_repulsion=False,
        structures="aspirin",
    ),
    # of MACE-MH-1, as far as its shape is public: NonLinear blocks, products that do not know the species
    "mh-1": Case(
        hidden_irreps="512x0e+512x1o",
        r_max=6.0,
        n_species=89,
        interactions="NonLinear",
        num_bessel=8,
        distance_transform="Agnesi",
        pair_repulsion=True,
        structures="metal",
        more=(
            ("edge_irreps", "128x0e+128x1o+128x2e+128x3o"),
            ("use_agnostic_product", True),
            ("apply_cutoff", False),
        ),
    ),
    # of the model that comes with pathtune, 133,632 weights
    "demo": Case(
        hidden_irreps="48x0e+48x1o",
        r_max=5.0,
        n_species=4,
        interactions="",
        num_bessel=8,
        distance_transform="None",
        pair_repulsion=False,
        structures="glycine",
        max_ell=2,
    ),
}
# real weights, which lie inside sevenn
SEVENNETS = {"sevennet-0": "sevennet:7net-0", "sevennet-l3i5": "sevennet:7net-l3i5"}
# of 7net-mf-ompa as sevenn's preset for its fine-tuning gives it, without modalities, which add scalars to linears
SEVENNET_SHAPES: dict[str, dict[str, Any]] = {
    "sevennet-mf-ompa": {
        "cutoff": 6.0,
        "channel": 128,
        "irreps_manual": [
            "128x0e",
            "128x0e+64x1o+32x2e+32x3o",
            "128x0e+64x1o+64x1e+32x2o+32x2e+32x3o+32x3e",
            "128x0o+128x0e+64x1o+64x1e+32x2o+32x2e+32x3o+32x3e",
            "128x0e+64x1o+32x2e+32x3o",
            "128x0e",
        ],
        "lmax": 3,
        "is_parity": True,
        "num_convolution_layer": 5,
        "conv_denominator": [50.0] * 5,
        "weight_nn_hidden_neurons": [64, 64],
        "cutoff_function": {"cutoff_function_name": "XPLOR", "cutoff_on": 5.5},
        "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 8},
        "self_connection_type": "nequip",
        "shift": 0.0,
        "scale": 1.0,
    },
}
NEQUIPS = {"nequip-m": "M", "nequip-l": "L"}  # nequip's presets: sizes of its foundation potentials
NEQUIXES = ("nequix-mp-1",)  # real weights, in PATHTUNE_DATA
NAMES = (*CASES, *SEVENNETS, *SEVENNET_SHAPES, *NEQUIPS, *NEQUIXES)
N_SPECIES = 89  # of a SevenNet or a NequIP with random weights
OFF23_ELEMENTS = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)


def atomic_numbers(case: Case) -> list[int]:
    """Elements of the case's model."""
    if case.n_species == 4:
        return [1, 6, 7, 8]
    return list(OFF23_ELEMENTS) if case.n_species == 10 else list(range(1, case.n_species + 1))


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A stock model: a ScaleShiftMACE with the case's shapes and random weights, or a real other model.

    A float32 MACE that is made float64 afterwards keeps 3j symbols that were rounded to float32.
    """
    if name not in NAMES:
        raise InputError(f"--model is {name!r}, expected one of {', '.join(NAMES)}")
    if name in SEVENNETS:
        from pathtune.backbones.sevennet import load_sevennet

        return load_sevennet(SEVENNETS[name], dtype).stock
    if name in SEVENNET_SHAPES:
        from pathtune.backbones._sevennet_stock import stock_sevennet

        species = {
            "version": "0.13.0",
            "_number_of_species": N_SPECIES,
            "_type_map": {z: z - 1 for z in range(1, N_SPECIES + 1)},
            "chemical_species": list(ase.data.chemical_symbols[1 : N_SPECIES + 1]),
        }
        return stock_sevennet(dtype, seed, **species, **SEVENNET_SHAPES[name])
    if name in NEQUIPS:
        return _nequip(NEQUIPS[name], seed, dtype)
    if name in NEQUIXES:
        from pathtune.backbones.nequix import load_nequix

        return load_nequix(_data() / "weights" / f"{name}.nqx", dtype).stock
    from pathtune.backbones._mace_stock import stock_mace

    case = CASES[name]
    first, others = f"RealAgnostic{case.interactions}", f"RealAgnostic{case.interactions}Residual"
    if case.interactions == "NonLinear":
        first = others = "RealAgnosticResidualNonLinear"
    torch.manual_seed(seed)
    return stock_mace(
        dtype=dtype,
        r_max=case.r_max,
        num_bessel=case.num_bessel,
        num_polynomial_cutoff=5,
        max_ell=case.max_ell,
        interaction_cls=f"{others}InteractionBlock",
        interaction_cls_first=f"{first}InteractionBlock",
        num_interactions=2,
        hidden_irreps=case.hidden_irreps,
        MLP_irreps="16x0e",
        atomic_energies=np.zeros(case.n_species),
        avg_num_neighbors=50.0,
        atomic_numbers=atomic_numbers(case),
        correlation=case.correlation,
        radial_MLP=[64, 64, 64],
        pair_repulsion=case.pair_repulsion,
        distance_transform=case.distance_transform,
        **dict(case.more),
    )


def _nequip(preset: str, seed: int, dtype: torch.dtype) -> torch.nn.Module:
    from pathtune.backbones.nequip import build as build_nequip

    config = {
        "_target_": "nequip.model.PresetNequIPGNNModel",
        "preset": preset,
        "seed": seed,
        "type_names": list(ase.data.chemical_symbols[1 : N_SPECIES + 1]),
        "r_max": 6.0,
        "avg_num_neighbors": 50.0,
    }
    return build_nequip(config, dtype, f"--model nequip-{preset.lower()}")


def structures(name: str, n_atoms: int) -> list[Structure]:
    """Structures of about n_atoms atoms together: a three-element fcc crystal, aspirin or glycine molecules."""
    if name in CASES and CASES[name].structures == "glycine":
        return read_structures(demo_file("train"), max_frames=max(1, round(n_atoms / 10)))
    if name not in CASES or CASES[name].structures == "metal":
        atoms = ase.build.bulk("Cu", "fcc", a=3.61, cubic=True).repeat((2, 2, max(1, round(n_atoms / 16))))
        atoms.rattle(0.05, seed=0)
        atoms.numbers[::3] = 26
        atoms.numbers[1::5] = 8
        return [from_atoms(atoms, where="benchmark crystal")]
    file = _data() / "rmd17" / "aspirin" / "train.extxyz.xz"
    if not file.exists():
        raise InputError(f"{file}: no such file; aspirin is benched on real structures, set PATHTUNE_DATA")
    return read_structures(file, max_frames=max(1, round(n_atoms / 21)))


def _data() -> pathlib.Path:
    return pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
