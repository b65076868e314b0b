// What species_linear gets from Python: python/pathtune/ops/species_linear.py.
#pragma once
#include "record.hpp"
#include "species_linear/species_linear.hpp"

namespace pathtune {

namespace record {
PATHTUNE_RECORD(SpeciesLinearSizes, n_nodes, dim_in, dim_out, n_species, weight_numel, n_present, n_paths)
PATHTUNE_RECORD(SpeciesLinearIndex, order, ptr, present, paths, coefficients)
}  // namespace record

inline SpeciesLinearShape shape_of(const record::SpeciesLinearSizes& sizes, int n_threads) {
  return {.n_nodes = sizes.n_nodes,
          .dim_in = sizes.dim_in,
          .dim_out = sizes.dim_out,
          .n_species = sizes.n_species,
          .n_present = sizes.n_present,
          .n_paths = sizes.n_paths,
          .n_threads = n_threads};
}

// Of any record that has these three addresses.
template <class Record>
SpeciesGroups groups_of(const Record& index) {
  return {.order = at<const int64_t>(index.order),
          .ptr = at<const int64_t>(index.ptr),
          .present = at<const int64_t>(index.present)};
}

}  // namespace pathtune
