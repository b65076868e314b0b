// A panel is a few vectors of rows of x and g, transposed: a channel's rows become contiguous lanes, and the
// dot product of two channels over the panel a handful of multiply-adds.
#pragma once
#include "sampled_gradient/sampled_gradient.hpp"
#include "transpose.hpp"

namespace pathtune::PATHTUNE_ISA {

// The active candidates of a block, grouped as in the index.
struct ActiveBlock {
  const SampledRun* runs;
  int64_t n_runs;
  const int32_t* v_row;  // counted, as the runs' ends, from the layer's first candidate
  const int32_t* place;
  int64_t begin, end;
};

// One lanes x lanes block of `rows`, from `channel` on; n_left channels exist.
template <class T>
inline void transpose_block(const T* const* rows, int64_t channel, int64_t n_left, T* to, int64_t stride) {
  constexpr int lanes = n_lanes<T>;
  Vector<T> block[lanes];
  if (n_left >= lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) block[i] = load(rows[i] + channel);
  } else {
    for (int i = 0; i < lanes; ++i) block[i] = load_partial(rows[i] + channel, int(n_left));
  }
  transpose<T>(block);
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) store(to + i * stride, block[i]);
}

// to[(tile * tile_channels + c) * stride + r] = rows[r][tiles[tile] + c], stride = Vectors * lanes
template <class T, int Vectors>
void transpose_panel(const T* const* rows,  // [Vectors * lanes], each [n_channels]
                     const int32_t* tiles,  // [n_tiles] first channels
                     int64_t n_tiles, int64_t n_channels,
                     T* to) {  // [n_tiles * tile_channels, Vectors * lanes]
  constexpr int lanes = n_lanes<T>, stride = Vectors * lanes;
  for (int b = 0; b < Vectors; ++b)  // outermost: rows are read along their length
    for (int64_t t = 0; t < n_tiles; ++t)
      for (int64_t c = 0; c < tile_channels && tiles[t] + c < n_channels; c += lanes)
        transpose_block(rows + b * lanes, tiles[t] + c, n_channels - tiles[t] - c,
                        to + ((t * tile_channels + c) * Vectors + b) * lanes, stride);
}

// sums[i] += the panel's dot product of the i-th active candidate
template <class T, int Vectors>
void accumulate_panel(const ActiveBlock& block,
                      const T* x,      // [u rows, Vectors * lanes]
                      const T* g,      // [v rows, Vectors * lanes]
                      double* sums) {  // [active candidates]
  constexpr int lanes = n_lanes<T>;
  Vector<T> pending[lanes] = {};
  int n_pending = 0;
  auto flush = [&] {  // the lanes of many candidates are summed at once
    T totals[lanes];
    store(totals, sum_rows<T>(pending));
    for (int i = 0; i < n_pending; ++i) sums[i] += double(totals[i]);
    sums += n_pending;
    n_pending = 0;
  };
  int64_t q = block.begin;
  for (int64_t r = 0; r < block.n_runs; ++r) {
    Vector<T> xv[Vectors];
    for (int b = 0; b < Vectors; ++b) xv[b] = load(x + (block.runs[r].u_row * Vectors + b) * lanes);
    for (; q < block.runs[r].end; ++q) {
      const T* gv = g + int64_t(block.v_row[q]) * Vectors * lanes;
      Vector<T> sum[2] = {xv[0] * load(gv), Vector<T>{}};
      for (int b = 1; b < Vectors; ++b) sum[b % 2] += xv[b] * load(gv + b * lanes);
      pending[n_pending++] = sum[0] + sum[1];
      if (n_pending == lanes) flush();
    }
  }
  flush();
}

}  // namespace pathtune::PATHTUNE_ISA
