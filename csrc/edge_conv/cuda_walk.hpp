// edge_conv on CUDA: the walk of one thread over a tile of edges and the paths of one block of x (cuda.cu).
//
// x, gx and what belongs to them stay in registers, dim1 x E edges x V channels of each, while the thread
// goes through the paths; w of the next path is on its way meanwhile. The receiver's components of out and g
// are in shared memory, where a thread reads and writes its own channels only.
#pragma once
#include "edge_conv/cuda_tile.hpp"

namespace pathtune::cuda {

enum class ConvPass { forward, backward, backward_gy, double_backward, double_backward_gy };
constexpr bool is_adjoint(ConvPass p) { return p >= ConvPass::double_backward; }
constexpr bool has_value(ConvPass p) { return p == ConvPass::forward || is_adjoint(p); }
constexpr bool has_gradient(ConvPass p) { return p != ConvPass::forward; }
constexpr bool has_moments(ConvPass p) {
  return p == ConvPass::backward_gy || p == ConvPass::double_backward_gy;
}

// Edges of a walk: as many as leave at most about a dozen numbers to each array of registers.
template <class T>
constexpr int walked_edges(ConvPass pass, int dim1) {
  const int most = sizeof(T) == 8 && is_adjoint(pass) ? 2 : 4;
  return dim1 <= 3 ? most : dim1 == 5 ? most / 2 : 1;
}

// What a thread needs to walk.
template <class T>
struct ConvThread {
  const ConvArgs<T>& a;
  const ConvPath* paths;
  const int64_t *x_row, *w_row, *gw_row;  // [tile_edges] of the edges, as offsets
  const T *m, *am;
  T *moments, *out, *g;       // moments: of this warp; out, g: of this thread, slot after slot
  int channel, warp_channel;  // the first of this thread and of its warp; beyond all where the thread idles
  int lane, n_edges;
};

// Each lane has N numbers; each of their sums over the warp ends up in some lane (`summed_index`), after
// about N + 5 exchanges: lanes halve the numbers between them as long as there are several.
template <int N, int offset, class T>
__device__ __forceinline__ T sum_over_lanes(T* v, int lane) {
  if constexpr (offset == 0) {
    return v[0];
  } else if constexpr (N == 1) {
    v[0] += __shfl_xor_sync(all_lanes, v[0], offset);
    return sum_over_lanes<1, offset / 2>(v, lane);
  } else {
    constexpr int half = (N + 1) / 2;
    const bool is_upper = lane & offset;
    PATHTUNE_UNROLL
    for (int q = 0; q < half; ++q) {
      const T second = q + half < N ? v[q + half < N ? q + half : 0] : T(0);
      const T kept = is_upper ? second : v[q], sent = is_upper ? v[q] : second;
      v[q] = kept + __shfl_xor_sync(all_lanes, sent, offset);
    }
    return sum_over_lanes<half, offset / 2>(v, lane);
  }
}

// Which of N sums sum_over_lanes leaves in this lane; -1: none, or one that another lane answers for.
template <int N>
__device__ __forceinline__ int summed_index(int lane) {
  int at = 0, n_left = N, n = N;  // n_left of n are numbers, the rest padding
  PATHTUNE_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) {
    const bool is_upper = lane & offset;
    if (n == 1) {
      if (is_upper) n_left = 0;
    } else {
      n = (n + 1) / 2;
      at += is_upper ? n : 0;
      n_left = is_upper ? n_left - n : min(n_left, n);
    }
  }
  return n_left > 0 ? at : -1;
}

// The weights of a path, E edges.
template <int E, int V, class T>
__device__ __forceinline__ void load_weights(const ConvThread<T>& t, const T* w, int e0, int at,
                                             bool is_active, T (&to)[E][V]) {
  PATHTUNE_UNROLL
  for (int e = 0; e < E; ++e)
    load_channels<V>(w + t.w_row[e0 + e] + at, w && is_active && e0 + e < t.n_edges, to[e]);
}

// A block of x, or of ax.
template <int D1, int E, int V, class T>
__device__ __forceinline__ void load_block(const ConvThread<T>& t, const T* x, int e0, const ConvPath& path,
                                           bool is_active, T (&to)[D1][E][V]) {
  PATHTUNE_UNROLL
  for (int e = 0; e < E; ++e) PATHTUNE_UNROLL
  for (int i = 0; i < D1; ++i)
    load_channels<V>(x + t.x_row[e0 + e] + path.in_offset + i * path.mul + t.channel,
                     x && is_active && e0 + e < t.n_edges, to[i][e]);
}

