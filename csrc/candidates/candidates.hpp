// The candidate entries of a layer's weights, grouped as sampled_gradient wants them: by path, species and
// row of W. Where candidates are dropped this is done at every narrowing, for every layer: in one pass over
// them, on one thread, in the place of some fifty operations of torch.
//
//   flat index  i = offset of the path + (u n_species + species) mul_out + v
#pragma once
#include <cstdint>
#include <vector>

#include "sampled_gradient/sampled_gradient.hpp"

namespace pathtune {

struct PathShape {
  int64_t mul_in, n_species, mul_out;
};

struct GroupedCandidates {
  std::vector<int64_t> blocks;            // [n_blocks, 10], the fields of SampledBlock
  std::vector<int32_t> runs;              // [n_runs, 2]: compact row of u, one past the last candidate
  std::vector<int32_t> u_tiles, v_tiles;  // first channel of each tile that a block uses
  std::vector<int32_t> v_row, place;      // [n]: compact row of v; of the grouped candidate among `indices`
};

// `indices` [n] ascend and lie in the layer, which the caller has checked.
GroupedCandidates group_candidates(const int64_t* indices, int64_t n, const std::vector<PathShape>& shapes);

}  // namespace pathtune
