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
CONV, WALK, CONV_TILE, SENDERS = (
    f"edge_conv/{name}" for name in ("cuda.cu", "cuda_walk.hpp", "cuda_tile.hpp", "cuda_senders.cu")
)
POLYNOMIAL, SEGMENT, COEFFICIENTS = (
    f"symmetric_contraction/{name}" for name in ("cuda.cu", "cuda_segment.hpp", "cuda_coefficients.cu")
)
SAMPLED = "sampled_gradient/cuda.cu"
THRESHOLD = "soft_threshold/cuda.cu"
RADIAL, GEOMETRY = "radial_table/cuda.cu", "edge_geometry/cuda.cu"
SYNC = "__syncthreads();\n"

DEFECTS = [
    Defect("species_linear", "no barrier between the slab's store and its use", LINEAR,
           "    __syncthreads();  // also: nobody reads the other buffer any more when the next slab is stored\n", ""),
    Defect("species_linear", "one buffer for two slabs", LINEAR,
           "t < output.end_term; buffer ^= 1", "t < output.end_term; buffer ^= 0"),
    Defect("species_linear", "the first block of an irrep taken for its neighbour's", LINEAR,
           "int64_t(blockIdx.x) >= p.outputs[o + 1].first_block", "int64_t(blockIdx.x) > p.outputs[o + 1].first_block"),
    Defect("species_linear", "a later path begins in the middle of its rows", LINEAR, "      inner = 0;\n", ""),
    Defect("species_linear", "an irrep's paths begin with those of the irreps before it", LINEAR,
           "    output.first_term = output.end_term = p.n_terms;\n    for",
           "    output.end_term = p.n_terms;\n    for"),
    Defect("species_linear", "a row beyond the species", LINEAR, "place < tile.end ?", "place <= tile.end ?"),
    Defect("species_linear", "a column beyond the block of weights", TILE,
           "if (c >= n_columns) continue;\n      Pack<T, W> p;", "if (c > n_columns) continue;\n      Pack<T, W> p;"),
    Defect("species_linear", "the neighbouring tile's species", GROUPS, "first <= tile && tile < first + own",
           "first < tile && tile <= first + own"),
    Defect("species_linear", "no barrier after the species is found", GROUPS, "  __syncthreads();\n  return found[0];",
           "  return found[0];"),
    Defect("species_linear", "a ragged slab reads on", TILE, "from && place < end ?", "from && place < end + 1 ?"),
    Defect("edge_conv", "no barrier after the harmonics are staged", CONV,
           f"    {SYNC}    for (int batch", "    for (int batch"),
    Defect("edge_conv", "no barrier before the walk", CONV, f"      {SYNC}      walk_batch", "      walk_batch"),
    Defect("edge_conv", "no barrier after the walk", CONV,
           f"(t, first_path, end_path);\n      {SYNC}", "(t, first_path, end_path);\n"),
    Defect("edge_conv", "gw of a shared row stored, not added", WALK,
           "global_add(to + v, gw[v])", "global_store(to + v, gw[v])"),
    Defect("edge_conv", "gx stored, not added", WALK,
           "global_add(to + i * path.mul + v, gx[i][e][v])", "global_store(to + i * path.mul + v, gx[i][e][v])"),
    Defect("edge_conv", "harmonics of an edge beyond the last", CONV_TILE, "if (e < n_edges) {", "if (e <= n_edges) {"),
    Defect("edge_conv", "a sum over lanes taken for its neighbour", WALK,
           "at += is_upper ? n : 0", "at += is_upper ? n - 1 : 0"),
    Defect("edge_conv", "an adjoint in the place of a value", WALK,
           "a[i][e][v] * x[i][e][v];", "a[i][e][v] * ax[i][e][v];"),
    Defect("edge_conv", "no barrier before a sender's end", SENDERS,
           "  __syncthreads();  // the paths, where a sender has no edges\n", ""),
    Defect("edge_conv", "a sender's edges out of their order", SENDERS,
           "global_load(a.graph.sender_order + begin + local)", "int64_t(begin + local)"),
    Defect("symmetric_contraction", "no barrier before the warps are summed", POLYNOMIAL,
           f"  if (output >= 0) out[output] = sum;\n  {SYNC}", "  if (output >= 0) out[output] = sum;\n"),
    Defect("symmetric_contraction", "no barrier after a is staged", POLYNOMIAL,
           f"  {SYNC}\n  int output = -1;", "\n  int output = -1;"),
    Defect("symmetric_contraction", "the last warp's part left out", POLYNOMIAL,
           "for (int64_t r = 1; r < n_rows; ++r)", "for (int64_t r = 1; r + 1 < n_rows; ++r)"),
    Defect("symmetric_contraction", "a channel beyond the last", SEGMENT,
           "first + n < end && channel < mul ?", "first + n < end ?"),
    Defect("symmetric_contraction", "one factor's derivative left out", POLYNOMIAL,
           "  add_product(ga[second], rest, a[first]);\n", ""),
    Defect("symmetric_contraction", "no barrier before the next nodes are staged", COEFFICIENTS,
           f"    {SYNC}    for (int64_t pack = 0;", "    for (int64_t pack = 0;"),
    Defect("sampled_gradient", "no barrier before new bounds", SAMPLED,
           "  __syncthreads();  // the previous bounds have been read\n", ""),
    Defect("sampled_gradient", "no barrier after a tile is staged", SAMPLED,
           f"stage<T, 1>(g, item.g_width, gs);\n      {SYNC}", "stage<T, 1>(g, item.g_width, gs);\n"),
    Defect("sampled_gradient", "no barrier before the next tile", SAMPLED,
           f"sum, lost);\n      {SYNC}", "sum, lost);\n"),
    Defect("sampled_gradient", "a row beyond the species", SAMPLED, "if (row < n_rows) {", "if (row <= n_rows) {"),
    Defect("sampled_gradient", "no barrier between two sums of a block", SAMPLED,
           "  __syncthreads();  // the previous sum has been read\n", ""),
    Defect("sampled_gradient", "an inactive entry receives its gradient", SAMPLED,
           "is_active ? T(a) : T(0)", "T(a)"),
    Defect("soft_threshold", "counts stored, not added", THRESHOLD,
           "global_add(counts + 2 * l, Count(n_active))", "global_store(counts + 2 * l, Count(n_active))"),
    Defect("soft_threshold", "a candidate beyond the last", THRESHOLD,
           "if (q < layer.n_candidates) {", "if (q <= layer.n_candidates) {"),
    Defect("soft_threshold", "the sign of a negative delta", THRESHOLD,
           "delta = value < 0 ? value + d : value - d;", "delta = value - d;"),
    Defect("soft_threshold", "everybody under the first threshold", THRESHOLD,
           "layer.segment ? global_load(layer.segment + q) : 0", "0"),
    Defect("radial_table", "a row beyond the last", RADIAL, "if (n >= rows.n_rows) return;  // the whole warp",
           "if (n > rows.n_rows) return;"),
    Defect("radial_table", "the next table's segment at a table's end", RADIAL, "if (x >= double(", "if (x > double("),
    Defect("radial_table", "lanes that share columns", RADIAL,
           "c = threadIdx.x % 32 * V; c < end", "c = threadIdx.x % 32; c < end"),
    Defect("radial_table", "a sum over half a warp", RADIAL, "int distance = 16;", "int distance = 8;"),
    Defect("radial_table", "a power where its derivative counts down", RADIAL, "product *= k - i", "product *= k"),
    Defect("radial_table", "every row in the first table", RADIAL,
           "rows.slot ? global_load(rows.slot + n) : 0", "0"),
    Defect("edge_geometry", "a row beyond the last", GEOMETRY,
           "if (n >= rows.n_rows) return;\n  const Direction<T> at = direction(vectors, n);\n  T p[",
           "if (n > rows.n_rows) return;\n  const Direction<T> at = direction(vectors, n);\n  T p["),
    Defect("edge_geometry", "a row's last edge left out", GEOMETRY, "q < end; ++q", "q + 1 < end; ++q"),
    Defect("edge_geometry", "harmonics written by row, not by edge", GEOMETRY, "global_store(to + e *",
           "global_store(to + n *"),
    Defect("edge_geometry", "even harmonics turned with the edge", GEOMETRY,
           "(l % 2 ? sign : T(1)) * p[i]", "sign * p[i]"),
    Defect("edge_geometry", "cotangents of a reversed edge not turned", GEOMETRY,
           "(l % 2 ? sign : T(1)) * global_load", "global_load"),
    Defect("edge_geometry", "the inverse length held constant", GEOMETRY, "-along * at.inverse * at.inverse", "T(0)"),
]  # fmt: skip
