// What radial_table gets from Python: python/pathtune/ops/radial_table.py.
#pragma once
#include "radial_table/radial_table.hpp"
#include "record.hpp"

namespace pathtune {

namespace record {
PATHTUNE_RECORD(RadialTableSizes, n_rows, n_columns, order)
PATHTUNE_RECORD(RadialTableIndex, coefficients, slot, first, n_segments, begin, width)
}  // namespace record

inline RadialTableShape shape_of(const record::RadialTableSizes& sizes, int n_threads) {
  return {.n_rows = sizes.n_rows,
          .n_columns = sizes.n_columns,
          .order = int(sizes.order),
          .n_threads = n_threads};
}

inline RadialTableSlots slots_of(const record::RadialTableIndex& index) {
  return {.first = at<const int64_t>(index.first),
          .n_segments = at<const int64_t>(index.n_segments),
          .begin = at<const double>(index.begin),
          .width = at<const double>(index.width)};
}

}  // namespace pathtune
