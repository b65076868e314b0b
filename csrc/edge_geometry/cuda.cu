// Lengths, harmonics and their derivatives, formula in edge_geometry.hpp, polynomials in harmonics.hpp.
//
// Parallel axis: rows, one thread each. A row is a few hundred operations in registers, then its edges (two,
// where an edge and its reverse share it) are written or read one after the other: no two threads meet in an
// edge, and sums over edges have a fixed order. The harmonics are a hundredth of what edge_conv moves, so
// that their accesses, 4 to 64 bytes of an edge by one thread, are not made to coalesce through shared
// memory.
#define PATHTUNE_ISA cuda
#include <cmath>

#include "edge_geometry/cuda.hpp"
#include "edge_geometry/harmonics.hpp"
#include "portability.hpp"

namespace pathtune::cuda {
namespace {

constexpr int n_threads = 128;

template <class T>
struct GeometryRows {
  const int64_t* row_ptr;
  const int64_t* row_edges;
  const T* sign;
  int64_t n_rows;
  T c[harmonics_most_l + 1];
};

constexpr int dim_of(int l_max) { return (l_max + 1) * (l_max + 1); }
constexpr int degree_of(int i) { return i < 1 ? 0 : i < 4 ? 1 : i < 9 ? 2 : 3; }

template <class T>
struct Direction {
  T u[3], length, inverse;  // inverse 0 for a zero vector: its harmonics of l > 0 are zero and stay so
};

template <class T>
__device__ __forceinline__ Direction<T> direction(const T* vectors, int64_t n) {
  const T* v = vectors + 3 * n;
  const T x = global_load(v), y = global_load(v + 1), z = global_load(v + 2);
  const T length = std::sqrt(x * x + y * y + z * z);
  const T inverse = length > 0 ? 1 / length : T(0);
  return {{x * inverse, y * inverse, z * inverse}, length, inverse};
}

// Calls edge(e, sign_e) for each edge of the row.
template <class T, class Edge>
__device__ __forceinline__ void for_edges(const GeometryRows<T>& rows, int64_t n, Edge edge) {
  const int64_t end = global_load(rows.row_ptr + n + 1);
  for (int64_t q = global_load(rows.row_ptr + n); q < end; ++q) {
    const int64_t e = global_load(rows.row_edges + q);
    edge(e, global_load(rows.sign + e));
  }
}

// to[edge, l m] = sign^l c_l p[l m] of every edge of the row
template <int l_max, class T>
__device__ __forceinline__ void write_edges(const GeometryRows<T>& rows, int64_t n, const T* p, T* to) {
  for_edges(rows, n, [&](int64_t e, T sign) {
    PATHTUNE_UNROLL
    for (int i = 0; i < dim_of(l_max); ++i) {
      const int l = degree_of(i);
      global_store(to + e * dim_of(l_max) + i, rows.c[l] * (l % 2 ? sign : T(1)) * p[i]);
    }
  });
}

// sum[l m] = sum over the row's edges of sign^l c_l gy[edge, l m], l > 0
template <int l_max, class T>
__device__ __forceinline__ void read_edges(const GeometryRows<T>& rows, int64_t n, const T* gy, T* sum) {
  PATHTUNE_UNROLL
  for (int i = 0; i < dim_of(l_max); ++i) sum[i] = 0;
  for_edges(rows, n, [&](int64_t e, T sign) {
    PATHTUNE_UNROLL
    for (int i = 1; i < dim_of(l_max); ++i) {
      const int l = degree_of(i);
      sum[i] += rows.c[l] * (l % 2 ? sign : T(1)) * global_load(gy + e * dim_of(l_max) + i);
    }
  });
}

template <class T, int l_max>
__global__ void __launch_bounds__(n_threads)
    geometry_forward(const GeometryRows<T> rows, const T* vectors, T* lengths, T* y) {
  const int64_t n = int64_t(blockIdx.x) * n_threads + threadIdx.x;
  if (n >= rows.n_rows) return;
  const Direction<T> at = direction(vectors, n);
  T p[most_harmonics];
  p[0] = 1;
  harmonics<T, T>(l_max, at.u[0], at.u[1], at.u[2], p);
  global_store(lengths + n, at.length);
  write_edges<l_max>(rows, n, p, y);
}

template <class T, int l_max>
__global__ void __launch_bounds__(n_threads)
    geometry_backward(const GeometryRows<T> rows, const T* vectors, const T* g_lengths, const T* gy, T* gv) {
  const int64_t n = int64_t(blockIdx.x) * n_threads + threadIdx.x;
  if (n >= rows.n_rows) return;
  const Direction<T> at = direction(vectors, n);
  const T g_length = global_load(g_lengths + n);
  T q[most_harmonics], h[3];
  read_edges<l_max>(rows, n, gy, q);
  gradient<T, T>(l_max, at.u[0], at.u[1], at.u[2], q, h);
  const T radial = at.u[0] * h[0] + at.u[1] * h[1] + at.u[2] * h[2];
  PATHTUNE_UNROLL
  for (int i = 0; i < 3; ++i)
    global_store(gv + 3 * n + i, (h[i] - at.u[i] * radial) * at.inverse + g_length * at.u[i]);
}

// With b = d(v / |v|) along av: the adjoint of gy is grad P . b, that of v the derivative of gv along av.
template <class T, int l_max>
__global__ void __launch_bounds__(n_threads)
    geometry_double_backward(const GeometryRows<T> rows, const T* vectors, const T* g_lengths, const T* gy,
                             const T* av, T* a_lengths, T* ay, T* gv) {
  const int64_t n = int64_t(blockIdx.x) * n_threads + threadIdx.x;
  if (n >= rows.n_rows) return;
  const Direction<T> at = direction(vectors, n);
  T a[3];
  PATHTUNE_UNROLL
  for (int i = 0; i < 3; ++i) a[i] = global_load(av + 3 * n + i);
  const T along = at.u[0] * a[0] + at.u[1] * a[1] + at.u[2] * a[2];
  global_store(a_lengths + n, along);
  Dual<T> u[3], p[most_harmonics];
  PATHTUNE_UNROLL
  for (int i = 0; i < 3; ++i) u[i] = {at.u[i], (a[i] - at.u[i] * along) * at.inverse};
  harmonics<T, Dual<T>>(l_max, u[0], u[1], u[2], p);
  T d[most_harmonics];
  d[0] = 0;
  PATHTUNE_UNROLL
  for (int i = 1; i < dim_of(l_max); ++i) d[i] = p[i].d;
  write_edges<l_max>(rows, n, d, ay);
  if (!gv) return;
  const T g_length = global_load(g_lengths + n);
  T q[most_harmonics];
  read_edges<l_max>(rows, n, gy, q);
  Dual<T> h[3];
  gradient<T, Dual<T>>(l_max, u[0], u[1], u[2], q, h);
  const Dual<T> radial = u[0] * h[0] + u[1] * h[1] + u[2] * h[2];
  const Dual<T> inverse{at.inverse, -along * at.inverse * at.inverse};
  PATHTUNE_UNROLL
  for (int i = 0; i < 3; ++i)
    global_store(gv + 3 * n + i, ((h[i] - u[i] * radial) * inverse + g_length * u[i]).d);
}

// Of four kernels that of the shape's l_max.
template <class Kernel>
Kernel of_l_max(const EdgeGeometryShape& shape, Kernel l0, Kernel l1, Kernel l2, Kernel l3) {
  return shape.l_max == 0 ? l0 : shape.l_max == 1 ? l1 : shape.l_max == 2 ? l2 : l3;
}
#define PATHTUNE_OF_L_MAX(kernel) of_l_max(shape, &kernel<T, 0>, &kernel<T, 1>, &kernel<T, 2>, &kernel<T, 3>)

template <class T, class Kernel, class... Tensors>
void launch(const char* op, Kernel kernel, const EdgeGeometryShape& shape, const EdgeGeometryRows<T>& given,
            void* stream, Tensors... tensors) {
  if (shape.n_rows == 0) return;
  GeometryRows<T> rows{given.row_ptr, given.row_edges, given.sign, shape.n_rows, {}};
  for (int l = 0; l <= shape.l_max; ++l) rows.c[l] = T(given.c[l]);
  PATHTUNE_LAUNCH(kernel, dim3(unsigned((shape.n_rows + n_threads - 1) / n_threads)), dim3(n_threads), 0,
                  static_cast<cudaStream_t>(stream), rows, tensors...);
  check_launch(op);
}

}  // namespace

template <class T>
void edge_geometry(const EdgeGeometryShape& shape, const EdgeGeometryRows<T>& rows, const T* vectors,
                   T* lengths, T* y, void* stream) {
  launch("edge_geometry", PATHTUNE_OF_L_MAX(geometry_forward), shape, rows, stream, vectors, lengths, y);
}

template <class T>
void edge_geometry_backward(const EdgeGeometryShape& shape, const EdgeGeometryRows<T>& rows, const T* vectors,
                            const T* g_lengths, const T* gy, T* gv, void* stream) {
  launch("edge_geometry_backward", PATHTUNE_OF_L_MAX(geometry_backward), shape, rows, stream, vectors,
         g_lengths, gy, gv);
}

template <class T>
void edge_geometry_double_backward(const EdgeGeometryShape& shape, const EdgeGeometryRows<T>& rows,
                                   const T* vectors, const T* g_lengths, const T* gy, const T* av,
                                   T* a_lengths, T* ay, T* gv, void* stream) {
  launch("edge_geometry_double_backward", PATHTUNE_OF_L_MAX(geometry_double_backward), shape, rows, stream,
         vectors, g_lengths, gy, av, a_lengths, ay, gv);
}

#define PATHTUNE_INSTANTIATE(T)                                                                           \
  template void edge_geometry<T>(const EdgeGeometryShape&, const EdgeGeometryRows<T>&, const T*, T*, T*,  \
                                 void*);                                                                  \
  template void edge_geometry_backward<T>(const EdgeGeometryShape&, const EdgeGeometryRows<T>&, const T*, \
                                          const T*, const T*, T*, void*);                                 \
  template void edge_geometry_double_backward<T>(const EdgeGeometryShape&, const EdgeGeometryRows<T>&,    \
                                                 const T*, const T*, const T*, const T*, T*, T*, T*, void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::cuda
