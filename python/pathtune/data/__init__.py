"""Structures and labels: from files to batches of tensors."""

from pathtune.data.batch import NO_VOLUME_A3, Batch, collate
from pathtune.data.labels import LabelKeys
from pathtune.data.neighbours import attach_graph
from pathtune.data.order import in_order, shuffled
from pathtune.data.readers import SHIPPED, demo_file, from_atoms, read_frames, read_structures
from pathtune.data.structure import ISOLATED_ATOM, Graph, Structure, check_elements, composition, elements_of

__all__ = [
    "ISOLATED_ATOM",
    "NO_VOLUME_A3",
    "SHIPPED",
    "Batch",
    "Graph",
    "LabelKeys",
    "Structure",
    "attach_graph",
    "check_elements",
    "collate",
    "composition",
    "demo_file",
    "elements_of",
    "from_atoms",
    "in_order",
    "read_frames",
    "read_structures",
    "shuffled",
]
