// The kernels of one path over one tile of edges (formulas: plan.hpp). Lanes are channels.
//
// walk_path keeps the receiver's dim3 output components in registers while it walks the edges;
// moments_path keeps dim1 x dim3 moments in registers while it walks the channels of one edge. Both are
// specialised on (dim1, dim3) for l <= 3 and do whole vectors; any_path does the ragged tail, and all of
// larger l, from memory.
#pragma once
#include "edge_conv/plan.hpp"

namespace pathtune::PATHTUNE_ISA {

template <class T>
inline void add_to(T* to, Vector<T> v) {
  store(to, load(to) + v);
}

// Channels c .. c + V * n_lanes - 1 of the path.
template <class T, Mode mode, int D1, int D3, int V>
inline void walk_channels(const EdgeConvPath& path, int64_t m_offset, const Tile<T>& tile, int64_t c) {
  constexpr int lanes = n_lanes<T>;
  const int64_t mul = path.mul, out_mul = path.out_mul;
  Vector<T> g[has_gradient(mode) ? D3 : 1][V], out[has_value(mode) ? D3 : 1][V];
#pragma GCC unroll 16
  for (int k = 0; k < D3; ++k)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int64_t at = path.out_offset + k * out_mul + c + v * lanes;
      if constexpr (has_gradient(mode)) g[k][v] = load(tile.g + at);
      if constexpr (has_value(mode)) out[k][v] = load(tile.out + at);
    }
  for (int e = 0; e < tile.n_edges; ++e) {
    const T* m = tile.m + e * tile.m_stride + m_offset;
    const T* am = tile.am + e * tile.m_stride + m_offset;
    const T* x_row = tile.x[e] + path.in_offset + c;
    const T* ax_row = tile.ax[e] + path.in_offset + c;
    Vector<T> w[V], aw[V], gw[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      w[v] = load(tile.w[e] + path.weight_offset + c + v * lanes);
      __builtin_prefetch(tile.next_w[e] + path.weight_offset + c + v * lanes);
      if constexpr (is_adjoint(mode))
        __builtin_prefetch(tile.next_aw[e] + path.weight_offset + c + v * lanes);
      if constexpr (is_adjoint(mode)) aw[v] = load(tile.aw[e] + path.weight_offset + c + v * lanes);
      gw[v] = Vector<T>{};
    }
#pragma GCC unroll 16
    for (int i = 0; i < D1; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const Vector<T> x = load(x_row + i * mul + v * lanes);
        const Vector<T> t = w[v] * x;
        Vector<T> ax{}, s = t, h{}, a{};
        if constexpr (is_adjoint(mode)) {
          ax = load(ax_row + i * mul + v * lanes);
          s = w[v] * ax + aw[v] * x;
        }
#pragma GCC unroll 16
        for (int k = 0; k < D3; ++k) {
          if constexpr (has_value(mode)) {
            out[k][v] += m[i * D3 + k] * s;
            if constexpr (is_adjoint(mode)) out[k][v] += am[i * D3 + k] * t;
          }
          if constexpr (has_gradient(mode)) {
            h += m[i * D3 + k] * g[k][v];
            if constexpr (is_adjoint(mode)) a += am[i * D3 + k] * g[k][v];
          }
        }
        if constexpr (has_gradient(mode)) {
          if (tile.gw[e]) gw[v] += is_adjoint(mode) ? h * ax + a * x : h * x;
          if (tile.gx[e])
            add_to(tile.gx[e] + path.in_offset + i * mul + c + v * lanes,
                   is_adjoint(mode) ? w[v] * a + aw[v] * h : w[v] * h);
        }
      }
    }
    if constexpr (has_gradient(mode))
      if (tile.gw[e])
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          T* to = tile.gw[e] + path.weight_offset + c + v * lanes;
          store(to, tile.adds_gw ? load(to) + gw[v] : gw[v]);
        }
  }
