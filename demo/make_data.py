"""Generate the demo's two data sets: molecules by GFN2-xTB, glycine by PBE/def2-SVP.

The pair is the real fine-tuning situation in small: a model pretrained on many molecules at one
level of theory meets a molecule it never saw at another level of theory.

    python demo/make_data.py                   # everything; a killed run continues where it stopped
    python demo/make_data.py --step domain     # only the glycine chunks
    python demo/make_data.py --check           # recompute ten stored labels; exit 1 if they differ

Written: demo/data/organics_xtb.extxyz.xz (pretraining) and provenance.json, and the domain's
glycine_{train,valid,test}.extxyz.xz, which the package ships, to python/pathtune/demo/.
Every frame has info["REF_energy"] in eV, arrays["REF_forces"] in
eV/A, positions in A. Positions are rounded *before* they are labelled, so that a label belongs
to exactly the geometry in the file.

molecules.py holds the molecules, levels.py the levels of theory, with their sources.
"""

# ruff: noqa: E402 (the thread count must be set before numpy is imported)

import os

# One thread a process: reductions keep their order, and --jobs does not oversubscribe the cores.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import hashlib
import io
import json
import lzma
import platform
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from levels import DECIMALS, LABELLERS, LEVELS, label, label_isolated_atoms
from molecules import DOMAIN, RECIPES, build, find_bonds, list_pretraining_molecules, sum_radii_a
from tblite.ase import TBLite

SEED = 20250

# Pretraining set. Frames per molecule grow with its size; see make_pretraining_chunk.
RATTLE_STD_A = (0.02, 0.04, 0.06, 0.09)
PRETRAIN_MD_K = (300, 600, 1000)
PRETRAIN_MD_FS = {"warmup_fs": 150.0, "spacing_fs": 40.0}
MAX_FORCE_EV_PER_A = 15.0

# Domain set. Splits never share a trajectory.
DOMAIN_MD_K = 500
DOMAIN_MD_FS = {"warmup_fs": 1000.0, "spacing_fs": 200.0}
N_FRAMES_PER_TRAJECTORY = 10
DOMAIN_TRAJECTORIES = {"train": range(0, 5), "valid": range(5, 7), "test": range(7, 17)}

MD_STEP_FS = 0.5
MD_FRICTION_PER_FS = 0.02
FINITE_DIFFERENCE_STEP_A = 0.002

# What the finished sets must satisfy. Rounding alone leaves up to 7e-5 eV/A of net force.
LIMITS = {"net_force_ev_per_a": 2e-4, "finite_difference_ev_per_a": 1e-3, "n_duplicates": 0}
DUPLICATE_A = 1e-4  # largest difference of any interatomic distance between two equal frames
N_FINITE_DIFFERENCE = {"xtb": 60, "dft": 2}  # frames a file

# --check: what another machine, thread count or library build may change.
N_CHECK = 5  # labels a level
CHECK_TOLERANCE = {"energy_ev": 1e-4, "force_ev_per_a": 5e-4}


def make_rng(*names) -> np.random.Generator:
    """A generator seeded by name, so that adding a molecule leaves all the others unchanged."""
    return np.random.default_rng([SEED, *(zlib.crc32(str(name).encode()) for name in names)])


# --- Sampling -------------------------------------------------------------------------------


def relax(name: str) -> Atoms:
    """xTB minimum; the small rattle leaves saddle points that symmetry would keep."""
    atoms = build(name)
    bonds = find_bonds(atoms)
    atoms.positions += make_rng(name, "relax").normal(scale=0.02, size=atoms.positions.shape)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    is_converged = BFGS(atoms, logfile=None).run(fmax=0.01, steps=1000)
    if not is_converged or (find_bonds(atoms) != bonds).any():
        raise RuntimeError(f"{name}: relaxation unconverged or bonds changed, expected a minimum")
    return atoms


