"""Named shapes of the operator benchmarks."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractionCase:
    """One symmetric contraction of a model, and a batch for it."""

    lmax: int  # of A: n_ell = (lmax + 1)^2
    irreps_out: str
    correlation: int
    mul: int
    n_species: int = 89  # of the model
    n_present: int = 3
    n_nodes: int = 64


CONTRACTIONS = {
    "mp-0b3-medium-layer-1": ContractionCase(lmax=3, irreps_out="128x0e+128x1o", correlation=3, mul=128),
    "mp-0b3-medium-layer-2": ContractionCase(lmax=3, irreps_out="128x0e", correlation=3, mul=128),
}
