"""Monte Carlo of the spins of NiO at two temperatures. Needs sevenn and the data of PATHTUNE_DATA; about half a minute.

python examples/spin_monte_carlo.py [PICTURE]

The spin layer is as its start by least squares leaves it: exchange constants and Landau terms, no step of training.
"""

import os
import pathlib
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from ase import units

import pathtune
from pathtune.data import as_source, batches

TEMPERATURES, SWEEPS = (150, 900), 400  # K
data = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data")) / "magnetic" / "nio_deepspin"
train = as_source(data / "train.extxyz.xz")
layer = pathtune.SpinLayer(spin=("Ni",), magforces_part="perpendicular", magforces_scale="fit")
base, _ = pathtune.refit_e0(pathtune.load("sevennet:7net-0"), train)
model = pathtune.adapt(base, ["spin"], train.elements, {"spin": layer})
spin = model.adaptation.parts()[0]
spin.begin(model, batches(model, train, 1), None)
print(f"magforces_scale {spin.summary()['magforces_scale']:.3f}")

# A crystal with the moments of a frame, repeated. Atoms rest, so the exchange between moments is a constant matrix:
# minus the derivative of the magforces.
frame = train.read(0)
n = 2
shifts = np.array([[i, j, k] for i in range(n) for j in range(n) for k in range(n)]) @ frame.cell
tiled = pathtune.Structure(
    where="crystal",
    atomic_numbers=np.tile(frame.atomic_numbers, len(shifts)),
    positions=np.concatenate([frame.positions + shift for shift in shifts]),
    cell=n * frame.cell,
    pbc=frame.pbc,
    labels={"magmom": np.tile(frame.labels["magmom"], (len(shifts), 1))},
)
_, (features, edges, batch) = model.final_features(model.collate([tiled]))
label, nickel = batch.labels["magmom"], np.flatnonzero(tiled.atomic_numbers == 28)


def minimum_image(vectors):
    """The shortest of the periodic images."""
    fractional = vectors @ np.linalg.inv(tiled.cell)
    return (fractional - np.round(fractional)) @ tiled.cell


def energy(moments):
    """The part of the spins, eV; moments of the nickel atoms, flat."""
    everything = torch.zeros_like(label.value).index_copy(0, torch.as_tensor(nickel), moments.reshape(-1, 3))
    batch.labels["magmom"] = label._replace(value=everything)
    return spin.energy(features, edges, batch).sum()


start = label.value[nickel].flatten()
exchange = torch.autograd.functional.hessian(energy, start).double().numpy()
exchange = exchange.reshape(len(nickel), 3, len(nickel), 3)[:, 0, :, 0]  # the same for each axis; its diagonal is |m|'s
np.fill_diagonal(exchange, 0.0)
moments = start.double().numpy().reshape(-1, 3)
length = np.linalg.norm(moments, axis=1)

# Spins of second neighbours, with an oxygen between them, are opposed in the ground state. The four sublattices that
# they form may turn against each other at almost no cost, so their correlation is the order to look at.
place = tiled.positions[nickel]
distance = np.linalg.norm(minimum_image(place[:, None] - place[None]), axis=2)
nearest = distance[distance > 0.5].min()
shells = [np.abs(distance - nearest * factor) < 0.15 for factor in (1, 2**0.5)]
for shell in shells:
    mean = 1000 * (exchange * np.outer(length, length))[shell].mean()
    print(f"{shell.sum() / len(nickel):.0f} neighbours at {distance[shell].mean():.2f} A: J |m|^2 = {mean:.2f} meV")

rng = np.random.default_rng(0)
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for temperature, colour in zip(TEMPERATURES, ("tab:blue", "tab:red")):
    m, ordered, energies = moments.copy(), [], []
    for _ in range(SWEEPS):
        for i in rng.permutation(len(m)):
            new = m[i] + rng.normal(scale=0.4 * length[i], size=3)
            new *= length[i] / np.linalg.norm(new)
            change = exchange[i] @ m @ (new - m[i])
            if change < 0 or rng.random() < np.exp(-change / (units.kB * temperature)):
                m[i] = new
        ordered.append(-np.mean((m @ m.T / np.outer(length, length))[shells[1]]))
        energies.append(500 * np.sum(m * (exchange @ m)) / len(m))
    half = SWEEPS // 2
    print(f"{temperature:5d} K: correlation {np.mean(ordered[half:]):.2f}, {np.mean(energies[half:]):.1f} meV/Ni")
    axes[0].plot(ordered, color=colour, label=f"{temperature} K")
    axes[1].plot(energies, color=colour)
axes[0].set(xlabel="sweep", ylabel="- cos, second neighbours", ylim=(0, 1.02), title=f"NiO, {len(nickel)} spins")
axes[1].set(xlabel="sweep", ylabel="exchange energy (meV per Ni)")
axes[0].legend(frameon=False)
for axis in axes:
    axis.spines[["top", "right"]].set_visible(False)
figure.savefig(sys.argv[1] if len(sys.argv) > 1 else "spin_monte_carlo.png", dpi=120)
