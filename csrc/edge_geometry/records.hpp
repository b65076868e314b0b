// What edge_geometry gets from Python: python/pathtune/ops/edge_geometry.py.
#pragma once
#include "edge_geometry/edge_geometry.hpp"
#include "record.hpp"

namespace pathtune {

namespace record {
PATHTUNE_RECORD(EdgeGeometrySizes, n_rows, l_max)
PATHTUNE_RECORD(EdgeGeometryIndex, row_ptr, row_edges, sign, c)
}  // namespace record

inline EdgeGeometryShape shape_of(const record::EdgeGeometrySizes& sizes, int n_threads) {
  return {.n_rows = sizes.n_rows, .l_max = int(sizes.l_max), .n_threads = n_threads};
}

template <class T>
EdgeGeometryRows<T> rows_of(const record::EdgeGeometryIndex& index) {
  return {.row_ptr = at<const int64_t>(index.row_ptr),
          .row_edges = at<const int64_t>(index.row_edges),
          .sign = at<const T>(index.sign),
          .c = at<const double>(index.c)};
}

}  // namespace pathtune
