// Lengths, harmonics and their derivatives, formula in edge_geometry.hpp, polynomials in harmonics.hpp.
//
// Parallel axis: rows. A row is a few hundred operations in registers, then its edges (two, where an edge and
// its reverse share it) are written or read; no two threads meet in an edge.
#include <cmath>

#include "edge_geometry/harmonics.hpp"

namespace pathtune::PATHTUNE_ISA {
namespace {

constexpr int64_t least_rows = 4096;  // below, one thread is faster

template <class T>
struct Direction {
  T u[3], length, inverse;  // inverse 0 for a zero vector: its harmonics of l > 0 are zero and stay so
};

template <class T>
inline Direction<T> direction(const T* v) {
  const T length = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
  const T inverse = length > 0 ? 1 / length : 0;
  return {{v[0] * inverse, v[1] * inverse, v[2] * inverse}, length, inverse};
}

template <class T>
inline T dot(const T* a, const T* b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// to[edge, l m] = sign^l c_l p[l m] of every edge of the row; l = 0: `first`, whatever p says.
template <class T>
inline void write_edges(const EdgeGeometryRows<T>& rows, int l_max, int64_t n, const T* p, T first, T* to) {
  const int dim = (l_max + 1) * (l_max + 1);
  for (int64_t q = rows.row_ptr[n]; q < rows.row_ptr[n + 1]; ++q) {
    const int64_t edge = rows.row_edges[q];
    T* y = to + edge * dim;
    y[0] = T(rows.c[0]) * first;
    for (int l = 1; l <= l_max; ++l) {
      const T factor = T(rows.c[l]) * (l % 2 ? rows.sign[edge] : T(1));
      for (int i = l * l; i < (l + 1) * (l + 1); ++i) y[i] = factor * p[i];
    }
  }
}

// q[l m] = sum over the row's edges of sign^l c_l gy[edge, l m], l > 0
template <class T>
inline void read_edges(const EdgeGeometryRows<T>& rows, int l_max, int64_t n, const T* gy, T* sum) {
  const int dim = (l_max + 1) * (l_max + 1);
  for (int i = 0; i < dim; ++i) sum[i] = 0;
  for (int64_t q = rows.row_ptr[n]; q < rows.row_ptr[n + 1]; ++q) {
    const int64_t edge = rows.row_edges[q];
    const T* g = gy + edge * dim;
    for (int l = 1; l <= l_max; ++l) {
      const T factor = T(rows.c[l]) * (l % 2 ? rows.sign[edge] : T(1));
      for (int i = l * l; i < (l + 1) * (l + 1); ++i) sum[i] += factor * g[i];
    }
  }
}

template <class T>
inline void backward_row(const EdgeGeometryRows<T>& rows, int l_max, int64_t n, const T* v, T g_length,
                         const T* gy, T* gv) {
  const Direction<T> at = direction(v);
  T q[most_harmonics], h[3];
  read_edges(rows, l_max, n, gy, q);
  gradient<T, T>(l_max, at.u[0], at.u[1], at.u[2], q, h);
  const T radial = dot(at.u, h);
  for (int i = 0; i < 3; ++i) gv[i] = (h[i] - at.u[i] * radial) * at.inverse + g_length * at.u[i];
}

// With b = d(v / |v|) along av: the adjoint of gy is grad P . b, that of v the derivative of gv along av.
template <class T>
inline void double_backward_row(const EdgeGeometryRows<T>& rows, int l_max, int64_t n, const T* v, T g_length,
                                const T* gy, const T* av, T* a_length, T* ay, T* gv) {
  const Direction<T> at = direction(v);
  const T along = dot(at.u, av);
  *a_length = along;
  Dual<T> u[3], p[most_harmonics];
  for (int i = 0; i < 3; ++i) u[i] = {at.u[i], (av[i] - at.u[i] * along) * at.inverse};
  harmonics<T, Dual<T>>(l_max, u[0], u[1], u[2], p);
  T d[most_harmonics] = {};
  for (int i = 1; i < (l_max + 1) * (l_max + 1); ++i) d[i] = p[i].d;
  write_edges(rows, l_max, n, d, T(0), ay);
  if (!gv) return;
  T q[most_harmonics];
  read_edges(rows, l_max, n, gy, q);
  Dual<T> h[3];
  gradient<T, Dual<T>>(l_max, u[0], u[1], u[2], q, h);
  const Dual<T> radial = u[0] * h[0] + u[1] * h[1] + u[2] * h[2];
  const Dual<T> inverse{at.inverse, -along * at.inverse * at.inverse};
  for (int i = 0; i < 3; ++i) gv[i] = ((h[i] - u[i] * radial) * inverse + g_length * u[i]).d;
}

}  // namespace

template <class T>
void edge_geometry(const EdgeGeometryShape& shape, const EdgeGeometryRows<T>& rows, const T* vectors,
                   T* lengths, T* y) {
#pragma omp parallel for schedule(static) num_threads(shape.n_rows < least_rows ? 1 : shape.n_threads)
  for (int64_t n = 0; n < shape.n_rows; ++n) {
    const Direction<T> at = direction(vectors + 3 * n);
    T p[most_harmonics];
    harmonics<T, T>(shape.l_max, at.u[0], at.u[1], at.u[2], p);
    lengths[n] = at.length;
    write_edges(rows, shape.l_max, n, p, T(1), y);
  }
}

template <class T>
void edge_geometry_backward(const EdgeGeometryShape& shape, const EdgeGeometryRows<T>& rows, const T* vectors,
                            const T* g_lengths, const T* gy, T* gv) {
#pragma omp parallel for schedule(static) num_threads(shape.n_rows < least_rows ? 1 : shape.n_threads)
  for (int64_t n = 0; n < shape.n_rows; ++n)
    backward_row(rows, shape.l_max, n, vectors + 3 * n, g_lengths[n], gy, gv + 3 * n);
}

template <class T>
void edge_geometry_double_backward(const EdgeGeometryShape& shape, const EdgeGeometryRows<T>& rows,
                                   const T* vectors, const T* g_lengths, const T* gy, const T* av,
                                   T* a_lengths, T* ay, T* gv) {
#pragma omp parallel for schedule(static) num_threads(shape.n_rows < least_rows ? 1 : shape.n_threads)
  for (int64_t n = 0; n < shape.n_rows; ++n)
    double_backward_row(rows, shape.l_max, n, vectors + 3 * n, g_lengths[n], gy, av + 3 * n, a_lengths + n,
                        ay, gv ? gv + 3 * n : nullptr);
}

#define PATHTUNE_INSTANTIATE(T)                                                                           \
  template void edge_geometry<T>(const EdgeGeometryShape&, const EdgeGeometryRows<T>&, const T*, T*, T*); \
  template void edge_geometry_backward<T>(const EdgeGeometryShape&, const EdgeGeometryRows<T>&, const T*, \
                                          const T*, const T*, T*);                                        \
  template void edge_geometry_double_backward<T>(const EdgeGeometryShape&, const EdgeGeometryRows<T>&,    \
                                                 const T*, const T*, const T*, const T*, T*, T*, T*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::PATHTUNE_ISA
