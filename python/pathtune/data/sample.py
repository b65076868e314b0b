"""A part of a large set for what needs no more than a part."""

from __future__ import annotations

import numpy as np

from pathtune.data.source import Source
from pathtune.data.structure import ISOLATED_ATOM

MOST = 20_000  # structures of a sample; a set of no more is its own sample
OF_EACH = 50  # structures with each element, at least
SEED = 0


def sampled(source: Source, label: str, most: int = MOST) -> np.ndarray:
    """Indices, ascending, of at most `most` structures that have the label: all, or a seeded draw.

    The draw has all isolated atoms that are no more than half of it, and of every element at least OF_EACH structures,
    or all, where there is room.
    """
    labelled = np.flatnonzero(source.present[label])
    if len(labelled) <= most:
        return labelled
    generator = np.random.default_rng(SEED)
    chosen = [_isolated(source, labelled)[: most // 2]]
    each = max(1, min(OF_EACH, most // (2 * len(source.elements))))
    for k in range(len(source.elements)):
        having = labelled[np.asarray(source.composition[:, k])[labelled] > 0]
        chosen.append(generator.choice(having, min(each, len(having)), replace=False))
    needed = np.unique(np.concatenate(chosen))[:most]
    rest = generator.permutation(labelled)
    rest = rest[~np.isin(rest, needed)][: most - len(needed)]
    return np.sort(np.concatenate([needed, rest]))


def _isolated(source: Source, labelled: np.ndarray) -> np.ndarray:
    found = getattr(source, "is_isolated", None)
    if found is not None:
        return labelled[found[labelled]]
    return np.array([i for i in labelled if source.read(int(i)).config_type == ISOLATED_ATOM], dtype=np.int64)
