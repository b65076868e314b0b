"""Defects planted into copies of the kernels, to see that the checks find them.

Each replaces one text, which must occur exactly once in its file, by another that compiles. The kinds: a barrier left
out, a bound off by one, an accumulation without atomics or with two owners, a wrong index, a stale value.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Defect:
    """One edit, and the operator whose tiny tests are to fail."""

    operator: str
    name: str
    file: str  # in csrc
    find: str
    replace: str


LINEAR, TILE, GROUPS = (f"species_linear/{name}" for name in ("cuda.cu", "cuda_tile.hpp", "cuda_groups.hpp"))

DEFECTS = [
    Defect("species_linear", "no barrier between the slab's store and its use", LINEAR,
           "    __syncthreads();  // also: nobody reads the other buffer any more when the next slab is stored\n", ""),
    Defect("species_linear", "one buffer for two slabs", LINEAR,
           "inner += slab, buffer ^= 1", "inner += slab, buffer ^= 0"),
    Defect("species_linear", "a row beyond the species", LINEAR, "place < tile.end ?", "place <= tile.end ?"),
    Defect("species_linear", "a column beyond the block of weights", TILE, "if (c >= n_columns) continue;",
           "if (c > n_columns) continue;"),
    Defect("species_linear", "the neighbouring tile's species", GROUPS, "first <= tile && tile < first + own",
           "first < tile && tile <= first + own"),
    Defect("species_linear", "no barrier after the species is found", GROUPS, "  __syncthreads();\n  return found[0];",
           "  return found[0];"),
    Defect("species_linear", "a ragged slab reads on", TILE, "from && place < end ?", "from && place < end + 1 ?"),
]  # fmt: skip
