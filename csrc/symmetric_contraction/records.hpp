// What symmetric_contraction gets from Python: python/pathtune/ops/symmetric_contraction.py.
#pragma once
#include "record.hpp"
#include "species_linear/records.hpp"
#include "symmetric_contraction/symmetric_contraction.hpp"

namespace pathtune {

// The last two of each are the CUDA kernels' table, the CPU's is all between them and the groups.
namespace record {
PATHTUNE_RECORD(ContractionSizes, n_nodes, mul, n_present, n_ell, n_out, n_monomials, n_inner, n_terms,
                n_branches, n_runs, n_segments, n_more)
PATHTUNE_RECORD(ContractionIndex, order, ptr, present, branches, last, runs, term_monomial, first_use, uses,
                segments, more)
}  // namespace record

inline ContractionShape shape_of(const record::ContractionSizes& sizes, int n_threads) {
  return {.n_nodes = sizes.n_nodes, .mul = sizes.mul, .n_present = sizes.n_present, .n_threads = n_threads};
}

}  // namespace pathtune