def sample_md(start: Atoms, temperature_k: float, n_frames: int, rng, *, warmup_fs, spacing_fs):
    """`n_frames` geometries from xTB Langevin dynamics that starts at a minimum."""
    atoms = start.copy()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    # At a minimum half of the kinetic energy turns into potential energy: start with twice of it.
    scale = np.sqrt(2 * temperature_k * units.kB * atoms.get_masses())  # [n_atoms], Maxwell
    atoms.set_momenta(rng.standard_normal(atoms.positions.shape) * scale[:, None])
    dynamics = Langevin(
        atoms, MD_STEP_FS * units.fs, temperature_K=temperature_k,
        friction=MD_FRICTION_PER_FS / units.fs, rng=rng, fixcm=False,
    )
    dynamics.run(round(warmup_fs / MD_STEP_FS))
    frames = []
    for _ in range(n_frames):
        dynamics.run(round(spacing_fs / MD_STEP_FS))
        frames.append(Atoms(atoms.symbols, atoms.positions - atoms.get_center_of_mass()))
    return frames


def is_sane(frame: Atoms, minimum: Atoms) -> bool:
    """Bonds are intact, no two atoms collide, no force is absurd."""
    ratio = frame.get_all_distances() / sum_radii_a(frame) + 10 * np.eye(len(frame))
    is_intact = (ratio[find_bonds(minimum)] < 1.6).all()
    max_force = np.linalg.norm(frame.arrays["REF_forces"], axis=1).max()
    return bool(is_intact and ratio.min() > 0.65 and max_force < MAX_FORCE_EV_PER_A)


