// Square blocks of [lanes][lanes] in registers: their transpose, and the sums of their rows as one vector.
// Both are made of two steps: within 128-bit units (unpack instructions), then among units.
#pragma once
#include <utility>

#include "vector.hpp"

namespace pathtune::PATHTUNE_ISA {

template <class T>
constexpr int unit_lanes = 16 / int(sizeof(T));
template <class T>
constexpr int n_units = n_lanes<T> / unit_lanes<T>;

// Within each unit, half = 0: a0 b0 a1 b1 of its lower lanes; half = 1: of its upper lanes.
template <class T, int half, int... i>
inline Vector<T> zip(Vector<T> a, Vector<T> b, std::integer_sequence<int, i...>) {
  constexpr int unit = unit_lanes<T>, lanes = n_lanes<T>;
  return __builtin_shufflevector(a, b, (i / unit * unit + half * unit / 2 + i % unit / 2 + i % 2 * lanes)...);
}

// Units parity, parity + 2, .. of a, then those of b.
template <class T, int parity, int... i>
inline Vector<T> unzip_units(Vector<T> a, Vector<T> b, std::integer_sequence<int, i...>) {
  constexpr int unit = unit_lanes<T>;
  return __builtin_shufflevector(a, b, ((i / unit * 2 + parity) * unit + i % unit)...);
}

template <class T>
using LaneSequence = std::make_integer_sequence<int, n_lanes<T>>;

// rows[i][j] -> rows[j][i]
template <class T>
inline void transpose(Vector<T> (&rows)[n_lanes<T>]) {
  constexpr int lanes = n_lanes<T>, unit = unit_lanes<T>;
  constexpr LaneSequence<T> all{};
  Vector<T> next[lanes];
  for (int step = 1; step < unit; step *= 2) {  // perfect shuffles: unit x unit blocks end up transposed
    for (int block = 0; block < lanes; block += unit)
      for (int i = 0; i < unit / 2; ++i) {
        const Vector<T> a = rows[block + i], b = rows[block + i + unit / 2];
        next[block + 2 * i] = zip<T, 0>(a, b, all);
        next[block + 2 * i + 1] = zip<T, 1>(a, b, all);
      }
    for (int i = 0; i < lanes; ++i) rows[i] = next[i];
  }
  for (int step = 1; step < n_units<T>; step *= 2) {  // the same among units, from the other side
    for (int i = 0; i < lanes / 2; ++i) {
      const int pair = i / unit * 2 * unit + i % unit;
      next[i] = unzip_units<T, 0>(rows[pair], rows[pair + unit], all);
      next[i + lanes / 2] = unzip_units<T, 1>(rows[pair], rows[pair + unit], all);
    }
    for (int i = 0; i < lanes; ++i) rows[i] = next[i];
  }
}

// to[column][row] = from[row][column]; rows of `from` are `stride` apart, those of `to` n_rows.
template <class T>
inline void transpose_matrix(const T* from, int64_t stride, int64_t n_rows, int64_t n_columns, T* to) {
  constexpr int lanes = n_lanes<T>;
  const int64_t whole_rows = n_rows / lanes * lanes, whole_columns = n_columns / lanes * lanes;
  for (int64_t r = 0; r < whole_rows; r += lanes)
    for (int64_t c = 0; c < whole_columns; c += lanes) {
      Vector<T> block[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) block[i] = load(from + (r + i) * stride + c);
      transpose<T>(block);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) store(to + (c + i) * n_rows + r, block[i]);
    }
  for (int64_t r = 0; r < n_rows; ++r)
    for (int64_t c = r < whole_rows ? whole_columns : 0; c < n_columns; ++c)
      to[c * n_rows + r] = from[r * stride + c];
}

// Lane i of the result is the sum of the lanes of rows[i], in a fixed pairwise order.
template <class T>
inline Vector<T> sum_rows(Vector<T> (&rows)[n_lanes<T>]) {
  constexpr int lanes = n_lanes<T>, unit = unit_lanes<T>;
  constexpr LaneSequence<T> all{};
  for (int half = unit / 2; half > 0; half /= 2)
    for (int block = 0; block < lanes; block += unit)
      for (int i = 0; i < half; ++i) {
        const Vector<T> a = rows[block + i], b = rows[block + i + half];
        rows[block + i] = zip<T, 0>(a, b, all) + zip<T, 1>(a, b, all);
      }
  for (int stride = unit; stride < lanes; stride *= 2)
    for (int i = 0; i < lanes; i += 2 * stride) {
      const Vector<T> a = rows[i], b = rows[i + stride];
      rows[i] = unzip_units<T, 0>(a, b, all) + unzip_units<T, 1>(a, b, all);
    }
  return rows[0];
}

}  // namespace pathtune::PATHTUNE_ISA