// The arrays of one walk: numbers of D1 components, E edges, V channels.
template <class T, int V, ConvPass pass, int D1>
struct ConvWalk {
  static constexpr int E = walked_edges<T>(pass, D1);
  using Array = T[D1][E][V];
  using Weights = T[E][V];

  const ConvThread<T>& t;
  bool wants_h;
  Array x, gx;
  Array ax;  // of adjoint passes only, as all a...
  Weights w, aw;

  // out and moments, h = sum_k M g and a = sum_k aM g of one path.
  __device__ __forceinline__ void components(const ConvPath& path, int e0, bool is_active, int summed,
                                             Array& h, Array& a) {
    Array s, wx;  // s: what M meets; wx: what aM meets
    PATHTUNE_UNROLL
    for (int i = 0; i < D1; ++i) PATHTUNE_UNROLL
    for (int e = 0; e < E; ++e) PATHTUNE_UNROLL
    for (int v = 0; v < V; ++v) {
      h[i][e][v] = a[i][e][v] = T(0);
      wx[i][e][v] = w[e][v] * x[i][e][v];
      s[i][e][v] = wx[i][e][v];
      if constexpr (is_adjoint(pass)) s[i][e][v] = w[e][v] * ax[i][e][v] + aw[e][v] * x[i][e][v];
    }
    const bool has_am = is_adjoint(pass) && t.a.adjoint.ay;
    const bool adds_out = has_value(pass) && t.a.to.gg && is_active;
    const bool reads_g = has_gradient(pass) && t.g && is_active;
#pragma unroll 1
    for (int k = 0; k < path.dim3; ++k) {
      const int at = (path.m_offset + k * D1) * tile_edges + e0;
      const int64_t slot = int64_t(path.slot + k) * t.a.chunk;
      T g[V], out[V];
      PATHTUNE_UNROLL
      for (int v = 0; v < V; ++v) {
        g[v] = reads_g ? t.g[slot + v] : T(0);
        out[v] = T(0);
      }
      PATHTUNE_UNROLL
      for (int i = 0; i < D1; ++i) {
        T m[E];
        load_edges<E>(t.m + at + i * tile_edges, m);
        PATHTUNE_UNROLL
        for (int e = 0; e < E; ++e) PATHTUNE_UNROLL
        for (int v = 0; v < V; ++v) {
          if constexpr (has_value(pass)) out[v] += m[e] * s[i][e][v];
          if constexpr (has_gradient(pass)) h[i][e][v] += m[e] * g[v];
        }
      }
      if (has_am) PATHTUNE_UNROLL
      for (int i = 0; i < D1; ++i) {
        T am[E];
        load_edges<E>(t.am + at + i * tile_edges, am);
        PATHTUNE_UNROLL
        for (int e = 0; e < E; ++e) PATHTUNE_UNROLL
        for (int v = 0; v < V; ++v) {
          out[v] += am[e] * wx[i][e][v];
          a[i][e][v] += am[e] * g[v];
        }
      }
      if (adds_out) PATHTUNE_UNROLL
      for (int v = 0; v < V; ++v) t.out[slot + v] += out[v];
      if constexpr (has_moments(pass)) {
        T moments[D1 * E];
        PATHTUNE_UNROLL
        for (int i = 0; i < D1; ++i) PATHTUNE_UNROLL
        for (int e = 0; e < E; ++e) {
          moments[i * E + e] = s[i][e][0] * g[0];
          PATHTUNE_UNROLL
          for (int v = 1; v < V; ++v) moments[i * E + e] += s[i][e][v] * g[v];
        }
        const T sum = sum_over_lanes<D1 * E, 16>(moments, t.lane);
        if (summed >= 0) t.moments[at + summed / E * tile_edges + summed % E] = sum;
      }
    }
  }

