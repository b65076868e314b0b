// out[n, o, u] = sum_{q: o_q = o} c[s_n, q, u] mono[n, m_q, u] and its derivatives, see the header.
//
// Parallel axis: tiles of N nodes of one species times 32 channels; a thread has one channel and reads a
// coefficient once for its N nodes. Threads that are few leave the device idle, so up to eight warps share
// the segments of a tile: each adds to columns of its own, which are summed in the order of warps at the end:
// no atomics, deterministic. Coefficients are read one by one: the lanes of a warp lie next to each other
// there, and wider accesses would cost registers per node. grad_coefficients: cuda_coefficients.cu.
#include "cuda_segment.hpp"
#include "portability.hpp"
#include "symmetric_contraction/cuda.hpp"

namespace pathtune::cuda {
namespace contraction {
namespace {

// Every argument of every pass; a pass uses some. Shapes in symmetric_contraction.hpp.
template <class T>
struct Arguments {
  SpeciesGroups groups;
  ContractionSegments table;
  int64_t n_present;
  int64_t mul;
  const T *adjoint_a, *adjoint_coefficients, *grad_out, *a, *coefficients;
  T *out, *grad_a;
};

template <class T>
struct Coefficients {
  T c[4];
  T adjoint[4];  // of the double backward
};

// This warp's share of the segments, each with its coefficients: work(s, segment, coefficients). Both are
// read one segment ahead.
template <bool WithAdjoint, class T, class Work>
__device__ __forceinline__ void for_segments(const Arguments<T>& x, int64_t group, int64_t channel, int row,
                                             int n_rows, Work work) {
  const ContractionSegments& t = x.table;
  const int64_t begin = t.n_segments * row / n_rows, end = t.n_segments * (row + 1) / n_rows;
  const int64_t first = group * t.n_terms * x.mul + channel;
  const bool exists = channel < x.mul;
  const auto read = [&](const ContractionSegment& segment) {
    Coefficients<T> r;
    PATHTUNE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const bool wanted = exists && j < segment.n_terms;
      const int64_t place = first + segment.term[j] * x.mul;
      r.c[j] = wanted ? global_load(x.coefficients + place) : T(0);
      if constexpr (WithAdjoint)
        r.adjoint[j] = wanted && x.adjoint_coefficients ? global_load(x.adjoint_coefficients + place) : T(0);
    }
    return r;
  };
  if (begin == end) return;  // work has no barrier
  ContractionSegment next = global_load(t.segments + begin);
  Coefficients<T> next_coefficients = read(next);
  for (int64_t s = begin; s < end; ++s) {
    const ContractionSegment segment = next;
    const Coefficients<T> coefficients = next_coefficients;
    if (s + 1 < end) {
      next = global_load(t.segments + s + 1);
      next_coefficients = read(next);
    }
    work(s, segment, coefficients);
  }
}

// Where a block's threads stand. Shared memory: columns one after the other, counted by `take`.
template <class T, int N>
struct Block {
  int lane, row, n_rows;
  int64_t channel;
  Nodes<T, N>* free;

