"""Orders of the moments of fcc iron, with moments that are relaxed. Needs sevenn and the data of PATHTUNE_DATA.

python examples/spin_order.py [FOLDER]    # about a minute; writes spin_order.png and spin_forces.png

A spin layer on the frozen SevenNet-0 is trained on the cold frames of fe_fcc_deepspin, which lie around the
antiferromagnetic double-layer order (AFMD). The other orders are not in the data: their energies are extrapolated.
"""

import os
import pathlib
import sys

import ase.build
import matplotlib.pyplot as plt
import numpy as np

import pathtune
from pathtune.data import as_source

LATTICE = 7.099 / 2  # A, of the data
data = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data")) / "magnetic" / "fe_fcc_deepspin"
folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
COLD = {f"FCC_Fe/iter-{i}" for i in (1, 2, 3, 7)}


def cold_frames(split, labels):
    """The cold frames of a split with some of their labels."""
    frames = [f for f in pathtune.read_structures(data / f"{split}.extxyz.xz") if f.config_type in COLD]
    for frame in frames:
        frame.labels = {name: value for name, value in frame.labels.items() if name in (*labels, "magmom")}
    return as_source(frames)


# Without forces among the labels a step needs no gradient through the frozen backbone.
train, valid = (cold_frames(split, ("energy", "magforces")) for split in ("train", "valid"))
model = pathtune.adapt(pathtune.load("sevennet:7net-0"), ["spin"], [26], {"spin": pathtune.SpinLayer(spin=("Fe",))})
pathtune.fit(model, train, valid, pathtune.FitConfig(epochs=6, batch_size=4))
test = cold_frames("test", ("energy", "magforces"))
scores = pathtune.evaluate(model, test)
print(f"test: E {scores['energy_mae_mev_atom']:.2f} meV/atom, T {scores['magforces_mae_mev_mu_b']:.1f} meV/mu_B")

figure, axes = plt.subplots(figsize=(3.6, 3.4), layout="constrained")
frames = [test.read(i) for i in range(len(test))]
batch = model.batch(test, range(len(test)))
found = model(batch, outputs=["magforces"]).of("magforces").detach().numpy()
reference = np.concatenate([f.labels["magforces"] for f in frames])
axes.plot(1000 * reference.ravel(), 1000 * found.ravel(), ".", ms=2, color="tab:blue")
axes.axline((0, 0), slope=1, color="black", lw=0.8)
axes.set(xlabel="reference T (meV/mu_B)", ylabel="predicted T (meV/mu_B)", title="fcc Fe, cold test frames")
axes.set_aspect("equal")
axes.spines[["top", "right"]].set_visible(False)
figure.savefig(folder / "spin_forces.png", dpi=120)


def relaxed(atoms, moments):
    """Energy per atom, eV, and relaxed moments from these."""
    atoms = atoms.copy()
    atoms.set_initial_magnetic_moments(moments)
    atoms.calc = pathtune.calculator(model, relax_moments=True)
    return atoms.get_potential_energy() / len(atoms), atoms.get_magnetic_moments()


# Relaxed moments against the reference, from moments that are too short and turned by a fifth of a radian.
rng = np.random.default_rng(0)
lengths, angles = [], []
for frame in [f for f in frames if f.config_type == "FCC_Fe/iter-3"][:5]:
    own = frame.labels["magmom"]
    atoms = ase.Atoms(frame.atomic_numbers, frame.positions, cell=frame.cell, pbc=True)
    _, m = relaxed(atoms, 0.85 * own + 0.2 * rng.normal(size=own.shape))
    long, short = np.linalg.norm(m, axis=1), np.linalg.norm(own, axis=1)
    lengths.append(np.abs(long - short))
    turn, _, back = np.linalg.svd(own.T @ m)  # all spins may turn together at no cost
    angles.append(np.degrees(np.arccos(np.clip(((own @ turn @ back) * m).sum(1) / long / short, -1, 1))))
print(f"relaxed against reference: |m| {np.mean(lengths):.3f} mu_B, direction {np.mean(angles):.1f} degrees")

crystal = ase.build.bulk("Fe", "fcc", a=LATTICE, cubic=True).repeat((2, 2, 2))
layer = np.rint(2 * crystal.positions[:, 2] / LATTICE).astype(int)  # along z
orders = {"FM": np.ones(len(layer)), "AFM": (-1.0) ** layer, "AFMD": (-1.0) ** (layer // 2)}
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
size = np.linspace(1.0, 1.6, 13)
results = {name: relaxed(crystal, 1.3 * signs) for name, signs in orders.items()}
lowest = min(energy for energy, _ in results.values())
for (name, signs), colour in zip(orders.items(), ("tab:red", "tab:blue", "tab:green")):
    energy, moments = results[name]
    print(f"{name:5s} {1000 * (energy - lowest):6.1f} meV/atom, |m| {np.abs(moments).mean():.2f} mu_B")
    atoms = crystal.copy()
    atoms.calc = pathtune.calculator(model)
    curve = []
    for length in size:
        atoms.set_initial_magnetic_moments(length * signs)
        curve.append(1000 * (atoms.get_potential_energy() / len(atoms) - lowest))
    axes[0].plot(size, curve, color=colour, label=name)
    axes[0].plot(np.abs(moments).mean(), 1000 * (energy - lowest), "o", color=colour)
    axes[1].bar(name, 1000 * (energy - lowest), color=colour)
axes[0].set(xlabel="|m| of all atoms (mu_B)", ylabel="E (meV/atom)", title="fcc Fe; points: relaxed moments")
axes[0].legend(frameon=False)
axes[1].set(ylabel="E above the lowest (meV/atom)", title="relaxed moments")
for axis in axes:
    axis.spines[["top", "right"]].set_visible(False)
figure.savefig(folder / "spin_order.png", dpi=120)
