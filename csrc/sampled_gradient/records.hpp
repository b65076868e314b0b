// What sampled_gradient gets from Python: python/pathtune/ops/sampled_gradient.py, and _sampled_cuda.py for
// CUDA.
#pragma once
#include <vector>

#include "record.hpp"
#include "sampled_gradient/sampled_gradient.hpp"
#include "species_linear/records.hpp"

namespace pathtune {

namespace record {
// end_term: one past the layer's last among the terms of the call
PATHTUNE_RECORD(SampledLayer, blocks, runs, u_tiles, v_tiles, v_row, place, n_blocks, n_candidates, paths,
                coefficients, dim_in, dim_out, first_term, end_term, other, delta, segment, n_thresholds,
                grad_values, grad_thresholds)
PATHTUNE_RECORD(SampledTerm, x, g, order, ptr, present, n_present)
// for CUDA
PATHTUNE_RECORD(SampledDeviceLayer, items, channels, place, n_items, n_candidates, dim_in, dim_out,
                first_term, end_term, n_chunks, partial, other, delta, segment, n_thresholds, block_sums,
                grad_values, grad_thresholds)
}  // namespace record

template <class T>
std::vector<SampledTerm<T>> sampled_terms(const std::vector<record::SampledTerm>& records) {
  std::vector<SampledTerm<T>> terms;
  for (const auto& given : records)
    terms.push_back({.x = at<const T>(given.x),
                     .g = at<const T>(given.g),
                     .groups = groups_of(given),
                     .n_present = given.n_present});
  return terms;
}

template <class T>
SampledLayer<T> sampled_layer(const record::SampledLayer& given, const SampledTerm<T>* terms) {
  const SampledIndex candidates{.blocks = at<const SampledBlock>(given.blocks),
                                .runs = at<const SampledRun>(given.runs),
                                .u_tiles = at<const int32_t>(given.u_tiles),
                                .v_tiles = at<const int32_t>(given.v_tiles),
                                .v_row = at<const int32_t>(given.v_row),
                                .place = at<const int32_t>(given.place),
                                .n_blocks = given.n_blocks,
                                .n_candidates = given.n_candidates};
  return {.candidates = candidates,
          .paths = at<const SpeciesLinearPath>(given.paths),
          .coefficients = at<const double>(given.coefficients),
          .dim_in = given.dim_in,
          .dim_out = given.dim_out,
          .terms = terms + given.first_term,
          .n_terms = given.end_term - given.first_term,
          .other = at<const T>(given.other),
          .delta = at<const T>(given.delta),
          .segment = at<const int64_t>(given.segment),
          .n_thresholds = given.n_thresholds,
          .grad_values = at<T>(given.grad_values),
          .grad_thresholds = at<T>(given.grad_thresholds)};
}

}  // namespace pathtune
