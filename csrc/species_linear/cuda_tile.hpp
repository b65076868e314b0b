// The pieces of a tiled product that the kernels of species_linear share: a Tile x Tile block of the output
// belongs to a block of threads, 4 x 4 of it to each thread; slabs of `slab` inner indices go through shared
// memory, in two buffers, so that the next slab is on its way while one is multiplied.
#pragma once
#include "portability.hpp"

namespace pathtune::cuda {

constexpr int slab = 16;

template <class T>
constexpr int vector_width = 16 / int(sizeof(T));

template <int Tile>
constexpr int threads_of = Tile * Tile / 16;

// Length of a line of a slab in shared memory: 16 bytes more than the tile, against bank conflicts.
template <class T, int Tile>
constexpr int stride_of = Tile + vector_width<T>;

// What one thread fetches of a slab: of Lines lines, Length long and contiguous in memory, W elements at
// once.
template <class T, int Lines, int Length, int Threads, int W>
struct Fetched {
  static constexpr int count = Lines * Length / (Threads * W);
  static constexpr int per_line = Length / W;
  Pack<T, W> value[count];

  // line(l): where line l begins, or nullptr; elements first .. end - 1 of it exist, and W divides end.
  template <class Line>
  __device__ __forceinline__ void load(Line line, int64_t first, int64_t end) {
    PATHTUNE_UNROLL
    for (int t = 0; t < count; ++t) {
      const int i = int(threadIdx.x) + t * Threads;
      const int64_t place = first + i % per_line * W;
      const T* from = line(i / per_line);
      value[t] =
          from && place < end ? global_load(reinterpret_cast<const Pack<T, W>*>(from + place)) : Pack<T, W>{};
    }
  }
  __device__ __forceinline__ void multiply(T scale) {
    PATHTUNE_UNROLL
    for (int t = 0; t < count; ++t) {
      PATHTUNE_UNROLL
      for (int e = 0; e < W; ++e) value[t].v[e] *= scale;
    }
  }
  // to[line][place], lines `Stride` long
  template <int Stride>
  __device__ __forceinline__ void store(T* to) const {
    PATHTUNE_UNROLL
    for (int t = 0; t < count; ++t) {
      const int i = int(threadIdx.x) + t * Threads;
      *reinterpret_cast<Pack<T, W>*>(to + i / per_line * Stride + i % per_line * W) = value[t];
    }
  }
  // to[place][line]
  template <int Stride>
  __device__ __forceinline__ void store_transposed(T* to) const {
    PATHTUNE_UNROLL
    for (int t = 0; t < count; ++t) {
      const int i = int(threadIdx.x) + t * Threads;
      PATHTUNE_UNROLL
      for (int e = 0; e < W; ++e) to[(i % per_line * W + e) * Stride + i / per_line] = value[t].v[e];
    }
  }
};

template <class T>
__device__ __forceinline__ void read_four(const T* from, T (&to)[4]) {
  constexpr int W = vector_width<T>;
  PATHTUNE_UNROLL
  for (int i = 0; i < 4; i += W) {
    const Pack<T, W> p = *reinterpret_cast<const Pack<T, W>*>(from + i);
    PATHTUNE_UNROLL
    for (int e = 0; e < W; ++e) to[i + e] = p.v[e];
  }
}

// This thread's 4 x 4 of the tile: rows row(), columns column() on.
template <class T, int Tile>
struct Accumulator {
  T sum[4][4] = {};

  static __device__ int row() { return int(threadIdx.x) / (Tile / 4) * 4; }
  static __device__ int column() { return int(threadIdx.x) % (Tile / 4) * 4; }

  // a[inner][row], b[inner][column]
  __device__ __forceinline__ void add_slab(const T* a, const T* b) {
    PATHTUNE_UNROLL
    for (int k = 0; k < slab; ++k) {
      T left[4], right[4];
      read_four(a + k * stride_of<T, Tile> + row(), left);
      read_four(b + k * stride_of<T, Tile> + column(), right);
      PATHTUNE_UNROLL
      for (int i = 0; i < 4; ++i) {
        PATHTUNE_UNROLL
        for (int j = 0; j < 4; ++j) sum[i][j] += left[i] * right[j];
      }
    }
  }

  // to[c] = sum[i][c - column] for the columns c below n_columns, which W divides
  template <int W>
  __device__ __forceinline__ void store_row(T* to, int i, int64_t first, int64_t n_columns) const {
    PATHTUNE_UNROLL
    for (int j = 0; j < 4; j += W) {
      const int64_t c = first + column() + j;
      if (c >= n_columns) continue;
      Pack<T, W> p;
      PATHTUNE_UNROLL
      for (int e = 0; e < W; ++e) p.v[e] = sum[i][j + e];
      global_store(reinterpret_cast<Pack<T, W>*>(to + c), p);
    }
  }

  // to[c] += scale sum[i][c - column] for the columns c below n_columns, which W divides
  template <int W>
  __device__ __forceinline__ void add_row_to(T* to, int i, int64_t first, int64_t n_columns, T scale) const {
    PATHTUNE_UNROLL
    for (int j = 0; j < 4; j += W) {
      const int64_t c = first + column() + j;
      if (c >= n_columns) continue;
      auto* place = reinterpret_cast<Pack<T, W>*>(to + c);
      Pack<T, W> p = global_load(place);
      PATHTUNE_UNROLL
      for (int e = 0; e < W; ++e) p.v[e] += scale * sum[i][j + e];
      global_store(place, p);
    }
  }
};

}  // namespace pathtune::cuda
