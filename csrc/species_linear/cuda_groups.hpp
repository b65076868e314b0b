// Tiles of rows of one species, for kernels over nodes grouped by species (SpeciesGroups). The host does not
// know how many nodes a species has: it launches most_tiles() blocks, and each block finds its own tile.
#pragma once
#include "portability.hpp"

namespace pathtune::cuda {

struct SpeciesTile {
  int64_t group;  // into present; -1: there are fewer tiles than blocks
  int64_t begin;  // the nodes of the species are order[begin .. end - 1]
  int64_t end;
  int64_t index;  // of the tile among those of its species
};

// Every species has at most one tile that is not full.
inline int64_t most_tiles(int64_t n_rows, int64_t n_present, int64_t rows_per_tile) {
  return (n_rows + rows_per_tile - 1) / rows_per_tile + n_present;
}

// The first warp scans ptr, 32 species at a time, and tells the block; all threads of the block call it,
// once.
__device__ inline SpeciesTile find_tile(const int64_t* ptr, int64_t n_present, int64_t tile,
                                        int64_t rows_per_node, int64_t rows_per_tile) {
  PATHTUNE_SHARED(SpeciesTile, found, 1);
  if (threadIdx.x < 32) {
    const int lane = int(threadIdx.x);
    if (lane == 0) found[0] = {-1, 0, 0, 0};
    __syncwarp();
    int64_t before = 0;  // tiles of the species scanned so far
    for (int64_t s = lane; s - lane < n_present && before <= tile; s += 32) {
      const int64_t begin = s < n_present ? global_load(ptr + s) : 0;
      const int64_t end = s < n_present ? global_load(ptr + s + 1) : 0;
      const int64_t own = ((end - begin) * rows_per_node + rows_per_tile - 1) / rows_per_tile;
      int64_t sum = own;
      for (int distance = 1; distance < 32; distance *= 2) {
        const int64_t other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) sum += other;
      }
      const int64_t first = before + sum - own;
      if (first <= tile && tile < first + own) found[0] = {s, begin, end, tile - first};
      before += __shfl_sync(0xffffffffu, sum, 31);
    }
  }
  __syncthreads();
  return found[0];
}

}  // namespace pathtune::cuda
