"""The molecules of the demo's data: which ones, and their unrelaxed starting geometries.

Geometries come from ASE's G2 collection (Curtiss et al., JCP 106, 1063 (1997)); larger molecules
are joined from smaller ones by RECIPES. Lengths are in A.
"""

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from ase.data import covalent_radii

# The molecule that the pretrained model must not have seen: no isomer of it is pretrained on.
DOMAIN = "glycine"
DOMAIN_FORMULA = "C2H5NO2"
DOMAIN_RECIPE = ("CH3COOH", "C", "NH3", "N")

# Closed-shell by electron count only: a carbene and a strongly multireference molecule.
G2_LEFT_OUT = {"CH2_s1A1d", "O3"}

# name: (molecule, element of its site, group, element of its site). Both lose a hydrogen at the
# site (see find_site) and are bonded there. No entry holds an amine next to a carboxyl group:
# glycine's two functional groups occur in the pretraining set, but never together.
RECIPES = {
    "formamide": ("H2CO", "C", "NH3", "N"),
    "N-methylformamide": ("formamide", "N", "CH4", "C"),
    "dimethylformamide": ("N-methylformamide", "N", "CH4", "C"),
    "N-methylacetamide": ("CH3CONH2", "N", "CH4", "C"),
    "urea": ("formamide", "C", "NH3", "N"),
    "acrylamide": ("C2H4", "C", "formamide", "C"),
    "glycolaldehyde": ("CH3OH", "C", "H2CO", "C"),
    "aminoacetaldehyde": ("H3CNH2", "C", "H2CO", "C"),
    "aminoacetone": ("CH3COCH3", "C", "NH3", "N"),
    "hydroxyacetone": ("CH3COCH3", "C", "H2O", "O"),
    "malonaldehyde": ("CH3CHO", "C", "H2CO", "C"),
    "propanal": ("C2H6", "C", "H2CO", "C"),
    "acrolein": ("C2H4", "C", "H2CO", "C"),
    "ethanolamine": ("CH3OH", "C", "H3CNH2", "C"),
    "ethylenediamine": ("H3CNH2", "C", "H3CNH2", "C"),
    "ethylene-glycol": ("CH3OH", "C", "CH3OH", "C"),
    "2-methoxyethanol": ("CH3OCH3", "C", "CH3OH", "C"),
    "methanediol": ("CH3OH", "C", "H2O", "O"),
    "aminomethanol": ("CH3OH", "C", "NH3", "N"),
    "aminoacetonitrile": ("H3CNH2", "C", "HCN", "C"),
    "cyanamide": ("HCN", "C", "NH3", "N"),
    "cyanoacetylene": ("HCN", "C", "C2H2", "C"),
    "propionitrile": ("CH3CN", "C", "CH4", "C"),
    "glycolic-acid": ("CH3OH", "C", "HCOOH", "C"),
    "propanoic-acid": ("C2H6", "C", "HCOOH", "C"),
    "acrylic-acid": ("C2H4", "C", "HCOOH", "C"),
    "glyoxylic-acid": ("H2CO", "C", "HCOOH", "C"),
    "oxalic-acid": ("HCOOH", "C", "HCOOH", "C"),
    "malonic-acid": ("CH3COOH", "C", "HCOOH", "C"),
    "methyl-acetate": ("CH3COOH", "O", "CH4", "C"),
    "ethyl-formate": ("HCOOCH3", "C", "CH4", "C"),
    "vinyl-alcohol": ("C2H4", "C", "H2O", "O"),
    "vinylamine": ("C2H4", "C", "NH3", "N"),
    "allyl-alcohol": ("CH3OH", "C", "C2H4", "C"),
    "allylamine": ("H3CNH2", "C", "C2H4", "C"),
    "propargyl-alcohol": ("CH3OH", "C", "C2H2", "C"),
    "methyl-hydroperoxide": ("CH4", "C", "H2O2", "O"),
    "hydroxylamine": ("NH3", "N", "H2O", "O"),
    "methylhydrazine": ("N2H4", "N", "CH4", "C"),
    "cyclopropylamine": ("C3H6_D3h", "C", "NH3", "N"),
    "phenol": ("C6H6", "C", "H2O", "O"),
    "aniline": ("C6H6", "C", "NH3", "N"),
    "toluene": ("C6H6", "C", "CH4", "C"),
    "benzaldehyde": ("C6H6", "C", "H2CO", "C"),
    "methylfuran": ("C4H4O", "C", "CH4", "C"),
    "N-methylpyrrole": ("C4H4NH", "N", "CH4", "C"),
    "methylpyridine": ("C5H5N", "C", "CH4", "C"),
}


