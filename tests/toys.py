"""A label that no package file knows, an input label, and a MACE that predicts the one from the other."""

import contextlib

import numpy as np

from models import labelled, molecule, tiny_mace
from pathtune import Label, register_label
from pathtune.backbones.mace import MaceBackbone
from pathtune.data import unregister_label
from pathtune.model import Potential

CHARGE = Label(name="charge", per="atom", unit="e", key="REF_charges", weight=2.0, largest=10.0, report_unit="me",
               report_factor=1000.0)  # fmt: skip
FIELD = Label(name="field", per="graph", shape=(3,), parity=-1, unit="V/A", key="field", is_input=True,
              is_optional=False)  # fmt: skip


@contextlib.contextmanager
def registered(*labels):
    """These labels, for a while."""
    for label in labels:
        register_label(label)
    try:
        yield
    finally:
        for label in labels:
            unregister_label(label.name)


class ToyBackbone(MaceBackbone):
    """A MACE whose atoms' charges are their energies plus the first component of the field."""

    def __init__(self, stock, backend="cpu", radial_tables=True, device=None):
        super().__init__(stock, backend, radial_tables, device)
        self.outputs = (*self.outputs, "charge")
        self.inputs = ("field",)
        energies = self._forward.node_outputs

        def node_outputs(parameters, batch, edges):
            found = energies(parameters, batch, edges)
            field = batch.labels["field"].value[batch.node_graph, 0]
            return {**found, "charge": found["energy"] + field}

        self._forward.node_outputs = node_outputs


def toy_model(**options):
    return Potential(ToyBackbone(tiny_mace(**options)))


def toy_frames(n=6, seed=0):
    """ASE Atoms with random labels, charges and fields."""
    rng = np.random.default_rng(seed)
    frames = labelled([molecule(seed + i, n=4) for i in range(n)], seed)
    for atoms in frames:
        atoms.arrays["REF_charges"] = rng.normal(size=len(atoms))
        atoms.info["field"] = rng.normal(size=3)
    return frames
