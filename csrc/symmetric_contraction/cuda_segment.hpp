// What the kernels of symmetric_contraction share. A thread has one channel and N nodes: N neighbouring
// numbers of shared memory, 16 bytes where shared memory allows it. All that a thread keeps there is a column
// of its own, element i of which lies at i * lanes, so that a warp's access is without bank conflicts.
#pragma once
#include <stdexcept>
#include <string>

#include "portability.hpp"
#include "species_linear/cuda_groups.hpp"
#include "symmetric_contraction/cuda.hpp"

namespace pathtune::cuda::contraction {

constexpr int lanes = 32;     // channels of a block: one warp, so that every branch on a segment is uniform
constexpr int most_rows = 8;  // warps of a block, which share out the segments

template <class T, int N>
struct alignas(sizeof(T) * N) Nodes {
  T v[N];
};

template <class T, int N>
__device__ __forceinline__ Nodes<T, N> filled(T value) {
  Nodes<T, N> r;
  PATHTUNE_UNROLL
  for (int n = 0; n < N; ++n) r.v[n] = value;
  return r;
}
template <class T, int N>
__device__ __forceinline__ Nodes<T, N> operator*(const Nodes<T, N>& x, const Nodes<T, N>& y) {
  Nodes<T, N> r;
  PATHTUNE_UNROLL
  for (int n = 0; n < N; ++n) r.v[n] = x.v[n] * y.v[n];
  return r;
}
template <class T, int N>
__device__ __forceinline__ void operator+=(Nodes<T, N>& to, const Nodes<T, N>& x) {
  PATHTUNE_UNROLL
  for (int n = 0; n < N; ++n) to.v[n] += x.v[n];
}
// to += x y
template <class T, int N>
__device__ __forceinline__ void add_product(Nodes<T, N>& to, const Nodes<T, N>& x, const Nodes<T, N>& y) {
  PATHTUNE_UNROLL
  for (int n = 0; n < N; ++n) to.v[n] += x.v[n] * y.v[n];
}
template <class T, int N>
__device__ __forceinline__ void add_product(Nodes<T, N>& to, T x, const Nodes<T, N>& y) {
  PATHTUNE_UNROLL
  for (int n = 0; n < N; ++n) to.v[n] += x * y.v[n];
}

template <class T, int N>
struct Column {
  Nodes<T, N>* first;  // this lane's
  __device__ __forceinline__ Nodes<T, N>& operator[](int64_t i) const { return first[i * lanes]; }
};

// A number and its change along adjoint_a. Of adjoints: that of the number, and that of its change.
template <class T, int N>
struct Dual {
  Nodes<T, N> value;
  Nodes<T, N> change;
};
template <class T, int N>
__device__ __forceinline__ Dual<T, N> product(const Dual<T, N>& x, const Nodes<T, N>& y,
                                              const Nodes<T, N>& dy) {
  Dual<T, N> r{x.value * y, x.change * y};
  add_product(r.change, x.value, dy);
  return r;
}
// The adjoint of x, from that of x y.
template <class T, int N>
__device__ __forceinline__ Dual<T, N> pulled_back(const Dual<T, N>& g, const Nodes<T, N>& y,
                                                  const Nodes<T, N>& dy) {
  Dual<T, N> r{g.value * y, g.change * y};
  add_product(r.value, g.change, dy);
  return r;
}

// The rows of up to N nodes of one species in a tensor [n_nodes, n_components, mul], at this thread's
// channel.
template <class T, int N>
struct NodeRows {
  int64_t node[N];  // -1: none, or no such channel
  int64_t mul;
  int64_t channel;

  __device__ __forceinline__ NodeRows(const int64_t* order, int64_t first, int64_t end, int64_t mul,
                                      int64_t channel)
      : mul(mul), channel(channel) {
    PATHTUNE_UNROLL
    for (int n = 0; n < N; ++n)
      node[n] = first + n < end && channel < mul ? global_load(order + first + n) : -1;
  }
  __device__ __forceinline__ Nodes<T, N> load(const T* x, int64_t n_components, int64_t i) const {
    Nodes<T, N> r;
    PATHTUNE_UNROLL
    for (int n = 0; n < N; ++n)
      r.v[n] = node[n] >= 0 ? global_load(x + (node[n] * n_components + i) * mul + channel) : T(0);
    return r;
  }
  __device__ __forceinline__ void store(T* x, int64_t n_components, int64_t i,
                                        const Nodes<T, N>& value) const {
    PATHTUNE_UNROLL
    for (int n = 0; n < N; ++n)
      if (node[n] >= 0) global_store(x + (node[n] * n_components + i) * mul + channel, value.v[n]);
  }
  // The elements of a column that fall to this warp: every n_rows-th.
  __device__ __forceinline__ void stage(const T* x, int64_t n_components, Column<T, N> to, int row,
                                        int n_rows) const {
    for (int64_t i = row; i < n_components; i += n_rows) to[i] = load(x, n_components, i);
  }
};

// The product of a segment's head.
template <class T, int N>
__device__ __forceinline__ Nodes<T, N> head_product(const ContractionSegments& t, int64_t s,
                                                    const ContractionSegment& segment, Column<T, N> a) {
  Nodes<T, N> p = a[segment.head[0]] * a[segment.head[1]];
  for (int64_t k = 0; k < t.n_more; ++k) p = p * a[global_load(t.more + s * t.n_more + k)];
  return p;
}
template <class T, int N>
__device__ __forceinline__ Dual<T, N> head_product(const ContractionSegments& t, int64_t s,
                                                   const ContractionSegment& segment, Column<T, N> a,
                                                   Column<T, N> da) {
  Dual<T, N> p =
      product(Dual<T, N>{a[segment.head[0]], da[segment.head[0]]}, a[segment.head[1]], da[segment.head[1]]);
  for (int64_t k = 0; k < t.n_more; ++k) {
    const int32_t i = global_load(t.more + s * t.n_more + k);
    p = product(p, a[i], da[i]);
  }
  return p;
}

constexpr int64_t most_shared_bytes = shared_bytes_per_block - 576;  // find_tile and segments

// How a block is cut: as many nodes a thread as leave room for two warps, as many warps as then fit.
struct Cut {
  int nodes;  // a thread
  int rows;   // warps
  int64_t shared_bytes;
};

// fixed and per_row: columns of a block, and of each warp.
inline Cut choose_cut(const char* op, int64_t element_bytes, int64_t fixed, int64_t per_row,
                      int64_t rows_wanted) {
  for (int nodes = int(16 / element_bytes); nodes >= 1; nodes /= 2) {
    const int64_t column_bytes = lanes * nodes * element_bytes;
    const int64_t columns = most_shared_bytes / column_bytes - fixed;
    const int64_t fitting = per_row == 0 ? (columns >= 0 ? most_rows : 0) : columns / per_row;
    const int64_t rows = fitting < most_rows ? fitting : most_rows;
    if (rows >= 2 || (rows == 1 && nodes == 1)) {
      const int64_t taken = rows_wanted < 1 ? 1 : rows_wanted < rows ? rows_wanted : rows;
      return {nodes, int(taken), (fixed + per_row * taken) * column_bytes};
    }
  }
  throw std::runtime_error(std::string(op) + ": the components of one node do not fit in shared memory");
}

}  // namespace pathtune::cuda::contraction
