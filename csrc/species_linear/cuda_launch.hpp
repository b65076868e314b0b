// What the launches of species_linear have in common.
#pragma once
#include "species_linear/cuda_groups.hpp"
#include "species_linear/cuda_tile.hpp"
#include "species_linear/species_linear.hpp"

namespace pathtune::cuda {

// Small tiles until large ones give every multiprocessor two blocks (an H100 has 132).
constexpr int64_t enough_blocks = 264;

// Of a launch; what goes beyond gets another one. Descriptors go by value, within 4 KB.
constexpr int most_outputs = 24, most_terms = 48;

// In the launch bounds: a limit on registers of its own, or ptxas spills to make room for more blocks.
template <int Tile>
constexpr int least_blocks = Tile == 32 ? 4 : 1;

inline int64_t tiles(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }

template <class T>
bool is_vector(int64_t n) {
  return n % vector_width<T> == 0;
}

// Whether rows of the tensors begin on 16 bytes.
template <class T>
bool is_aligned(const SpeciesLinearShape& shape, const void* a, const void* b, const void* c) {
  const auto address =
      reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | reinterpret_cast<uintptr_t>(c);
  return address % 16 == 0 && is_vector<T>(shape.dim_in) && is_vector<T>(shape.dim_out);
}

// Whether rows of this path begin on 16 bytes in such tensors, and are multiples of 16 bytes long.
template <class T>
bool is_aligned(const SpeciesLinearPath& path) {
  return is_vector<T>(path.in_offset) && is_vector<T>(path.out_offset) && is_vector<T>(path.weight_offset) &&
         is_vector<T>(path.mul_in) && is_vector<T>(path.mul_out);
}

}  // namespace pathtune::cuda