  __device__ __forceinline__ explicit Block(Nodes<T, N>* shared)
      : lane(int(threadIdx.x) % lanes),
        row(int(threadIdx.x) / lanes),
        n_rows(int(blockDim.x) / lanes),
        channel(int64_t(blockIdx.y) * lanes + lane),
        free(shared + lane) {}
  // n elements of a column of the block
  __device__ __forceinline__ Column<T, N> take(int64_t n) {
    const Column<T, N> r{free};
    free += n * lanes;
    return r;
  }
  // and of each warp: its own, zeroed
  __device__ __forceinline__ Column<T, N> take_own(int64_t n) {
    const Column<T, N> own{free + row * n * lanes};
    for (int64_t i = 0; i < n; ++i) own[i] = filled<T, N>(T(0));
    free += n_rows * n * lanes;
    return own;
  }
  // x[nodes, i] = sum over warps of their elements i; `own` is this warp's column of n.
  __device__ __forceinline__ void sum_rows(Column<T, N> own, int64_t n, const NodeRows<T, N>& nodes, T* x,
                                           int64_t n_components) const {
    const Column<T, N> of_first{own.first - row * n * lanes};
    for (int64_t i = row; i < n_components; i += n_rows) {
      Nodes<T, N> sum = of_first[i];
      for (int64_t r = 1; r < n_rows; ++r) sum += of_first[r * n + i];
      nodes.store(x, n_components, i, sum);
    }
  }
};

template <class T, int N>
__global__ void __launch_bounds__(lanes* most_rows) contract(const Arguments<T> x) {
  using Element = Nodes<T, N>;
  PATHTUNE_DYNAMIC_SHARED(Element, shared);
  const ContractionSegments& t = x.table;
  const SpeciesTile tile = find_tile(x.groups.ptr, x.n_present, blockIdx.x, 1, N);
  if (tile.group < 0) return;  // the whole block
  Block<T, N> block(shared);
  const NodeRows<T, N> nodes(x.groups.order, tile.begin + tile.index * N, tile.end, x.mul, block.channel);
  const Column<T, N> a = block.take(t.n_ell + 1), out = block.take_own(t.n_out);
  nodes.stage(x.a, t.n_ell, a, block.row, block.n_rows);
  if (block.row == 0) a[t.n_ell] = filled<T, N>(T(1));
  __syncthreads();

  int output = -1;
  Nodes<T, N> sum = filled<T, N>(T(0));
  for_segments<false>(x, tile.group, block.channel, block.row, block.n_rows,
                      [&](int64_t s, const ContractionSegment& segment, const Coefficients<T>& c) {
                        if (segment.output != output) {
                          if (output >= 0) out[output] = sum;
                          output = segment.output;
                          sum = filled<T, N>(T(0));
                        }
                        Nodes<T, N> tails = filled<T, N>(T(0));
                        PATHTUNE_UNROLL
                        for (int j = 0; j < 4; ++j)
                          if (j < segment.n_terms) add_product(tails, c.c[j], a[segment.tail[j]]);
                        add_product(sum, head_product(t, s, segment, a), tails);
                      });
  if (output >= 0) out[output] = sum;
  __syncthreads();
  block.sum_rows(out, t.n_out, nodes, x.out, t.n_out);
}

// ga += d/da of g (product of the head), g the adjoint of that product
template <class T, int N>
__device__ __forceinline__ void add_head_gradient(const ContractionSegments& t, int64_t s,
                                                  const ContractionSegment& segment, Column<T, N> a,
                                                  const Nodes<T, N>& g, Column<T, N> ga) {
  const int32_t* more = t.more + s * t.n_more;
  const int64_t first = segment.head[0], second = segment.head[1];
  Nodes<T, N> rest = g;
  for (int64_t k = 0; k < t.n_more; ++k) rest = rest * a[global_load(more + k)];
  add_product(ga[first], rest, a[second]);
  add_product(ga[second], rest, a[first]);
  for (int64_t k = 0; k < t.n_more; ++k) {
    Nodes<T, N> others = g * a[first] * a[second];
    for (int64_t j = 0; j < t.n_more; ++j)
      if (j != k) others = others * a[global_load(more + j)];
    ga[global_load(more + k)] += others;
  }
}

template <class T, int N>
__global__ void __launch_bounds__(lanes* most_rows) contract_backward(const Arguments<T> x) {
  using Element = Nodes<T, N>;
  PATHTUNE_DYNAMIC_SHARED(Element, shared);
  const ContractionSegments& t = x.table;
  const SpeciesTile tile = find_tile(x.groups.ptr, x.n_present, blockIdx.x, 1, N);
  if (tile.group < 0) return;  // the whole block
  Block<T, N> block(shared);
  const NodeRows<T, N> nodes(x.groups.order, tile.begin + tile.index * N, tile.end, x.mul, block.channel);
  const Column<T, N> a = block.take(t.n_ell + 1), g = block.take(t.n_out), ga = block.take_own(t.n_ell + 1);
  nodes.stage(x.a, t.n_ell, a, block.row, block.n_rows);
  nodes.stage(x.grad_out, t.n_out, g, block.row, block.n_rows);
  if (block.row == 0) a[t.n_ell] = filled<T, N>(T(1));
  __syncthreads();

  for_segments<false>(x, tile.group, block.channel, block.row, block.n_rows,
                      [&](int64_t s, const ContractionSegment& segment, const Coefficients<T>& c) {
                        const Nodes<T, N> g_o = g[segment.output];
                        const Nodes<T, N> g_head = g_o * head_product(t, s, segment, a);
                        Nodes<T, N> tails = filled<T, N>(T(0));
                        PATHTUNE_UNROLL
                        for (int j = 0; j < 4; ++j)
                          if (j < segment.n_terms) {
                            add_product(tails, c.c[j], a[segment.tail[j]]);
                            add_product(ga[segment.tail[j]], c.c[j], g_head);
                          }
                        add_head_gradient(t, s, segment, a, g_o * tails, ga);
                      });
  __syncthreads();
  block.sum_rows(ga, t.n_ell + 1, nodes, x.grad_a, t.n_ell);
}

// The same for dual numbers.
template <class T, int N>
__device__ __forceinline__ void add_head_gradient(const ContractionSegments& t, int64_t s,
                                                  const ContractionSegment& segment, Column<T, N> a,
                                                  Column<T, N> da, const Dual<T, N>& g, Column<T, N> ga) {
  const int32_t* more = t.more + s * t.n_more;
  const int64_t first = segment.head[0], second = segment.head[1];
  Dual<T, N> rest = g;
  for (int64_t k = 0; k < t.n_more; ++k) {
    const int32_t i = global_load(more + k);
    rest = pulled_back(rest, a[i], da[i]);
  }
  add_product(ga[first], rest.value, a[second]);
  add_product(ga[first], rest.change, da[second]);
  add_product(ga[second], rest.value, a[first]);
  add_product(ga[second], rest.change, da[first]);
  for (int64_t k = 0; k < t.n_more; ++k) {
    Dual<T, N> others = pulled_back(pulled_back(g, a[first], da[first]), a[second], da[second]);
    for (int64_t j = 0; j < t.n_more; ++j) {
      if (j == k) continue;
      const int32_t i = global_load(more + j);
      others = pulled_back(others, a[i], da[i]);
    }
    ga[global_load(more + k)] += others.value;
  }
}

// With tails.change = sum_j c_j a[tail_j] and tails.value = sum_j (c_j da[tail_j] + ac_j a[tail_j]), a
// segment adds dhead tails.change + head tails.value to grad_grad_out, and g tails is the adjoint of its
// head.
template <class T, int N>
__global__ void __launch_bounds__(lanes* most_rows) contract_double_backward(const Arguments<T> x) {
  using Element = Nodes<T, N>;
  PATHTUNE_DYNAMIC_SHARED(Element, shared);
  const ContractionSegments& t = x.table;
  const SpeciesTile tile = find_tile(x.groups.ptr, x.n_present, blockIdx.x, 1, N);
  if (tile.group < 0) return;  // the whole block
  Block<T, N> block(shared);
  const NodeRows<T, N> nodes(x.groups.order, tile.begin + tile.index * N, tile.end, x.mul, block.channel);
  const Column<T, N> a = block.take(t.n_ell + 1), da = block.take(t.n_ell + 1);
  const Column<T, N> g = block.take(x.grad_a ? t.n_out : 0);
  const Column<T, N> ga = block.take_own(x.grad_a ? t.n_ell + 1 : 0),
                     out = block.take_own(x.out ? t.n_out : 0);
  nodes.stage(x.a, t.n_ell, a, block.row, block.n_rows);
  nodes.stage(x.adjoint_a, t.n_ell, da, block.row, block.n_rows);
  if (x.grad_a) nodes.stage(x.grad_out, t.n_out, g, block.row, block.n_rows);
  if (block.row == 0) {
    a[t.n_ell] = filled<T, N>(T(1));
    da[t.n_ell] = filled<T, N>(T(0));
  }
  __syncthreads();

  for_segments<true>(x, tile.group, block.channel, block.row, block.n_rows,
                     [&](int64_t s, const ContractionSegment& segment, const Coefficients<T>& c) {
                       const Dual<T, N> head = head_product(t, s, segment, a, da);
                       const Nodes<T, N> g_o = x.grad_a ? g[segment.output] : filled<T, N>(T(0));
                       const Dual<T, N> g_head{g_o * head.value, g_o * head.change};
                       Dual<T, N> tails{filled<T, N>(T(0)), filled<T, N>(T(0))};
                       PATHTUNE_UNROLL
                       for (int j = 0; j < 4; ++j)
                         if (j < segment.n_terms) {
                           const int64_t i = segment.tail[j];
                           const Nodes<T, N> a_i = a[i];
                           add_product(tails.change, c.c[j], a_i);
                           add_product(tails.value, c.c[j], da[i]);
                           add_product(tails.value, c.adjoint[j], a_i);
                           if (x.grad_a) {
                             add_product(ga[i], c.c[j], g_head.change);
                             add_product(ga[i], c.adjoint[j], g_head.value);
                           }
                         }
                       if (x.out) {
                         Nodes<T, N> sum = out[segment.output];
                         add_product(sum, head.change, tails.change);
                         add_product(sum, head.value, tails.value);
                         out[segment.output] = sum;
                       }
                       if (x.grad_a)
                         add_head_gradient(t, s, segment, a, da,
                                           Dual<T, N>{g_o * tails.value, g_o * tails.change}, ga);
                     });
  __syncthreads();
  if (x.out) block.sum_rows(out, t.n_out, nodes, x.out, t.n_out);
  if (x.grad_a) block.sum_rows(ga, t.n_ell + 1, nodes, x.grad_a, t.n_ell);
}

template <class T>
using Kernel = void (*)(Arguments<T>);

// kernels: for 1, 2 and 4 nodes a thread; fixed and per_row: columns of shared memory
template <class T>
void launch(const char* op, const ContractionShape& shape, const Arguments<T>& x,
            const Kernel<T> (&kernels)[3], int64_t fixed, int64_t per_row, void* stream) {
  const Cut cut = choose_cut(op, sizeof(T), fixed, per_row, x.table.n_segments);
  const auto kernel = kernels[cut.nodes / 2];
  const dim3 grid(unsigned(most_tiles(shape.n_nodes, shape.n_present, cut.nodes)),
                  unsigned((shape.mul + lanes - 1) / lanes));
  PATHTUNE_LAUNCH(kernel, grid, dim3(unsigned(lanes * cut.rows)), size_t(cut.shared_bytes),
                  static_cast<cudaStream_t>(stream), x);
  check_launch(op);
}

}  // namespace
}  // namespace contraction

