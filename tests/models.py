"""Small models and structures for tests; imported after the fixture needs_mace."""

import copy

import ase
import ase.build
import numpy as np
import torch

from pathtune.adaptations.gradients import weight_gradients
from pathtune.backbones._packages import import_mace
from pathtune.data import from_atoms

ALL = ("energy", "forces", "stress")  # outputs of the models here


def irreps_of(text):
    """As mace's constructors take them."""
    from e3nn import o3

    return o3.Irreps(text)


def sparse_of(model):
    """The sparse delta that a model uses."""
    return model.adaptation.parts()[0]


def deltas_of(model):
    """Its deltas, layer by layer, trained or loaded."""
    sparse = sparse_of(model)
    return getattr(sparse, "inner", sparse).deltas


def delta_of(model, layer):
    """The delta of one layer."""
    return next(d for d in deltas_of(model) if d.layer.name == layer)


def reachable_gradients(model, batch, loss):
    """dL/dW' of every adapted layer at its reachable weights."""
    found = weight_gradients(model, batch, loss)
    return [found[d.layer.parameter].flatten()[model.reachable(d.layer)] for d in deltas_of(model)]


MADE = {}  # by what was asked: a model, what that was, torch's generator after it; copying is ten times as fast


def tiny_mace(dtype=torch.float64, seed=0, **changes):
    """A random MACE of three elements, two layers, with vector features, of its own for each caller."""
    key = repr((dtype, seed, [(k, id(v) if callable(v) else v) for k, v in sorted(changes.items())]))
    if key not in MADE:
        MADE[key] = _made(dtype, seed, **changes), changes, torch.get_rng_state()
    stock, _, state = MADE[key]
    torch.set_rng_state(state)
    return copy.deepcopy(stock)


def nonlinear(**more):
    from mace import modules

    block = modules.RealAgnosticResidualNonLinearInteractionBlock
    return {"interaction_cls": block, "interaction_cls_first": block, "edge_irreps": irreps_of("3x0e+3x1o"),
            "apply_cutoff": False, "use_agnostic_product": True, **more}  # fmt: skip


def _made(dtype, seed, **changes):
    mace = import_mace()
    from e3nn import o3

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(seed)
    options = {
        "r_max": 3.5, "num_bessel": 4, "num_polynomial_cutoff": 5, "max_ell": 2,
        "interaction_cls": mace.modules.RealAgnosticResidualInteractionBlock,
        "interaction_cls_first": mace.modules.RealAgnosticInteractionBlock,
        "num_interactions": 2, "num_elements": 3, "hidden_irreps": "4x0e+4x1o",
        "MLP_irreps": "4x0e", "atomic_energies": np.array([-1.0, -2.0, -3.0]),
        "avg_num_neighbors": 6.0, "atomic_numbers": [1, 6, 8], "correlation": 2,
        "gate": torch.nn.functional.silu, "radial_MLP": [8, 8], "use_reduced_cg": False,
        "atomic_inter_scale": 1.3, "atomic_inter_shift": 0.1, "radial_type": "bessel",
    }  # fmt: skip
    cls = changes.pop("cls", mace.modules.ScaleShiftMACE)
    options.update(changes)
    options |= {name: o3.Irreps(options[name]) for name in ("hidden_irreps", "MLP_irreps")}
    if cls is mace.modules.MACE:
        options.pop("atomic_inter_scale"), options.pop("atomic_inter_shift")
    try:
        return cls(**options)
    finally:
        torch.set_default_dtype(before)


def reordered(stock):
    """A stock model of tiny_mace with the elements O, N, C, H and the same weights; N has those of C."""
    from pathtune.backbones.mace import MaceBackbone

    old = [2, 1, 1, 0]
    larger = tiny_mace(num_elements=4, atomic_numbers=[1, 6, 7, 8], atomic_energies=torch.zeros(4).numpy())
    names = {layer.parameter: layer for layer in MaceBackbone(copy.deepcopy(stock)).layers}
    state = larger.state_dict()
    for name, value in stock.state_dict().items():
        if name in names and names[name].scope == "linear":
            parts = []
            for path in names[name].paths:
                block = value[path.offset : path.offset + path.numel].reshape(path.shape)
                if path.species_axis is not None:
                    block = block.index_select(path.species_axis, torch.tensor(old)) * (4 / 3) ** 0.5
                parts.append(block.flatten())
            value = torch.cat(parts)
        elif value.shape != state[name].shape and value.shape[:1] == (3,):
            value = value[old]
        elif value.shape != state[name].shape:
            value = value[..., old]
        state[name] = value
    state["atomic_numbers"] = torch.tensor([8, 7, 6, 1])
    larger.load_state_dict(state)
    return larger


def molecule(seed=0, n=6):
    """Random CHO cluster, no two atoms closer than 0.9 A."""
    rng = np.random.default_rng(seed)
    positions = [np.zeros(3)]
    while len(positions) < n:
        candidate = rng.uniform(-2, 2, 3)
        if min(np.linalg.norm(candidate - p) for p in positions) > 0.9:
            positions.append(candidate)
    return ase.Atoms(numbers=rng.choice([1, 6, 8], n), positions=positions)


def crystal(seed=0, n=5):
    """The same in a skewed periodic cell small enough for self-images."""
    atoms = molecule(seed, n)
    atoms.set_cell([[3.2, 0.3, 0.0], [0.0, 3.6, 0.4], [0.5, 0.0, 4.1]])
    atoms.pbc = True
    return atoms


def named_molecules(*names):
    """Structures of ase's molecules, with labels of zero."""
    structures = []
    for name in names:
        structures.append(from_atoms(ase.build.molecule(name), where=name))
        structures[-1].energy_ev, structures[-1].forces = 0.0, np.zeros((len(structures[-1]), 3))
    return structures


def labelled(frames, seed=0, stress=False):
    """The frames with random labels under the default keys."""
    rng = np.random.default_rng(seed)
    for atoms in frames:
        atoms.info["REF_energy"] = float(-2.0 * len(atoms) + rng.normal())
        atoms.arrays["REF_forces"] = rng.normal(size=(len(atoms), 3))
        if stress:
            atoms.info["REF_stress"] = rng.normal(size=6) * 0.01
    return frames