  // gw of one path, and its part of gx.
  __device__ __forceinline__ void gradients(const ConvPath& path, int e0, bool is_active, const Array& h,
                                            const Array& a) {
    PATHTUNE_UNROLL
    for (int e = 0; e < E; ++e) {
      T gw[V];
      PATHTUNE_UNROLL
      for (int v = 0; v < V; ++v) {
        gw[v] = T(0);
        PATHTUNE_UNROLL
        for (int i = 0; i < D1; ++i)
          if constexpr (is_adjoint(pass)) {
            gw[v] += h[i][e][v] * ax[i][e][v] + a[i][e][v] * x[i][e][v];
            gx[i][e][v] += w[e][v] * a[i][e][v] + aw[e][v] * h[i][e][v];
          } else {
            gw[v] += h[i][e][v] * x[i][e][v];
            gx[i][e][v] += w[e][v] * h[i][e][v];
          }
      }
      if (!t.a.to.gw || !is_active || e0 + e >= t.n_edges) continue;
      T* to = t.a.to.gw + t.gw_row[e0 + e] + path.weight_offset + t.channel;
      if (t.a.weight_rows != WeightRows::add)
        store_channels<V>(to, gw);
      else
        PATHTUNE_UNROLL
      for (int v = 0; v < V; ++v) global_add(to + v, gw[v]);
    }
  }

  __device__ __forceinline__ void add_gx(const ConvPath& path, int e0) const {
    PATHTUNE_UNROLL
    for (int e = 0; e < E; ++e)
      if (e0 + e < t.n_edges) {
        T* to = t.a.to.gx + t.x_row[e0 + e] + path.in_offset + t.channel;
        PATHTUNE_UNROLL
        for (int i = 0; i < D1; ++i) PATHTUNE_UNROLL
        for (int v = 0; v < V; ++v) global_add(to + i * path.mul + v, gx[i][e][v]);
      }
  }

  // Paths first .. end - 1, all of one block of x.
  __device__ __forceinline__ void run(int first, int end, int e0, int summed) {
    const ConvPath& block = t.paths[first];
    const bool is_active = t.channel < block.mul;
    Weights next_w, next_aw;
    load_block<D1, E, V>(t, t.a.in.x, e0, block, is_active, x);
    load_weights<E, V>(t, t.a.in.w, e0, block.weight_offset + t.channel, is_active, next_w);
    if constexpr (is_adjoint(pass)) {
      load_block<D1, E, V>(t, t.a.adjoint.ax, e0, block, is_active, ax);
      load_weights<E, V>(t, t.a.adjoint.aw, e0, block.weight_offset + t.channel, is_active, next_aw);
    }
    PATHTUNE_UNROLL
    for (int i = 0; i < D1; ++i) PATHTUNE_UNROLL
    for (int e = 0; e < E; ++e) PATHTUNE_UNROLL
    for (int v = 0; v < V; ++v) gx[i][e][v] = T(0);
#pragma unroll 1
    for (int p = first; p < end; ++p) {
      const ConvPath& path = t.paths[p];
      PATHTUNE_UNROLL
      for (int e = 0; e < E; ++e) PATHTUNE_UNROLL
      for (int v = 0; v < V; ++v) {
        w[e][v] = next_w[e][v];
        if constexpr (is_adjoint(pass)) aw[e][v] = next_aw[e][v];
      }
      if (p + 1 < end) {
        const int at = t.paths[p + 1].weight_offset + t.channel;
        load_weights<E, V>(t, t.a.in.w, e0, at, is_active, next_w);
        if constexpr (is_adjoint(pass)) load_weights<E, V>(t, t.a.adjoint.aw, e0, at, is_active, next_aw);
      }
      Array h, a;
      components(path, e0, is_active, summed, h, a);
      if constexpr (has_gradient(pass)) gradients(path, e0, is_active, h, a);
    }
    if constexpr (has_gradient(pass))
      if (t.a.to.gx && is_active) add_gx(block, e0);
  }
};

// Paths first .. end - 1, all of one block of x, all edges of the tile.
template <class T, int V, ConvPass pass, int D1>
__device__ __forceinline__ void walk_paths(const ConvThread<T>& t, int first, int end) {
  constexpr int E = walked_edges<T>(pass, D1);
  if (t.warp_channel >= t.paths[first].mul) {  // the whole warp lies beyond the channels of the block
    if constexpr (has_moments(pass))
      for (int p = first; p < end; ++p)
        for (int q = t.lane; q < D1 * t.paths[p].dim3 * tile_edges; q += 32)
          t.moments[t.paths[p].m_offset * tile_edges + q] = T(0);
    return;
  }
  const int summed = summed_index<D1 * E>(t.lane);
#pragma unroll 1
  for (int e0 = 0; e0 < t.n_edges; e0 += E) ConvWalk<T, V, pass, D1>{t}.run(first, end, e0, summed);
}

}  // namespace pathtune::cuda
