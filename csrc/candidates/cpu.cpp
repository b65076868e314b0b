#include <algorithm>

#include "candidates.hpp"

namespace pathtune {
namespace {

struct Entry {
  int64_t u, species, v;
  int32_t place;
};

// One block: candidates of one path and species, whose u, and v within a u, ascend.
void add_block(const std::vector<Entry>& entries, int64_t begin, int64_t end, int64_t path, int64_t mul_out,
               std::vector<int32_t>& rank_of_tile, GroupedCandidates& out) {
  const int64_t first_u = int64_t(out.u_tiles.size()), first_v = int64_t(out.v_tiles.size());
  const int64_t first_run = int64_t(out.runs.size()) / 2;
  rank_of_tile.assign(size_t((mul_out + tile_channels - 1) / tile_channels), -1);
  for (int64_t k = begin; k < end; ++k) rank_of_tile[size_t(entries[size_t(k)].v / tile_channels)] = 0;
  for (size_t tile = 0; tile < rank_of_tile.size(); ++tile) {
    if (rank_of_tile[tile] < 0) continue;
    rank_of_tile[tile] = int32_t(int64_t(out.v_tiles.size()) - first_v);
    out.v_tiles.push_back(int32_t(int64_t(tile) * tile_channels));
  }
  int64_t tile_of_u = -1;
  for (int64_t k = begin; k < end; ++k) {
    const Entry& entry = entries[size_t(k)];
    if (entry.u / tile_channels != tile_of_u) {
      tile_of_u = entry.u / tile_channels;
      out.u_tiles.push_back(int32_t(tile_of_u * tile_channels));
    }
    const int64_t rank_of_v = rank_of_tile[size_t(entry.v / tile_channels)];
    out.v_row.push_back(int32_t(rank_of_v * tile_channels + entry.v % tile_channels));
    out.place.push_back(entry.place);
    if (k + 1 < end && entries[size_t(k + 1)].u == entry.u) continue;
    const int64_t rank_of_u = int64_t(out.u_tiles.size()) - 1 - first_u;
    out.runs.push_back(int32_t(rank_of_u * tile_channels + entry.u % tile_channels));
    out.runs.push_back(int32_t(k + 1));
  }
  const int64_t fields[] = {path,      entries[size_t(begin)].species, begin,   end,
                            first_run, int64_t(out.runs.size()) / 2,   first_u, int64_t(out.u_tiles.size()),
                            first_v,   int64_t(out.v_tiles.size())};
  out.blocks.insert(out.blocks.end(), std::begin(fields), std::end(fields));
}

}  // namespace

GroupedCandidates group_candidates(const int64_t* indices, int64_t n, const std::vector<PathShape>& shapes) {
  GroupedCandidates out;
  out.v_row.reserve(size_t(n));
  out.place.reserve(size_t(n));
  std::vector<Entry> entries(static_cast<size_t>(n));
  std::vector<int64_t> begins;
  std::vector<int32_t> rank_of_tile;
  int64_t offset = 0, begin = 0;
  for (size_t path = 0; path < shapes.size(); ++path) {
    const PathShape& shape = shapes[path];
    const int64_t past = offset + shape.mul_in * shape.n_species * shape.mul_out;
    const int64_t end = std::lower_bound(indices + begin, indices + n, past) - indices;
    begins.assign(size_t(shape.n_species) + 1, 0);  // of each species, by counting
    const auto species_of = [&](int64_t k) {
      return (indices[k] - offset) / shape.mul_out % shape.n_species;
    };
    for (int64_t k = begin; k < end; ++k) ++begins[size_t(species_of(k)) + 1];
    begins[0] = begin;
    for (size_t s = 1; s < begins.size(); ++s) begins[s] += begins[s - 1];
    std::vector<int64_t> next(begins.begin(), begins.end() - 1);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t row = (indices[k] - offset) / shape.mul_out, species = row % shape.n_species;
      entries[size_t(next[size_t(species)]++)] = {row / shape.n_species, species,
                                                  (indices[k] - offset) % shape.mul_out, int32_t(k)};
    }
    for (size_t s = 0; s + 1 < begins.size(); ++s)
      if (begins[s] < begins[s + 1])
        add_block(entries, begins[s], begins[s + 1], int64_t(path), shape.mul_out, rank_of_tile, out);
    offset = past;
    begin = end;
  }
  return out;
}

}  // namespace pathtune