// Four doubles would be 32 bytes: two is the most that choose_cut takes.
#define PATHTUNE_KERNELS(name) \
  {contraction::name<T, 1>, contraction::name<T, 2>, contraction::name<T, 16 / sizeof(T)>}

template <class T>
void symmetric_contraction(const ContractionShape& shape, const SpeciesGroups& groups,
                           const ContractionSegments& table, const T* a, const T* coefficients, T* out,
                           void* stream) {
  if (shape.n_nodes == 0 || shape.mul == 0) return;
  const contraction::Arguments<T> x{groups,  table, shape.n_present, shape.mul, nullptr, nullptr,
                                    nullptr, a,     coefficients,    out,       nullptr};
  contraction::launch<T>("symmetric_contraction", shape, x, PATHTUNE_KERNELS(contract), table.n_ell + 1,
                         table.n_out, stream);
}

template <class T>
void symmetric_contraction_backward(const ContractionShape& shape, const SpeciesGroups& groups,
                                    const ContractionSegments& table, const T* grad_out, const T* a,
                                    const T* coefficients, T* grad_a, T* grad_coefficients, void* stream) {
  if (shape.n_nodes == 0 || shape.mul == 0) return;
  const char* op = "symmetric_contraction_backward";
  const contraction::Arguments<T> x{groups,   table, shape.n_present, shape.mul, nullptr, nullptr,
                                    grad_out, a,     coefficients,    nullptr,   grad_a};
  if (grad_a)
    contraction::launch<T>(op, shape, x, PATHTUNE_KERNELS(contract_backward), table.n_ell + 1 + table.n_out,
                           table.n_ell + 1, stream);
  if (grad_coefficients)
    contraction_grad_coefficients<T>(op, shape, groups, table, nullptr, grad_out, a, grad_coefficients,
                                     stream);
}

