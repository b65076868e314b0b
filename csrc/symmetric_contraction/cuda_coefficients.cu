// gc[s, q, u] = sum_{nodes n of s} g[n, o_q, u] mono[n, m_q, u], or with dmono in the place of mono (the
// header).
//
// Parallel axis: (species, two segments a thread, channel). A block has 32 channels and up to eight warps,
// each with segments of its own; the block walks over all nodes of the species, a tile of whose a and g all
// its warps read from shared memory. Every coefficient has one owner: no atomics, deterministic.
#include "cuda_segment.hpp"
#include "portability.hpp"
#include "symmetric_contraction/cuda.hpp"

namespace pathtune::cuda {
namespace contraction {
namespace {

constexpr int segments_per_thread = 2;
constexpr int64_t most_packs = 2;  // of N nodes in a tile: a block's barriers are shared by as many

template <class T>
struct SumArguments {
  SpeciesGroups groups;
  ContractionSegments table;
  int64_t mul;
  int64_t n_packs;
  int64_t blocks_per_species;
  const T *adjoint_a, *grad_out, *a;
  T* grad_coefficients;
};

template <class T, int N>
__device__ __forceinline__ T sum_of_products(const Nodes<T, N>& x, const Nodes<T, N>& y, T sum) {
  PATHTUNE_UNROLL
  for (int n = 0; n < N; ++n) sum += x.v[n] * y.v[n];
  return sum;
}

template <class T, int N, bool OfChange>
__global__ void __launch_bounds__(lanes* most_rows, 2) sum_over_nodes(const SumArguments<T> x) {
  using Element = Nodes<T, N>;
  PATHTUNE_DYNAMIC_SHARED(Element, shared);
  const ContractionSegments& t = x.table;
  const int lane = int(threadIdx.x) % lanes, row = int(threadIdx.x) / lanes, n_rows = int(blockDim.x) / lanes;
  const int64_t channel = int64_t(blockIdx.y) * lanes + lane;
  const int64_t group = blockIdx.x / x.blocks_per_species;
  const int64_t first_segment = (blockIdx.x % x.blocks_per_species * n_rows + row) * segments_per_thread;
  const int64_t begin = global_load(x.groups.ptr + group), end = global_load(x.groups.ptr + group + 1);
  // A pack of nodes: columns a, g and the change of a.
  const int64_t columns = (OfChange ? 2 : 1) * (t.n_ell + 1) + t.n_out;
  const auto column = [&](int64_t pack, int64_t i) {
    return Column<T, N>{shared + lane + (pack * columns + i) * lanes};
  };
  for (int64_t pack = row; pack < x.n_packs; pack += n_rows) {
    column(pack, t.n_ell)[0] = filled<T, N>(T(1));
    if (OfChange) column(pack, 2 * t.n_ell + 1 + t.n_out)[0] = filled<T, N>(T(0));
  }
  // In shared memory: in registers they would not leave enough for the rest.
  PATHTUNE_SHARED(ContractionSegment, all_segments, most_rows * segments_per_thread);
  ContractionSegment* segments = all_segments + row * segments_per_thread;
  if (lane < segments_per_thread)
    segments[lane] = first_segment + lane < t.n_segments ? global_load(t.segments + first_segment + lane)
                                                         : ContractionSegment{};
  T sums[segments_per_thread][4] = {};

  for (int64_t first = begin; first < end; first += x.n_packs * N) {
    __syncthreads();
    for (int64_t pack = 0; pack < x.n_packs; ++pack) {
      const NodeRows<T, N> nodes(x.groups.order, first + pack * N, end, x.mul, channel);
      nodes.stage(x.a, t.n_ell, column(pack, 0), row, n_rows);
      nodes.stage(x.grad_out, t.n_out, column(pack, t.n_ell + 1), row, n_rows);
      if (OfChange) nodes.stage(x.adjoint_a, t.n_ell, column(pack, t.n_ell + 1 + t.n_out), row, n_rows);
    }
    __syncthreads();
    PATHTUNE_UNROLL
    for (int k = 0; k < segments_per_thread; ++k) {
      const ContractionSegment segment = segments[k];
      if (segment.n_terms == 0) continue;
      for (int64_t pack = 0; pack < x.n_packs; ++pack) {
        const Column<T, N> a = column(pack, 0), da = column(pack, t.n_ell + 1 + t.n_out);
        const Nodes<T, N> g = column(pack, t.n_ell + 1)[segment.output];
        Dual<T, N> head;
        if constexpr (OfChange)
          head = head_product(t, first_segment + k, segment, a, da);
        else
          head.value = head_product(t, first_segment + k, segment, a);
        const Nodes<T, N> g_head = g * head.value;
        PATHTUNE_UNROLL
        for (int j = 0; j < 4; ++j)
          if (j < segment.n_terms) {
            if constexpr (OfChange) {
              sums[k][j] = sum_of_products(g * head.change, a[segment.tail[j]], sums[k][j]);
              sums[k][j] = sum_of_products(g_head, da[segment.tail[j]], sums[k][j]);
            } else {
              sums[k][j] = sum_of_products(g_head, a[segment.tail[j]], sums[k][j]);
            }
          }
      }
    }
  }
  PATHTUNE_UNROLL
  for (int k = 0; k < segments_per_thread; ++k) {
    PATHTUNE_UNROLL
    for (int j = 0; j < 4; ++j)
      if (channel < x.mul && j < segments[k].n_terms)
        global_store(x.grad_coefficients + (group * t.n_terms + segments[k].term[j]) * x.mul + channel,
                     sums[k][j]);
  }
}

}  // namespace
}  // namespace contraction

template <class T>
void contraction_grad_coefficients(const char* op, const ContractionShape& shape, const SpeciesGroups& groups,
                                   const ContractionSegments& table, const T* adjoint_a, const T* grad_out,
                                   const T* a, T* grad_coefficients, void* stream) {
  using namespace contraction;
  if (shape.n_nodes == 0 || shape.mul == 0 || table.n_segments == 0) return;
  const int64_t per_thread = segments_per_thread;
  const int64_t rows_wanted = (table.n_segments + per_thread - 1) / per_thread;
  const int64_t columns = (adjoint_a ? 2 : 1) * (table.n_ell + 1) + table.n_out;
  const Cut cut = choose_cut(op, sizeof(T), columns, 0, rows_wanted);
  const int64_t fitting = most_shared_bytes / cut.shared_bytes;
  const int64_t n_packs = fitting < most_packs ? fitting : most_packs;
  const int64_t blocks = (rows_wanted + cut.rows - 1) / cut.rows;
  const SumArguments<T> x{groups,    table,    shape.mul, n_packs,          blocks,
                          adjoint_a, grad_out, a,         grad_coefficients};
  constexpr int Most = 16 / sizeof(T);
  using Kernel = void (*)(SumArguments<T>);
  const Kernel of_value[] = {sum_over_nodes<T, 1, false>, sum_over_nodes<T, 2, false>,
                             sum_over_nodes<T, Most, false>};
  const Kernel of_change[] = {sum_over_nodes<T, 1, true>, sum_over_nodes<T, 2, true>,
                              sum_over_nodes<T, Most, true>};
  const Kernel kernel = (adjoint_a ? of_change : of_value)[cut.nodes / 2];
  const dim3 grid(unsigned(shape.n_present * blocks), unsigned((shape.mul + lanes - 1) / lanes));
  PATHTUNE_LAUNCH(kernel, grid, dim3(unsigned(lanes * cut.rows)), size_t(n_packs * cut.shared_bytes),
                  static_cast<cudaStream_t>(stream), x);
  check_launch(op);
}

#define PATHTUNE_INSTANTIATE(T)                                                                              \
  template void contraction_grad_coefficients<T>(const char*, const ContractionShape&, const SpeciesGroups&, \
                                                 const ContractionSegments&, const T*, const T*, const T*,   \
                                                 T*, void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::cuda
