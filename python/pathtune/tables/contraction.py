"""A symmetric contraction becomes a polynomial: U and weights -> monomials and their coefficients.

mace writes out = sum over ordered index tuples of U[k, i1, .., id, p] W[s, p, u] a[i1, u] .. a[id, u]. The
product does not depend on the order of the indices, so U is summed over the tuples of equal multiset:
4,096 entries of degree 3 become 816 monomials at most, of which symmetry leaves a few hundred.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch

Monomial = tuple[int, ...]  # sorted indices of its factors
# Of a table's tensors those that the kernels read.
INDEX = ("branches", "last", "runs", "term_monomial", "first_use", "uses", "segments", "more")
# (output component, monomial, coefficients [n_params]) of the terms of one output irrep and degree
Block = list[tuple[int, Monomial, torch.Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractionTable:
    """Tree of monomials and list of terms; their contract is symmetric_contraction.hpp.

    `projections` and the weights that go with them have one order: output irrep by output irrep, and
    within each by rising degree 1, 2, ..
    """

    branches: torch.Tensor  # [n_branches, 3] int32: parent, first child, one past the last child
    last: torch.Tensor  # [n_monomials] int32: the index that a monomial has more than its parent
    runs: torch.Tensor  # [n_runs, 3] int32: output component, first term, one past the last term
    term_monomial: torch.Tensor  # [n_terms] int32
    first_use: torch.Tensor  # [n_monomials + 1] int32: where the uses of each monomial begin
    uses: torch.Tensor  # [n_terms, 2] int32: term, output component; the terms sorted by monomial
    segments: torch.Tensor  # [n_segments, 8] int32: the terms as symmetric_contraction/cuda.hpp wants them
    more: torch.Tensor  # [n_segments, highest degree - 3 or 0] int32: factors of a head after the second
    projections: tuple[torch.Tensor, ...]  # of each (irrep, degree): [n_terms of it, n_params] float64
    n_ell: int
    n_out: int
    n_inner: int  # monomials n_inner .. n_monomials - 1 have no children

    @property
    def n_monomials(self) -> int:
        """Number of monomials, the empty one and parents that feed no output included."""
        return self.last.numel()

    @property
    def n_terms(self) -> int:
        """Number of (monomial, output component) pairs, each with one coefficient per species and channel."""
        return self.term_monomial.numel()

    def index(self, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """What the kernels read, by its name. Copies on another device are made once."""
        tensors = self._copied("index", tuple(getattr(self, name) for name in INDEX), device)
        return dict(zip(INDEX, tensors))

    def projections_like(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The projections in the dtype and on the device of x."""
        return self._copied("projections", self.projections, x.device, x.dtype)

    def _copied(self, name: str, tensors, device, dtype=None) -> tuple[torch.Tensor, ...]:
        if all(t.device == torch.device(device) and dtype in (None, t.dtype) for t in tensors):
            return tensors
        key = name, torch.device(device), dtype
        if key not in self._copies:
            with torch.inference_mode(False):  # autograd may save them
                self._copies[key] = tuple(t.to(device, dtype) for t in tensors)
        return self._copies[key]

    @functools.cached_property
    def _copies(self) -> dict:
        return {}


def contraction_table(outputs: Sequence[Sequence[torch.Tensor]]) -> ContractionTable:
    """Table for `outputs[irrep][degree - 1]` = U of shape [2l+1, n_ell, .. (degree times), n_params].

    Sums below the rounding of U's dtype are taken as zero. Raises ValueError when a shape disagrees.
    """
    if not outputs or not outputs[0]:
        raise ValueError("contraction_table: no U tensor, expected one per output irrep and degree")
    n_ell = outputs[0][0].shape[1]
    blocks = []
    offset = 0
    for i, by_degree in enumerate(outputs):
        n_components = by_degree[0].shape[0]
        for degree, u in enumerate(by_degree, start=1):
            expected = (n_components, *[n_ell] * degree)
            if tuple(u.shape[:-1]) != expected:
                found = f"U of output {i}, degree {degree} has shape {tuple(u.shape)}"
                raise ValueError(f"contraction_table: {found}, expected {expected} and n_params")
            blocks.append((_terms(u, offset), u.shape[-1]))
        offset += n_components
    monomials, last, branches = _tree({m for terms, _ in blocks for _, m, _ in terms})
    index = {m: i for i, m in enumerate(monomials)}
    runs = []
    begin = 0
    for terms, _ in blocks:
        for output, run in itertools.groupby(terms, key=lambda term: term[0]):
            end = begin + len(list(run))
            runs.append((output, begin, end))
            begin = end
    term_monomial = [index[m] for terms, _ in blocks for _, m, _ in terms]
    term_output = [output for terms, _ in blocks for output, _, _ in terms]
    order = sorted(range(len(term_monomial)), key=term_monomial.__getitem__)
    first_use = [bisect.bisect_left(order, m, key=term_monomial.__getitem__) for m in range(len(monomials) + 1)]
    segments, more = _segments(zip(term_output, (monomials[m] for m in term_monomial)), n_ell)
    int32 = lambda rows: torch.tensor(rows, dtype=torch.int32)  # noqa: E731
    return ContractionTable(
        branches=int32(branches).reshape(-1, 3),
        last=int32(last),
        runs=int32(runs).reshape(-1, 3),
        term_monomial=int32(term_monomial),
        first_use=int32(first_use),
        uses=int32([(q, term_output[q]) for q in order]).reshape(-1, 2),
        segments=segments,
        more=more,
        projections=tuple(_projection(terms, n_params) for terms, n_params in blocks),
        n_ell=n_ell,
        n_out=offset,
        n_inner=1 + max((parent for parent, _, _ in branches), default=0),
    )