template <class T>
void symmetric_contraction_double_backward(const ContractionShape& shape, const SpeciesGroups& groups,
                                           const ContractionSegments& table, const T* adjoint_a,
                                           const T* adjoint_coefficients, const T* grad_out, const T* a,
                                           const T* coefficients, T* grad_grad_out, T* grad_a,
                                           T* grad_coefficients, void* stream) {
  if (shape.n_nodes == 0 || shape.mul == 0) return;
  const char* op = "symmetric_contraction_double_backward";
  const contraction::Arguments<T> x{
      groups,   table, shape.n_present, shape.mul,     adjoint_a, adjoint_coefficients,
      grad_out, a,     coefficients,    grad_grad_out, grad_a};
  if (grad_grad_out || grad_a)
    contraction::launch<T>(op, shape, x, PATHTUNE_KERNELS(contract_double_backward),
                           2 * (table.n_ell + 1) + (grad_a ? table.n_out : 0),
                           (grad_a ? table.n_ell + 1 : 0) + (grad_grad_out ? table.n_out : 0), stream);
  if (grad_coefficients)
    contraction_grad_coefficients<T>(op, shape, groups, table, adjoint_a, grad_out, a, grad_coefficients,
                                     stream);
}

#define PATHTUNE_INSTANTIATE(T)                                                                             \
  template void symmetric_contraction<T>(const ContractionShape&, const SpeciesGroups&,                     \
                                         const ContractionSegments&, const T*, const T*, T*, void*);        \
  template void symmetric_contraction_backward<T>(const ContractionShape&, const SpeciesGroups&,            \
                                                  const ContractionSegments&, const T*, const T*, const T*, \
                                                  T*, T*, void*);                                           \
  template void symmetric_contraction_double_backward<T>(const ContractionShape&, const SpeciesGroups&,     \
                                                         const ContractionSegments&, const T*, const T*,    \
                                                         const T*, const T*, const T*, T*, T*, T*, void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::cuda
