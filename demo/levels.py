"""The demo's two levels of theory: energies in eV and forces in eV/A of a geometry in A.

Sources: GFN2-xTB, Bannwarth, Ehlert, Grimme, JCTC 15, 1652 (2019), by tblite. PBE, Perdew, Burke,
Ernzerhof, PRL 77, 3865 (1996); def2-SVP, Weigend, Ahlrichs, PCCP 7, 3297 (2005), density-fitted,
by PySCF.
"""

import numpy as np
from ase import Atoms, units
from pyscf import dft, gto
from tblite.ase import TBLite

DECIMALS = 5  # of positions (A), forces (eV/A) and energies (eV)

LEVELS = {
    "xtb": "GFN2-xTB (tblite), accuracy 0.01, electronic temperature 300 K",
    "dft": "PBE/def2-SVP, density fitting def2-universal-jfit, grid level 3, conv_tol 1e-10 Ha, "
    "analytic gradient with grid response (PySCF)",
}
GROUND_STATE_MULTIPLICITY = {"H": 2, "C": 3, "N": 4, "O": 3}


def label_xtb(atoms: Atoms, multiplicity: int = 1) -> tuple[float, np.ndarray]:
    """GFN2-xTB energy in eV and forces in eV/A, [n_atoms, 3]; a fresh SCF, free of history."""
    atoms = atoms.copy()
    atoms.calc = TBLite(
        method="GFN2-xTB", accuracy=0.01, multiplicity=multiplicity, verbosity=0,
    )
    return atoms.get_potential_energy(), atoms.get_forces()


def label_dft(atoms: Atoms, multiplicity: int = 1) -> tuple[float, np.ndarray]:
    """PBE/def2-SVP energy in eV and forces in eV/A, [n_atoms, 3].

    With grid response the forces are the exact derivative of the energy on the moving grid:
    they sum to zero and agree with finite differences.
    """
    mol = gto.M(
        atom=list(zip(atoms.symbols, atoms.positions / units.Bohr, strict=True)),
        unit="Bohr", basis="def2-svp", spin=multiplicity - 1, verbose=0,
    )
    mean_field = dft.KS(mol, xc="PBE").density_fit(auxbasis="def2-universal-jfit")
    mean_field.grids.level = 3
    mean_field.conv_tol = 1e-10
    energy_hartree = mean_field.kernel()
    if not mean_field.converged:
        raise RuntimeError(f"SCF of {atoms.symbols} not converged in {mean_field.max_cycle} cycles")
    if len(atoms) == 1:
        return energy_hartree * units.Hartree, np.zeros((1, 3))
    gradient = mean_field.nuc_grad_method()
    gradient.grid_response = True
    return energy_hartree * units.Hartree, -gradient.kernel() * units.Hartree / units.Bohr


LABELLERS = {"xtb": label_xtb, "dft": label_dft}


def label(atoms: Atoms, level: str, **info) -> Atoms:
    """A labelled frame: rounded geometry, REF_energy (eV), REF_forces (eV/A) and `info`."""
    frame = Atoms(atoms.symbols, atoms.positions.round(DECIMALS))
    energy_ev, forces = LABELLERS[level](frame)
    frame.info.update(REF_energy=round(float(energy_ev), DECIMALS), **info)
    frame.arrays["REF_forces"] = forces.round(DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0
    return frame


def label_isolated_atoms(level: str) -> list[Atoms]:
    """H, C, N, O in their ground-state multiplicities."""
    frames = []
    for symbol, multiplicity in GROUND_STATE_MULTIPLICITY.items():
        energy_ev, _ = LABELLERS[level](Atoms(symbol), multiplicity)
        frames.append(Atoms(symbol, info={"REF_energy": round(float(energy_ev), DECIMALS),
                                          "config_type": "IsolatedAtom"}))
        frames[-1].arrays["REF_forces"] = np.zeros((1, 3))
    return frames