def make_pretraining_chunk(name: str) -> tuple[list[Atoms], int]:
    """All frames of one molecule and the number that the filter dropped."""
    minimum = relax(name)
    n_md = int(np.clip(len(minimum), 4, 12))  # a temperature
    geometries = [("minimum", minimum)]
    for std_a in RATTLE_STD_A:
        rng = make_rng(name, "rattle", std_a)
        for _ in range(n_md // 2):
            shifted = minimum.positions + rng.normal(scale=std_a, size=minimum.positions.shape)
            geometries.append((f"rattle{std_a}", Atoms(minimum.symbols, shifted)))
    for kelvin in PRETRAIN_MD_K:
        rng = make_rng(name, "md", kelvin)
        for atoms in sample_md(minimum, kelvin, n_md, rng, **PRETRAIN_MD_FS):
            geometries.append((f"md{kelvin}", atoms))
    frames = [label(a, "xtb", config_type=name, sampling=how) for how, a in geometries]
    kept = [frame for frame in frames if is_sane(frame, minimum)]
    return kept, len(frames) - len(kept)


def make_domain_chunk(trajectory: int) -> tuple[list[Atoms], int]:
    """Ten DFT-labelled frames of one xTB trajectory; nothing is filtered, but all must be sane."""
    minimum = relax(DOMAIN)
    rng = make_rng(DOMAIN, "md", trajectory)
    geometries = sample_md(minimum, DOMAIN_MD_K, N_FRAMES_PER_TRAJECTORY, rng, **DOMAIN_MD_FS)
    frames = [label(a, "dft", config_type=DOMAIN, trajectory=trajectory) for a in geometries]
    if not all(is_sane(frame, minimum) for frame in frames):
        raise RuntimeError(f"trajectory {trajectory} of {DOMAIN} broke a bond, expected intact")
    return frames, 0


# --- Chunks and files -----------------------------------------------------------------------


def format_frame(frame: Atoms) -> str:
    """One extended-XYZ frame with fixed decimals; ASE's own writer would store 8 digits."""
    info = " ".join(f"{key}={value}" for key, value in frame.info.items())
    lines = [str(len(frame)), f'Properties=species:S:1:pos:R:3:REF_forces:R:3 {info} pbc="F F F"']
    table = np.hstack([frame.positions, frame.arrays["REF_forces"]])  # [n_atoms, 6]
    for symbol, row in zip(frame.symbols, table, strict=True):
        lines.append(" ".join([symbol, *(f"{x:.{DECIMALS}f}" for x in row)]))
    return "\n".join(lines) + "\n"


def write_atomically(path: Path, content: bytes) -> None:
    """A killed run leaves either the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + f".{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def chunk_path(folder: Path, level: str, key, suffix: str = ".extxyz") -> Path:
    """File of one finished chunk."""
    return folder / f"{level}_{key}{suffix}"


def finish_chunk(level: str, key, folder: Path) -> str:
    """Compute and write one chunk: frames as extxyz, then its time and rejections as JSON."""
    start_s = time.perf_counter()
    frames, n_rejected = {"xtb": make_pretraining_chunk, "dft": make_domain_chunk}[level](key)
    write_atomically(chunk_path(folder, level, key), "".join(map(format_frame, frames)).encode())
    seconds = round(time.perf_counter() - start_s, 2)
    notes = {"seconds": seconds, "n_rejected": n_rejected, "n_frames": len(frames)}
    write_atomically(chunk_path(folder, level, key, ".json"), json.dumps(notes).encode())
    return f"{level} {key}: {notes}"


def finish_all_chunks(level: str, keys, folder: Path, n_jobs: int) -> None:
    """Compute the chunks that no former run has finished (a chunk's JSON comes last)."""
    missing = [key for key in keys if not chunk_path(folder, level, key, ".json").exists()]
    n_missing = len(missing)
    print(f"{level}: {n_missing} of {len(keys)} chunks to do", flush=True)
    with ProcessPoolExecutor(max_workers=n_jobs) as pool:
        for line in pool.map(finish_chunk, [level] * n_missing, missing, [folder] * n_missing):
            print(line, flush=True)


def read_packed(path: Path) -> list[Atoms]:
    """Frames of an .extxyz.xz. ASE would seek back in the stream at every frame: minutes."""
    return read(io.StringIO(lzma.decompress(path.read_bytes()).decode()), ":", format="extxyz")


def pack(path: Path, frames: list[Atoms]) -> dict:
    """Write an .extxyz.xz, read it back, and describe it."""
    text = "".join(map(format_frame, frames)).encode()
    write_atomically(path, lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    if "".join(map(format_frame, read_packed(path))).encode() != text:
        raise RuntimeError(f"{path} read back differs from what was written")
    content = path.read_bytes()
    return {"n_frames": len(frames), "n_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest()}


# --- Checks ---------------------------------------------------------------------------------


def list_distances_a(frames: list[Atoms]) -> np.ndarray:  # [n_frames, n_pairs]
    """Interatomic distances of frames of one molecule: blind to translation and rotation."""
    pairs = np.triu_indices(len(frames[0]), 1)
    return np.array([frame.get_all_distances()[pairs] for frame in frames])


def find_nearest_a(frames: list[Atoms], others: list[Atoms]) -> np.ndarray:  # [n_frames]
    """Per frame the largest change of a distance (A) to the most similar of `others`."""
    a, b = list_distances_a(frames), list_distances_a(others)
    gaps_a = np.abs(a[:, None] - b[None]).max(-1)
    if frames is others:
        np.fill_diagonal(gaps_a, np.inf)
    return gaps_a.min(1)


def measure_finite_difference(frame: Atoms, level: str, rng) -> float:
    """|dE/dx + F.x| along a random unit direction x of all atoms, eV/A; central difference."""
    direction = rng.normal(size=frame.positions.shape)
    direction /= np.linalg.norm(direction)
    energies_ev = []
    for sign in (1, -1):
        shifted = frame.positions + sign * FINITE_DIFFERENCE_STEP_A * direction
        energies_ev.append(LABELLERS[level](Atoms(frame.symbols, shifted))[0])
    slope = (energies_ev[0] - energies_ev[1]) / (2 * FINITE_DIFFERENCE_STEP_A)
    return abs(slope + (frame.arrays["REF_forces"] * direction).sum())


def check_set(frames: list[Atoms], level: str) -> dict:
    """Figures of one file; raises when one of LIMITS is broken."""
    groups: dict[str, list[Atoms]] = {}
    for frame in frames:
        groups.setdefault(frame.info["config_type"], []).append(frame)
    nearest_a = np.concatenate([find_nearest_a(group, group) for group in groups.values()])
    rng = make_rng(level, "finite difference")
    chosen = rng.choice(len(frames), N_FINITE_DIFFERENCE[level], replace=False)
    # Energy above the lowest frame of the same molecule: comparable across molecules.
    above = [
        (frame.info["REF_energy"] - min(f.info["REF_energy"] for f in group)) / len(frame)
        for group in groups.values() for frame in group
    ]
    forces = [frame.arrays["REF_forces"] for frame in frames]
    figures = {
        "n_duplicates": int((nearest_a < DUPLICATE_A).sum()),
        "net_force_ev_per_a": float(max(np.linalg.norm(f.sum(0)) for f in forces)),
        "finite_difference_ev_per_a": float(
            max(measure_finite_difference(frames[i], level, rng) for i in chosen)
        ),
        "n_finite_difference": len(chosen),
        "max_energy_above_lowest_ev_per_atom": float(max(above)),
        "mean_energy_above_lowest_ev_per_atom": float(np.mean(above)),
        "max_force_ev_per_a": float(max(np.linalg.norm(f, axis=1).max() for f in forces)),
        "rms_force_component_ev_per_a": float(np.sqrt(np.mean(np.concatenate(forces) ** 2))),
        "n_atoms_max": max(map(len, frames)),
    }
    broken = {key: figures[key] for key in LIMITS if figures[key] > LIMITS[key]}
    if broken:
        raise RuntimeError(f"{level} set: found {broken}, expected at most {LIMITS}")
    return {key: float(f"{x:.3g}") if isinstance(x, float) else x for key, x in figures.items()}


def packed_path(out: Path, shipped: Path, name: str) -> Path:
    """File of one set: the package ships the domain's."""
    return (shipped if name.startswith(DOMAIN) else out) / f"{name}.extxyz.xz"


def assemble(out: Path, shipped: Path, chunks: Path) -> None:
    """Chunks into the four packed files and provenance.json, with all checks."""
    names = list_pretraining_molecules()
    by_molecule = {name: read(chunk_path(chunks, "xtb", name), ":") for name in names}
    sets = {"organics_xtb": [frame for frames in by_molecule.values() for frame in frames]}
    for split, trajectories in DOMAIN_TRAJECTORIES.items():
        paths = [chunk_path(chunks, "dft", trajectory) for trajectory in trajectories]
        sets[f"{DOMAIN}_{split}"] = [frame for path in paths for frame in read(path, ":")]

    atoms = {level: label_isolated_atoms(level) for level in LEVELS}
    files, checks = {}, {}
    for name, frames in sets.items():
        level = "xtb" if name == "organics_xtb" else "dft"
        checks[name] = check_set(frames, level)
        isolated = atoms["xtb"] if level == "xtb" else []
        files[f"{name}.extxyz.xz"] = pack(packed_path(out, shipped, name), isolated + frames)
    train, test = sets[f"{DOMAIN}_train"], sets[f"{DOMAIN}_test"]
    checks["test_to_train_nearest_a"] = round(float(find_nearest_a(test, train).min()), 4)

    provenance = {
        "made_by": "demo/make_data.py", "seed": SEED, "levels_of_theory": LEVELS,
        "units": {"REF_energy": "eV", "REF_forces": "eV/A", "positions": "A"},
        "versions": {"python": platform.python_version(), "platform": f"{platform.system()}-{platform.machine()}"}
        | {name: version(name) for name in ("ase", "numpy", "pyscf", "scipy", "tblite")},
        "sampling": describe_sampling(), "files": files, "checks": checks, "limits": LIMITS,
        "isolated_atom_energy_ev": {
            level: {str(f.symbols): f.info["REF_energy"] for f in atoms[level]} for level in LEVELS
        },
        "cost": {level: sum_cost(chunks, level) for level in LEVELS},
        "n_frames_by_molecule": {name: len(frames) for name, frames in by_molecule.items()},
        "joined_molecules": list(RECIPES),
    }
    write_atomically(out / "provenance.json", (json.dumps(provenance, indent=1) + "\n").encode())
    print(json.dumps({"files": files, "checks": checks}, indent=1))


def describe_sampling() -> dict:
    """Every constant that shaped the geometries."""
    return {
        "pretraining": {"rattle_std_a": RATTLE_STD_A, "md_k": PRETRAIN_MD_K, **PRETRAIN_MD_FS,
                        "max_force_ev_per_a": MAX_FORCE_EV_PER_A},
        "domain": {"md_k": DOMAIN_MD_K, **DOMAIN_MD_FS,
                   "frames_a_trajectory": N_FRAMES_PER_TRAJECTORY,
                   "trajectories": {k: list(v) for k, v in DOMAIN_TRAJECTORIES.items()}},
        "md": {"level": "xtb", "step_fs": MD_STEP_FS, "friction_per_fs": MD_FRICTION_PER_FS},
    }


def sum_cost(chunks: Path, level: str) -> dict:
    """Frames, rejections, wall seconds (sampling included; on a shared machine) of a level."""
    notes = [json.loads(path.read_text()) for path in sorted(chunks.glob(f"{level}_*.json"))]
    total = {key: round(sum(note[key] for note in notes), 1) for key in notes[0]}
    return total | {"seconds_per_frame": round(total["seconds"] / total["n_frames"], 3)}


def recompute_labels(out: Path, shipped: Path) -> bool:
    """Recompute N_CHECK stored labels a level; print the differences; True when all agree."""
    organics = read_packed(packed_path(out, shipped, "organics_xtb"))
    molecules = [f for f in organics if f.info["config_type"] != "IsolatedAtom"]
    paths = [packed_path(out, shipped, f"{DOMAIN}_{split}") for split in DOMAIN_TRAJECTORIES]
    domain = [frame for path in paths for frame in read_packed(path)]
    print(f"tolerance: {CHECK_TOLERANCE}")
    all_agree = True
    for level, frames in (("xtb", molecules), ("dft", domain)):
        for i in make_rng(level, "check").choice(len(frames), N_CHECK, replace=False):
            frame = frames[i]
            energy_ev, forces = LABELLERS[level](frame)
            found = {"energy_ev": abs(energy_ev - frame.info["REF_energy"]),
                     "force_ev_per_a": np.abs(forces - frame.arrays["REF_forces"]).max()}
            agrees = all(found[key] <= CHECK_TOLERANCE[key] for key in found)
            all_agree &= agrees
            print(f"{level} {frame.info['config_type']:20s} frame {i:5d}: "
                  + ", ".join(f"{key} {x:.1e}" for key, x in found.items())
                  + (" ok" if agrees else " DIFFERS"), flush=True)
    return all_agree


def main() -> int:
    """Parse the arguments; exit status 1 when --check finds a difference."""
    here = Path(__file__).parent / "data"
    package = Path(__file__).parent.parent / "python" / "pathtune" / "demo"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", choices=("all", "pretrain", "domain", "assemble"), default="all")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=here, help="folder of the packed files")
    parser.add_argument("--shipped", type=Path, default=package, help="folder of the domain's files")
    parser.add_argument("--chunks", type=Path, default=here / "chunks", help="resumable work")
    parser.add_argument("--check", action="store_true", help="recompute ten stored labels")
    options = parser.parse_args()
    if options.check:
        return 0 if recompute_labels(options.out, options.shipped) else 1
    if options.step in ("all", "pretrain"):
        finish_all_chunks("xtb", list_pretraining_molecules(), options.chunks, options.jobs)
    if options.step in ("all", "domain"):
        trajectories = [t for split in DOMAIN_TRAJECTORIES.values() for t in split]
        finish_all_chunks("dft", trajectories, options.chunks, options.jobs)
    if options.step in ("all", "assemble"):
        assemble(options.out, options.shipped, options.chunks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
