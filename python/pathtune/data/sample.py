"""A part of a large set for what needs no more than a part, in memory that does not grow with the set."""

from __future__ import annotations

import numpy as np

from pathtune.data.source import Source
from pathtune.data.structure import ISOLATED_ATOM

MOST = 20_000  # structures of a sample; a set of no more is its own sample
OF_EACH = 50  # structures with each element, at least
SEED = 0
BLOCK = 65_536  # structures looked at together


def sampled(source: Source, label: str, most: int = MOST) -> np.ndarray:
    """Indices, ascending, of at most `most` structures that have the label: all, or a seeded draw.

    The draw has the isolated atoms, as far as they are no more than half of it, and of every element OF_EACH
    structures, or all that there are, where there is room.
    """
    has = source.present[label]
    if np.count_nonzero(has) <= most:
        return np.flatnonzero(has)
    generator = np.random.default_rng(SEED)
    each = max(1, min(OF_EACH, most // (2 * len(source.elements))))
    chosen = [_isolated(source, has, most // 2)]
    chosen += [_with_element(source, has, k, each, generator) for k in range(len(source.elements))]
    needed = np.unique(np.concatenate(chosen))[:most]
    found = set(needed.tolist())
    while len(found) < most:
        drawn = generator.integers(0, len(has), most)
        for i in drawn[has[drawn]].tolist():
            if len(found) < most:
                found.add(i)
    return np.array(sorted(found))


def spaced(source: Source, label: str, n: int) -> list[int]:
    """At most `n` structures that have the label, evenly spaced among those that have it."""
    has = source.present[label]
    count = int(np.count_nonzero(has))
    places = np.linspace(0, count - 1, min(n, count)).round().astype(int)
    return places.tolist() if count == len(has) else np.flatnonzero(has)[places].tolist()


def _with_element(source: Source, has: np.ndarray, k: int, each: int, generator: np.random.Generator) -> np.ndarray:
    """Up to `each` structures with the element in column `k`, looked for from a drawn place on."""
    starts = np.roll(np.arange(0, len(has), BLOCK), -int(generator.integers(0, -(-len(has) // BLOCK))))
    found: list[int] = []
    for start in starts.tolist():
        rows = slice(start, start + BLOCK)
        here = start + np.flatnonzero((source.composition[rows, k] > 0) & has[rows])
        found += generator.choice(here, min(each - len(found), len(here)), replace=False).tolist()
        if len(found) == each:
            break
    return np.array(found, dtype=np.int64)


def _isolated(source: Source, has: np.ndarray, most: int) -> np.ndarray:
    known = getattr(source, "is_isolated", None)
    if known is not None:
        found = np.flatnonzero(known)
        return found[has[found]][:most]
    alone = np.flatnonzero(np.asarray(source.composition).sum(axis=1) == 1)
    return np.array([i for i in alone if has[i] and source.read(int(i)).config_type == ISOLATED_ATOM], int)[:most]
