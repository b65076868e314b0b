// edge_geometry: lengths and spherical harmonics of edges, once for all edges that share a row.
//
//   length[n]         = |v_n|
//   y[e, l m]         = sign_e^l c_l P_lm(v_n / |v_n|)      n: the row of edge e
//
// P_lm: real spherical harmonics as polynomials of degree l <= 3, in e3nn's order and convention (y is the
// polar axis) and its normalisation "norm"; c_l turns them into the model's. sign_e is -1 for an edge that
// runs against its row's vector. Backward and double backward are those of (v -> length, y): the double
// backward is that of gv, given the adjoint av of gv.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace pathtune {

constexpr int harmonics_most_l = 3;

struct EdgeGeometryShape {
  int64_t n_rows;
  int l_max;
  int n_threads;
};

template <class T>
struct EdgeGeometryRows {
  const int64_t* row_ptr;    // [n_rows + 1] into row_edges
  const int64_t* row_edges;  // [n_edges]
  const T* sign;             // [n_edges]
  const double* c;           // [l_max + 1]
};

PATHTUNE_DECLARE_PER_ISA(
    template <class T> void edge_geometry(const EdgeGeometryShape&, const EdgeGeometryRows<T>&,
                                          const T* vectors,  // [n_rows, 3]
                                          T* lengths,        // [n_rows]
                                          T* y);             // [n_edges, (l_max + 1)^2]
    template <class T>
    void edge_geometry_backward(const EdgeGeometryShape&, const EdgeGeometryRows<T>&, const T* vectors,
                                const T* g_lengths,  // [n_rows]
                                const T* gy,         // [n_edges, (l_max + 1)^2]
                                T* gv);              // [n_rows, 3]
    template <class T>
    void edge_geometry_double_backward(const EdgeGeometryShape&, const EdgeGeometryRows<T>&, const T* vectors,
                                       const T* g_lengths, const T* gy,
                                       const T* av,   // [n_rows, 3]
                                       T* a_lengths,  // [n_rows]
                                       T* ay,         // [n_edges, (l_max + 1)^2]
                                       T* gv);        // [n_rows, 3]; or null
)

}  // namespace pathtune
