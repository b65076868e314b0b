// What the passes over the edges (cpu.cpp) and the kernels of one path (path_kernels.hpp) share.
//
// For each edge and path the harmonics are contracted once with the coefficients, M[i,k] = sum_j C[i,j,k]
// y[j], and everything else is a product over channels:
//   with t_i = w x_i and h_i = sum_k M_ik g_k (per channel),
//   out_k += sum_i M_ik t_i    gx_i = w h_i    gw = sum_i h_i x_i    gM_ik = sum_u t_i g_k    gy = C gM
// and for adjoints (ax, aM = C ay, aw), with s_i = w ax_i + aw x_i and a_i = sum_k aM_ik g_k,
//   gg_k += sum_i M_ik s_i + aM_ik t_i    gx_i = w a_i + aw h_i    gw = sum_i h_i ax_i + a_i x_i
//   gM_ik = sum_u s_i g_k
#pragma once
#include <algorithm>
#include <utility>

#include "edge_conv.hpp"
#include "list.hpp"
#include "vector.hpp"

namespace pathtune::PATHTUNE_ISA {

// Edges of one receiver that are walked together: fewer reload its row too often, more do not stay in the
// cache.
constexpr int tile_edges = 8;

// What one walk over a tile computes. `adjoint_*`: of the double backward.
enum class Mode {
  value,                 // out
  gradient,              // gx and / or gw
  moments,               // gM
  gradient_and_moments,  //
  adjoint_value,         // gg
  adjoint_gradient,      // gx and / or gw
  adjoint_value_and_gradient,
  adjoint_moments,  // gM
};
constexpr bool is_adjoint(Mode m) { return m >= Mode::adjoint_value; }
constexpr bool has_value(Mode m) {
  return m == Mode::value || m == Mode::adjoint_value || m == Mode::adjoint_value_and_gradient;
}
constexpr bool has_gradient(Mode m) {
  return m == Mode::gradient || m == Mode::gradient_and_moments || m == Mode::adjoint_gradient ||
         m == Mode::adjoint_value_and_gradient;
}
constexpr bool has_moments(Mode m) {
  return m == Mode::moments || m == Mode::gradient_and_moments || m == Mode::adjoint_moments;
}

// Edges of one receiver, as rows: everything a path's kernel reads and writes.
template <class T>
struct Tile {
  int n_edges;
  const T* x[tile_edges];   // row of the sender
  const T* ax[tile_edges];  // or zeros
  const T* w[tile_edges];
  const T* aw[tile_edges];       // or zeros
  const T* next_w[tile_edges];   // rows of the tile after this one: prefetched, because the paths' slices of
  const T* next_aw[tile_edges];  // a row come in an order that the hardware does not foresee
  T* gx[tile_edges];             // this edge's part of gx [dim_in]; null: not wanted
  T* gw[tile_edges];             // null: not wanted
  bool adds_gw;                  // an earlier edge has written this row of gw
  const T* m;                    // [n_edges, m_stride]
  const T* am;                   // likewise, from ay
  int64_t m_stride;
  Vector<T>* moments;  // [n_edges, moments_stride]: gM of one path, lanes not yet summed
  int64_t moments_stride;
  const T* g;  // row of the receiver [dim_out]
  T* out;      // row of the receiver [dim_out]
};

template <class T>
using PathKernel = void (*)(const EdgeConvPath&, int64_t m_offset, const Tile<T>&);

template <class T>
struct Nonzero {
  int64_t ik;  // index into M
  T c;
};

// A path with its coefficients as the kernels want them.
template <class T>
struct PlannedPath {
  EdgeConvPath path;
  int64_t m_offset;            // of M [dim1, dim3] in an edge's row of M
  int64_t m_size;              // dim1 * dim3, rounded up to whole vectors
  List<T> by_j;                // [dim2, m_size]: M = sum_j y_j by_j[j]
  List<Nonzero<T>> nonzeros;   // of C, sorted by j: gy_j = sum c gM[ik]
  List<int64_t> nonzeros_ptr;  // [dim2 + 1]
};

template <class T>
struct Plan {
  List<PlannedPath<T>> paths;
  int64_t m_stride = 0;  // row length of M
  int64_t max_m_size = 0;
};

template <class T>
inline Plan<T> make_plan(const EdgeConvPath* paths, int64_t n_paths, const double* coefficients) {
  constexpr int64_t lanes = n_lanes<T>;
  Plan<T> plan;
  for (int64_t p = 0; p < n_paths; ++p) {
    const EdgeConvPath& path = paths[p];
    const int64_t size = (path.dim1 * path.dim3 + lanes - 1) / lanes * lanes;
    PlannedPath<T> planned{path, plan.m_stride, size, List<T>(path.dim2 * size), {}, {0}};
    for (int64_t j = 0; j < path.dim2; ++j) {
      for (int64_t i = 0; i < path.dim1; ++i)
        for (int64_t k = 0; k < path.dim3; ++k) {
          const T c = T(coefficients[path.coefficient_offset + (i * path.dim2 + j) * path.dim3 + k]);
          planned.by_j[j * size + i * path.dim3 + k] = c;
          if (c != T(0)) planned.nonzeros.push_back({i * path.dim3 + k, c});
        }
      planned.nonzeros_ptr.push_back(int64_t(planned.nonzeros.size()));
    }
    plan.m_stride += size;
    plan.max_m_size = std::max(plan.max_m_size, size);
    plan.paths.push_back(std::move(planned));
  }
  return plan;
}

// M[i,k] = sum_j C[i,j,k] y[j] of one edge, all paths.
template <class T>
inline void contract_harmonics(const Plan<T>& plan,
                               const T* y,  // [dim_y]
                               T* m) {      // [m_stride]
  for (const PlannedPath<T>& p : plan.paths)
    for (int64_t v = 0; v < p.m_size; v += n_lanes<T>) {
      Vector<T> sum{};
      for (int64_t j = 0; j < p.path.dim2; ++j)
        sum += y[p.path.y_offset + j] * load(&p.by_j[j * p.m_size + v]);
      store(m + p.m_offset + v, sum);
    }
}

// gy[j] += sum_ik C[i,j,k] gM[i,k] of one edge and path, lane by lane: the lanes are summed once per edge.
template <class T>
inline void contract_moments(const PlannedPath<T>& p,
                             const Vector<T>* moments,  // [m_size]
                             Vector<T>* gy) {           // [dim_y]
  for (int64_t j = 0; j < p.path.dim2; ++j) {
    Vector<T> sum{};
    for (int64_t q = p.nonzeros_ptr[j]; q < p.nonzeros_ptr[j + 1]; ++q)
      sum += p.nonzeros[q].c * moments[p.nonzeros[q].ik];
    gy[p.path.y_offset + j] += sum;
  }
}

}  // namespace pathtune::PATHTUNE_ISA
