"""Langevin dynamics of glycine with a tuned model. First: python examples/molecule.py; then: python examples/md.py"""

import ase.io
import ase.md.langevin
from ase import units

import pathtune

model = pathtune.load_adapter(pathtune.load("demo"), "glycine.safetensors")
atoms = ase.io.read(pathtune.demo_file("test"), 0, format="extxyz")
atoms.calc = pathtune.calculator(model)
dynamics = ase.md.langevin.Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False)
for _ in range(10):
    dynamics.run(20)
    print(f"{dynamics.get_time() / units.fs:6.0f} fs  {atoms.get_potential_energy():12.3f} eV")
