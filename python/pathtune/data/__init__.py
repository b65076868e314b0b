"""Structures and labels: from files to batches of tensors."""

from pathtune.data.batch import (
    NO_VOLUME_A3,
    Batch,
    Comparison,
    EnergyTerm,
    Labelled,
    Request,
    collate,
    perpendicular,
)
from pathtune.data.joined import Joined, Relabelled
from pathtune.data.labels import (
    Label,
    LabelKeys,
    conjugates,
    label_of,
    labels,
    outputs,
    register_label,
    unregister_label,
    weight_options,
)
from pathtune.data.neighbours import Graph, find_graph
from pathtune.data.order import in_order, shuffled
from pathtune.data.readers import SHIPPED, demo_file, from_atoms, read_frames, register_reader
from pathtune.data.source import Frames, Source, as_source, batches, read_structures, split_off, subset
from pathtune.data.structure import ISOLATED_ATOM, Structure, check_elements, composition, elements_of, heads_of

__all__ = [
    "ISOLATED_ATOM",
    "NO_VOLUME_A3",
    "SHIPPED",
    "Batch",
    "Comparison",
    "EnergyTerm",
    "Frames",
    "Graph",
    "Joined",
    "Label",
    "LabelKeys",
    "Labelled",
    "Relabelled",
    "Request",
    "Source",
    "Structure",
    "as_source",
    "batches",
    "check_elements",
    "collate",
    "composition",
    "conjugates",
    "demo_file",
    "elements_of",
    "heads_of",
    "find_graph",
    "from_atoms",
    "in_order",
    "label_of",
    "labels",
    "outputs",
    "perpendicular",
    "read_frames",
    "read_structures",
    "register_label",
    "register_reader",
    "shuffled",
    "split_off",
    "subset",
    "unregister_label",
    "weight_options",
]