#pragma GCC unroll 16
  for (int k = 0; k < D3; ++k)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      if constexpr (has_value(mode))
        store(tile.out + path.out_offset + k * out_mul + c + v * lanes, out[k][v]);
}

template <class T, Mode mode, int D1, int D3>
void walk_path(const EdgeConvPath& path, int64_t m_offset, const Tile<T>& tile) {
  // Registers for two vectors of channels at once: a scalar of M is then read once for both.
  constexpr int n_registers = 2 * (D3 * (int(has_value(mode)) + int(has_gradient(mode))) + 2);
  constexpr int V = vector_bytes == 64 && n_registers <= (is_adjoint(mode) ? 12 : 24) ? 2 : 1;
  int64_t c = 0;
  for (; c + V * n_lanes<T> <= path.mul; c += V * n_lanes<T>)
    walk_channels<T, mode, D1, D3, V>(path, m_offset, tile, c);
  if constexpr (V > 1)
    for (; c + n_lanes<T> <= path.mul; c += n_lanes<T>)
      walk_channels<T, mode, D1, D3, 1>(path, m_offset, tile, c);
}

template <class T, Mode mode, int D1, int D3>
void moments_path(const EdgeConvPath& path, int64_t m_offset, const Tile<T>& tile) {
  constexpr int lanes = n_lanes<T>;
  const int64_t mul = path.mul;
  for (int e = 0; e < tile.n_edges; ++e) {
    const T* m = tile.m + e * tile.m_stride + m_offset;
    Vector<T> moments[D1][D3] = {};
    for (int64_t c = 0; c + lanes <= mul; c += lanes) {
      const T* x_at = tile.x[e] + path.in_offset + c;
      const Vector<T> w = load(tile.w[e] + path.weight_offset + c);
      __builtin_prefetch(tile.next_w[e] + path.weight_offset + c);

      Vector<T> s[D1], h[D1] = {};
#pragma GCC unroll 16
      for (int i = 0; i < D1; ++i) {
        s[i] = w * load(x_at + i * mul);
        if constexpr (is_adjoint(mode))
          s[i] = w * load(tile.ax[e] + path.in_offset + i * mul + c) +
                 load(tile.aw[e] + path.weight_offset + c) * load(x_at + i * mul);
      }
#pragma GCC unroll 16
      for (int k = 0; k < D3; ++k) {
        const Vector<T> g = load(tile.g + path.out_offset + k * path.out_mul + c);
#pragma GCC unroll 16
        for (int i = 0; i < D1; ++i) {
          moments[i][k] += s[i] * g;
          if constexpr (has_gradient(mode)) h[i] += m[i * D3 + k] * g;
        }
      }
      if constexpr (has_gradient(mode)) {
        Vector<T> gw{};
#pragma GCC unroll 16
        for (int i = 0; i < D1; ++i) {
          gw += h[i] * load(x_at + i * mul);
          if (tile.gx[e]) add_to(tile.gx[e] + path.in_offset + i * mul + c, w * h[i]);
        }
        T* to = tile.gw[e] + path.weight_offset + c;
        if (tile.gw[e]) store(to, tile.adds_gw ? load(to) + gw : gw);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < D1; ++i)
#pragma GCC unroll 16
      for (int k = 0; k < D3; ++k) tile.moments[e * tile.moments_stride + i * D3 + k] = moments[i][k];
  }
}

// Any dim1 and dim3, any mode, up to a vector of channels c .. c + n - 1 of one edge.
template <class T>
struct AnyPath {
  Mode mode;
  const EdgeConvPath& path;
  const Tile<T>& tile;

  void edge(int e, int64_t m_offset, int64_t c, int n) const {
    const T* m = tile.m + e * tile.m_stride + m_offset;
    const T* am = tile.am + e * tile.m_stride + m_offset;
    const Vector<T> w = load_partial(tile.w[e] + path.weight_offset + c, n);
    Vector<T> aw{}, gw{};
    if (is_adjoint(mode)) aw = load_partial(tile.aw[e] + path.weight_offset + c, n);
    for (int64_t i = 0; i < path.dim1; ++i) {
      const int64_t at = path.in_offset + i * path.mul + c;
      const Vector<T> x = load_partial(tile.x[e] + at, n);
      Vector<T> ax{}, h{}, a{};
      const Vector<T> t = w * x;
      Vector<T> s = t;
      if (is_adjoint(mode)) {
        ax = load_partial(tile.ax[e] + at, n);
        s = w * ax + aw * x;
      }
      for (int64_t k = 0; k < path.dim3; ++k) {
        const int64_t ik = i * path.dim3 + k, at_k = path.out_offset + k * path.out_mul + c;
        if (has_value(mode)) {
          Vector<T> more = m[ik] * s;
          if (is_adjoint(mode)) more += am[ik] * t;
          store_partial(tile.out + at_k, load_partial(tile.out + at_k, n) + more, n);
        } else {
          const Vector<T> g = load_partial(tile.g + at_k, n);
          if (has_moments(mode)) tile.moments[e * tile.moments_stride + ik] += s * g;
        }
        if (has_gradient(mode)) {
          const Vector<T> g = load_partial(tile.g + at_k, n);
          h += m[ik] * g;
          if (is_adjoint(mode)) a += am[ik] * g;
        }
      }
      if (!has_gradient(mode)) continue;
      gw += is_adjoint(mode) ? h * ax + a * x : h * x;
      if (tile.gx[e])
        store_partial(tile.gx[e] + at,
                      load_partial(tile.gx[e] + at, n) + (is_adjoint(mode) ? w * a + aw * h : w * h), n);
    }
    if (!has_gradient(mode) || !tile.gw[e]) return;
    T* to = tile.gw[e] + path.weight_offset + c;
    store_partial(to, tile.adds_gw ? load_partial(to, n) + gw : gw, n);
  }
};

// Channels `begin` to the last.
template <class T>
inline void any_path(Mode mode, const EdgeConvPath& path, int64_t m_offset, const Tile<T>& tile,
                     int64_t begin) {
  const AnyPath<T> any{mode, path, tile};
  for (int64_t c = begin; c < path.mul; c += n_lanes<T>)
    for (int e = 0; e < tile.n_edges; ++e)
      any.edge(e, m_offset, c, int(std::min<int64_t>(n_lanes<T>, path.mul - c)));
}

template <class T, Mode mode, int D1, int D3>
constexpr PathKernel<T> kernel_of() {
  if constexpr (has_moments(mode))
    return &moments_path<T, mode, D1, D3>;
  else
    return &walk_path<T, mode, D1, D3>;
}

// The specialised kernel; null where there is none.
template <class T, Mode mode>
inline PathKernel<T> choose_kernel(const EdgeConvPath& path) {
  static constexpr PathKernel<T> table[4][4] = {{kernel_of<T, mode, 1, 1>(), kernel_of<T, mode, 1, 3>(),
                                                 kernel_of<T, mode, 1, 5>(), kernel_of<T, mode, 1, 7>()},
                                                {kernel_of<T, mode, 3, 1>(), kernel_of<T, mode, 3, 3>(),
                                                 kernel_of<T, mode, 3, 5>(), kernel_of<T, mode, 3, 7>()},
                                                {kernel_of<T, mode, 5, 1>(), kernel_of<T, mode, 5, 3>(),
                                                 kernel_of<T, mode, 5, 5>(), kernel_of<T, mode, 5, 7>()},
                                                {kernel_of<T, mode, 7, 1>(), kernel_of<T, mode, 7, 3>(),
                                                 kernel_of<T, mode, 7, 5>(), kernel_of<T, mode, 7, 7>()}};
  const bool is_odd = path.dim1 % 2 == 1 && path.dim3 % 2 == 1;
  return is_odd && path.dim1 <= 7 && path.dim3 <= 7 ? table[path.dim1 / 2][path.dim3 / 2] : nullptr;
}

}  // namespace pathtune::PATHTUNE_ISA