def _terms(u: torch.Tensor, offset: int) -> Block:
    """Terms of one U, sorted by (component, monomial); components count from `offset`."""
    n_ell = u.shape[1]
    degree = u.ndim - 2
    tuples = torch.cartesian_prod(*[torch.arange(n_ell)] * degree).reshape(-1, degree)
    multisets, which = torch.unique(tuples.sort(dim=1).values, dim=0, return_inverse=True)
    values = u.detach().double().cpu().reshape(u.shape[0], -1, u.shape[-1])
    sums = values.new_zeros(u.shape[0], multisets.shape[0], u.shape[-1]).index_add(1, which, values)
    # U built in float32 leaves sums of 1e-8 where the symmetry says zero: they would double the work.
    cutoff = 16 * torch.finfo(u.dtype).eps * (values.abs().max() if values.numel() else 0)
    rows = multisets.tolist()
    present = (sums.abs() > cutoff).any(-1).nonzero().tolist()
    return [(offset + k, tuple(rows[m]), sums[k, m]) for k, m in present]


def _projection(terms: Block, n_params: int) -> torch.Tensor:
    rows = [row for _, _, row in terms]
    return torch.stack(rows) if rows else torch.zeros(0, n_params, dtype=torch.float64)


def _one_less(m: Monomial) -> list[Monomial]:
    """The monomials that m is one factor more than."""
    return list(dict.fromkeys(m[:k] + m[k + 1 :] for k in range(len(m))))


def _parents(needed: set[Monomial]) -> dict[Monomial, Monomial]:
    """A parent for each monomial, with few that are parents only: each of those is work for no output.

    From the highest degree down; where nothing wanted can be the parent, what suits most orphans is added.
    """
    parents = {}
    wanted = set(needed)
    for degree in range(max(map(len, needed), default=0), 0, -1):
        orphans = sorted(m for m in wanted if len(m) == degree)
        candidates = {m for m in wanted if len(m) == degree - 1}
        while orphans:
            for m in orphans:
                if found := [p for p in _one_less(m) if p in candidates]:
                    parents[m] = found[0]
            orphans = [m for m in orphans if m not in parents]
            if orphans:
                candidates.add(Counter(p for m in orphans for p in _one_less(m)).most_common(1)[0][0])
        wanted |= candidates
    return parents


def _tree(needed: set[Monomial]) -> tuple[list[Monomial], list[int], list[tuple[int, int, int]]]:
    """Monomials, parents first and siblings together; the index that each adds to its parent; branches."""
    children = defaultdict(list)
    for m, parent in _parents(needed).items():
        (last,) = (Counter(m) - Counter(parent)).keys()
        children[parent].append((last, m))
    monomials = [()]
    last = [0]
    branches = []
    for i, parent in enumerate(monomials):  # grows: breadth first
        if parent in children:
            branches.append((i, len(monomials), len(monomials) + len(children[parent])))
            last += [index for index, _ in sorted(children[parent])]
            monomials += [m for _, m in sorted(children[parent])]
    return monomials, last, branches


def _segments(terms: Iterable[tuple[int, Monomial]], n_ell: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Terms (output component, monomial) of one output that share all factors but one, the head; four at most.

    Heads that many terms of the output could have come first, so that segments are few.
    """
    by_output = defaultdict(dict)
    for q, (output, m) in enumerate(terms):
        by_output[output][m] = q
    degree = max([3, *(len(m) for term in by_output.values() for m in term)])
    fixed = []
    packed = []
    more = []
    for output, term in sorted(by_output.items()):
        left = {m + (n_ell,) * (degree - len(m)): q for m, q in term.items()}  # n_ell: the place of a one
        children = defaultdict(list)
        for m in left:
            for head in _one_less(m):
                children[head].append(m)
        for head in sorted(children, key=lambda head: (-len(children[head]), head)):
            found = [m for m in children[head] if m in left]
            for begin in range(0, len(found), 4):
                part = found[begin : begin + 4]
                none = [0] * (4 - len(part))
                tails = [next(iter(Counter(m) - Counter(head))) for m in part]
                fixed.append([left.pop(m) for m in part] + none)
                packed.append([len(part), output, *head[:2], *tails, *none])
                more.append(head[2:])
    halves = torch.tensor(packed, dtype=torch.int16).reshape(-1, 8).view(torch.int32)
    segments = torch.cat([torch.tensor(fixed, dtype=torch.int32).reshape(-1, 4), halves], dim=1)
    return segments, torch.tensor(more, dtype=torch.int32).reshape(len(more), degree - 3)


def contraction_coefficients(
    weights: Sequence[torch.Tensor],  # of each (irrep, degree), as in the table: [n_species, n_params, mul]
    present: torch.Tensor,  # [n_present] species indices
    table: ContractionTable,
) -> torch.Tensor:  # [n_present, n_terms, mul]
    """c[s, q, u] = sum_k projection[q, k] weights[present[s], k, u], differentiable in the weights.

    Raises ValueError when the weights do not match the table.
    """
    if len(weights) != len(table.projections):
        expected = len(table.projections)
        raise ValueError(f"contraction_coefficients: {len(weights)} weight tensors, expected {expected}")
    parts = []
    projections = table.projections_like(weights[0]) if len(weights) else ()
    for i, (w, projection) in enumerate(zip(weights, projections)):
        if w.shape[1] != projection.shape[1]:
            found = f"weights {i} have {w.shape[1]} parameters"
            raise ValueError(f"contraction_coefficients: {found}, expected {projection.shape[1]}")
        parts.append(projection @ w.index_select(0, present))
    return torch.cat(parts, dim=1)
