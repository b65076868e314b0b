// Small matrix products whose rows lie anywhere in memory, shared by the kernels that group rows:
//   multiply          y[r, v] += c sum_u x[r, u] W[u, v]
//   accumulate_outer  W[u, v] += c sum_r x[r, u] y[r, v]
// One thread runs one call. A tile of rows x vectors stays in registers over the inner loop; W is read
// in place (row stride ld), because a species' slice is strided and packing it would cost as much as it
// saves at the 10 to 100 rows that a species has in a batch.
#pragma once
#include <algorithm>
#include <cstdint>

#include "vector.hpp"

namespace pathtune::PATHTUNE_ISA {

constexpr int tile_rows = 4;
constexpr int tile_vectors = vector_bytes == 64 ? 4 : 2;  // 16 of 32, or 8 of 16 registers

// Rows x Vectors accumulators; `tail` > 0: only so many lanes of the last vector exist.
template <class T, int Rows, int Vectors>
inline void multiply_tile(const T* const* x, T* const* y, const T* w, int64_t ld, int n_inner, T c,
                          int tail) {
  Vector<T> sum[Rows][Vectors] = {};
  for (int u = 0; u < n_inner; ++u) {
    Vector<T> wv[Vectors];
    for (int b = 0; b < Vectors; ++b)
      wv[b] = (tail && b == Vectors - 1) ? load_partial(w + u * ld + b * n_lanes<T>, tail)
                                         : load(w + u * ld + b * n_lanes<T>);
    for (int r = 0; r < Rows; ++r)
      for (int b = 0; b < Vectors; ++b) sum[r][b] += x[r][u] * wv[b];
  }
  for (int r = 0; r < Rows; ++r)
    for (int b = 0; b < Vectors; ++b) {
      T* to = y[r] + b * n_lanes<T>;
      if (tail && b == Vectors - 1)
        store_partial(to, load_partial(to, tail) + c * sum[r][b], tail);
      else
        store(to, load(to) + c * sum[r][b]);
    }
}

template <class T, int Rows>
inline void multiply_rows(const T* const* x, T* const* y, const T* w, int64_t ld, int n_inner, int n_outer,
                          T c) {
  constexpr int lanes = n_lanes<T>;
  int v = 0;
  T* at[Rows];
  auto advance = [&](int v0) {
    for (int r = 0; r < Rows; ++r) at[r] = y[r] + v0;
    return at;
  };
  for (; v + tile_vectors * lanes <= n_outer; v += tile_vectors * lanes)
    multiply_tile<T, Rows, tile_vectors>(x, advance(v), w + v, ld, n_inner, c, 0);
  for (; v + lanes <= n_outer; v += lanes) multiply_tile<T, Rows, 1>(x, advance(v), w + v, ld, n_inner, c, 0);
  if (v < n_outer) multiply_tile<T, Rows, 1>(x, advance(v), w + v, ld, n_inner, c, n_outer - v);
}

template <class T>
inline void multiply(int n_rows, const T* const* x, T* const* y, const T* w, int64_t ld, int n_inner,
                     int n_outer, T c) {
  int r = 0;
  for (; r + tile_rows <= n_rows; r += tile_rows)
    multiply_rows<T, tile_rows>(x + r, y + r, w, ld, n_inner, n_outer, c);
  for (; r < n_rows; ++r) multiply_rows<T, 1>(x + r, y + r, w, ld, n_inner, n_outer, c);
}

// Rows u0 .. u0 + Cols - 1 of W, one stretch of v.
template <class T, int Cols, int Vectors>
inline void outer_tile(int n_rows, const T* const* x, const T* const* y, T* w, int64_t ld, int u, int v, T c,
                       int tail) {
  Vector<T> sum[Cols][Vectors] = {};
  for (int r = 0; r < n_rows; ++r) {
    Vector<T> yv[Vectors];
    for (int b = 0; b < Vectors; ++b) {
      const T* from = y[r] + v + b * n_lanes<T>;
      yv[b] = (tail && b == Vectors - 1) ? load_partial(from, tail) : load(from);
    }
    for (int k = 0; k < Cols; ++k)
      for (int b = 0; b < Vectors; ++b) sum[k][b] += x[r][u + k] * yv[b];
  }
  for (int k = 0; k < Cols; ++k)
    for (int b = 0; b < Vectors; ++b) {
      T* to = w + (u + k) * ld + v + b * n_lanes<T>;
      if (tail && b == Vectors - 1)
        store_partial(to, load_partial(to, tail) + c * sum[k][b], tail);
      else
        store(to, load(to) + c * sum[k][b]);
    }
}

// Rows u_begin .. u_end - 1 of W: the caller shares them out among threads.
template <class T>
inline void accumulate_outer(int n_rows, const T* const* x, const T* const* y, T* w, int64_t ld, int u_begin,
                             int u_end, int n_outer, T c) {
  constexpr int lanes = n_lanes<T>;
  auto columns = [&](auto cols, int u) {
    constexpr int n = decltype(cols)::value;
    int v = 0;
    for (; v + tile_vectors * lanes <= n_outer; v += tile_vectors * lanes)
      outer_tile<T, n, tile_vectors>(n_rows, x, y, w, ld, u, v, c, 0);
    for (; v + lanes <= n_outer; v += lanes) outer_tile<T, n, 1>(n_rows, x, y, w, ld, u, v, c, 0);
    if (v < n_outer) outer_tile<T, n, 1>(n_rows, x, y, w, ld, u, v, c, n_outer - v);
  };
  int u = u_begin;
  for (; u + 4 <= u_end; u += 4) columns(std::integral_constant<int, 4>{}, u);
  for (; u < u_end; ++u) columns(std::integral_constant<int, 1>{}, u);
}

}  // namespace pathtune::PATHTUNE_ISA