def find_bonds(atoms: Atoms) -> np.ndarray:  # [n_atoms, n_atoms] bool
    """Pairs closer than 1.3 times the sum of their covalent radii."""
    is_bonded = atoms.get_all_distances() < 1.3 * sum_radii_a(atoms)
    np.fill_diagonal(is_bonded, False)
    return is_bonded


def sum_radii_a(atoms: Atoms) -> np.ndarray:  # [n_atoms, n_atoms]
    """Sums of covalent radii in A."""
    radii_a = covalent_radii[atoms.numbers]
    return radii_a[:, None] + radii_a[None, :]


def find_site(atoms: Atoms, element: str) -> tuple[int, int]:
    """The atom of `element` with the most hydrogens (the first of equals), and its first hydrogen.

    "Most hydrogens" makes `C` of acetaldehyde or acetic acid the methyl carbon.
    """
    is_hydrogen = atoms.numbers == 1
    n_hydrogens = (find_bonds(atoms) & is_hydrogen[None, :]).sum(1)
    candidates = [i for i, symbol in enumerate(atoms.symbols) if symbol == element]
    centre = max(candidates, key=lambda i: (n_hydrogens[i], -i))
    return centre, int(np.flatnonzero(find_bonds(atoms)[centre] & is_hydrogen)[0])


def join(base: Atoms, base_element: str, group: Atoms, group_element: str) -> Atoms:
    """Bond two molecules at their sites, at the torsion that keeps the fragments furthest apart."""
    base, group = base.copy(), group.copy()
    base_centre, base_hydrogen = find_site(base, base_element)
    group_centre, group_hydrogen = find_site(group, group_element)
    direction = base.get_distance(base_centre, base_hydrogen, vector=True)
    direction /= np.linalg.norm(direction)
    length_a = sum(covalent_radii[[base.numbers[base_centre], group.numbers[group_centre]]])
    anchor = base.positions[base_centre] + length_a * direction

    group.translate(anchor - group.positions[group_centre])
    group.rotate(group.positions[group_hydrogen] - anchor, -direction, center=anchor)
    del base[base_hydrogen], group[group_hydrogen]

    best, best_gap_a = None, -1.0
    for _ in range(12):
        group.rotate(30, direction, center=anchor)
        gaps_a = np.linalg.norm(base.positions[:, None] - group.positions[None], axis=-1)
        # Only hydrogens tell torsions apart where a heavy pair is fixed; the sum breaks ties.
        gap_a = gaps_a.min() + 1e-3 * gaps_a.sum()
        if gap_a > best_gap_a + 1e-9:
            best, best_gap_a = base + group, gap_a
    return best


def build(name: str) -> Atoms:
    """Unrelaxed starting geometry of a G2 molecule, a recipe, or the domain molecule."""
    recipe = DOMAIN_RECIPE if name == DOMAIN else RECIPES.get(name)
    if recipe is None:
        return Atoms(molecule(name).symbols, molecule(name).positions)
    base, base_element, group, group_element = recipe
    return join(build(base), base_element, build(group), group_element)


def list_pretraining_molecules() -> list[str]:
    """G2's closed-shell CHNO molecules and the recipes; no isomer of the domain molecule."""
    names = []
    for name in sorted(g2.names):
        atoms = molecule(name)
        is_closed_shell = not atoms.get_initial_magnetic_moments().any()
        if set(atoms.symbols) <= set("CHNO") and is_closed_shell and name not in G2_LEFT_OUT:
            names.append(name)
    names += RECIPES
    isomers = [n for n in names if build(n).get_chemical_formula() == DOMAIN_FORMULA]
    if isomers:
        raise ValueError(f"pretraining holds isomers of {DOMAIN}: {isomers}, expected none")
    return names
