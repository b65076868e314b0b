// edge_conv over senders: gx alone, where torch asks for deterministic algorithms (cuda.cu adds it
// atomically).
//
//   gx[s, i, u] = sum_{e from s, p} w[row_e, p, u] sum_k M_ki g[receiver_e, k, u],    M_ki = sum_j C[i,j,k]
//   y[e, j]
// and in the double backward w a_i + aw h_i in the place of w h_i (cuda.cu).
//
// Parallel axis: a block has one sender and a chunk of channels, a thread one channel; its gx stays in shared
// memory. The edges of a sender are taken in their order, so that the sum is the same in every run. The rows
// of g are gathered here, once for each path and edge.
#include <stdexcept>

#include "edge_conv/cuda_tile.hpp"

namespace pathtune::cuda {

namespace {

template <class T>
struct SenderThread {
  const ConvArgs<T>& a;
  const ConvPath* paths;
  const int64_t *g_row, *w_row;  // [tile_edges] of the edges, as offsets
  const T *m, *am;
  T* gx;  // of this thread, slot after slot
  int channel, n_edges;
};

// Paths first .. end - 1, all of one block of x, all edges of the tile.
template <class T, bool adjoint, int D1>
__device__ __forceinline__ void gather_paths(const SenderThread<T>& t, int first, int end) {
  if (t.channel >= t.paths[first].mul) return;
  T gx[D1];
  PATHTUNE_UNROLL
  for (int i = 0; i < D1; ++i) gx[i] = t.gx[int64_t(t.paths[first].in_slot + i) * t.a.chunk];
  const bool has_am = adjoint && t.a.adjoint.ay;
#pragma unroll 1
  for (int e = 0; e < t.n_edges; ++e)
#pragma unroll 1
    for (int p = first; p < end; ++p) {
      const ConvPath& path = t.paths[p];
      const int64_t at_w = t.w_row[e] + path.weight_offset + t.channel;
      const T w = global_load(t.a.in.w + at_w);
      const T aw = adjoint && t.a.adjoint.aw ? global_load(t.a.adjoint.aw + at_w) : T(0);
      const T* from = t.a.in.g + t.g_row[e] + path.out_offset + t.channel;
      T h[D1], a[D1];
      PATHTUNE_UNROLL
      for (int i = 0; i < D1; ++i) h[i] = a[i] = T(0);
#pragma unroll 1
      for (int k = 0; k < path.dim3; ++k) {
        const T g = global_load(from + k * path.out_mul);
        const int at = (path.m_offset + k * D1) * tile_edges + e;
        PATHTUNE_UNROLL
        for (int i = 0; i < D1; ++i) h[i] += t.m[at + i * tile_edges] * g;
        if (has_am) PATHTUNE_UNROLL
        for (int i = 0; i < D1; ++i) a[i] += t.am[at + i * tile_edges] * g;
      }
      PATHTUNE_UNROLL
      for (int i = 0; i < D1; ++i) gx[i] += adjoint ? w * a[i] + aw * h[i] : w * h[i];
    }
  PATHTUNE_UNROLL
  for (int i = 0; i < D1; ++i) t.gx[int64_t(t.paths[first].in_slot + i) * t.a.chunk] = gx[i];
}

template <class T, bool adjoint>
__global__ void __launch_bounds__(max_threads) conv_senders(ConvArgs<T> a) {
  PATHTUNE_DYNAMIC_SHARED(unsigned char, shared);
  const ConvLayout& at = a.layout;
  const int64_t sender = blockIdx.x;
  const int local = threadIdx.x, dim_y = int(a.shape.dim_y);
  constexpr int idle = 0x3fffffff;
  int64_t* rows = shared_at<int64_t>(shared, at.edges);
  ConvPath* paths = shared_at<ConvPath>(shared, at.paths);
  T* y = shared_at<T>(shared, at.y);
  T* ay = shared_at<T>(shared, at.ay);
  T* m = shared_at<T>(shared, at.m);
  T* am = shared_at<T>(shared, at.am);
  SenderThread<T> t{a,
                    paths,
                    rows,
                    rows + tile_edges,
                    m,
                    am,
                    shared_at<T>(shared, at.out) + local,
                    local < a.chunk ? int(blockIdx.y) * a.chunk + local : idle,
                    0};

  stage_table(a.table.paths, paths, a.sizes.n_paths);
  if (local < a.chunk)
    for (int64_t slot = 0; slot < a.sizes.n_in_slots; ++slot) t.gx[slot * a.chunk] = T(0);
  const int64_t end = global_load(a.graph.sender_ptr + sender + 1);
  for (int64_t begin = global_load(a.graph.sender_ptr + sender); begin < end; begin += tile_edges) {
    t.n_edges = int(min(int64_t(tile_edges), end - begin));
    if (local < t.n_edges) {
      const int64_t edge = global_load(a.graph.sender_order + begin + local);
      rows[local] = global_load(a.receiver + edge) * a.shape.dim_out;
      rows[tile_edges + local] = global_load(a.graph.weight_row + edge) * a.shape.weight_numel;
    }
    stage_harmonics<T>(a.in.y, y, dim_y, a.graph.sender_order, begin, t.n_edges);
    if (adjoint && a.adjoint.ay)
      stage_harmonics<T>(a.adjoint.ay, ay, dim_y, a.graph.sender_order, begin, t.n_edges);
    __syncthreads();
    for (int batch = 0; batch < a.sizes.n_batches; ++batch) {
      int first = global_load(a.table.batches + 2 * batch);
      const int first_m = global_load(a.table.batches + 2 * batch + 1);
      const int end_path = global_load(a.table.batches + 2 * batch + 2);
      const int n_m = global_load(a.table.batches + 2 * batch + 3) - first_m;
      contract<T>(a.table.contract, first_m, n_m, y, 1, 0, m, false);
      if (adjoint && a.adjoint.ay) contract<T>(a.table.contract, first_m, n_m, ay, 1, 0, am, false);
      __syncthreads();
      while (first < end_path) {
        int next = first + 1;
        while (next < end_path && paths[next].in_offset == paths[first].in_offset) ++next;
#define PATHTUNE_WALK(D1) gather_paths<T, adjoint, D1>(t, first, next)
        PATHTUNE_CONV_DIM1(paths[first].dim1, PATHTUNE_WALK)
#undef PATHTUNE_WALK
        first = next;
      }
      __syncthreads();
    }
  }
  __syncthreads();  // the paths, where a sender has no edges
  for (int p = 0; p < a.sizes.n_paths; ++p) {
    const ConvPath& path = paths[p];
    if (t.channel >= path.mul || (p > 0 && paths[p - 1].in_offset == path.in_offset)) continue;
    T* to = a.to.gx + sender * a.shape.dim_in + path.in_offset + t.channel;
    for (int i = 0; i < path.dim1; ++i)
      global_store(to + int64_t(i) * path.mul, t.gx[int64_t(path.in_slot + i) * a.chunk]);
  }
}

template <class T>
ConvLayout senders_layout(const EdgeConvShape& shape, const ConvSizes& sizes, bool adjoint, int64_t n_warps,
                          int64_t chunk) {
  return conv_layout<T>(shape, sizes, {false, true, false, adjoint}, n_warps, chunk, sizes.n_in_slots, 0);
}

}  // namespace

template <class T>
void edge_conv_senders(const EdgeConvShape& shape, const EdgeConvGraph& graph, const int64_t* receiver,
                       const ConvSizes& sizes, const ConvTable<T>& table, bool adjoint,
                       const EdgeConvInputs<T>& in, const EdgeConvAdjoints<T>& adjoints, T* gx,
                       void* stream) {
  if (shape.n_nodes == 0 || sizes.n_paths == 0) return;
  const int64_t chunk = choose_chunk(sizes.max_mul, 1, [&](int64_t n_warps, int64_t channels) {
    return senders_layout<T>(shape, sizes, adjoint, n_warps, channels).end;
  });
  if (chunk == 0)
    throw std::runtime_error("edge_conv: the paths need more than a CUDA block's shared memory");
  const int64_t n_warps = warps_of(chunk, 1);
  const ConvArgs<T> a{shape,
                      graph,
                      receiver,
                      sizes,
                      table,
                      senders_layout<T>(shape, sizes, adjoint, n_warps, chunk),
                      int(chunk),
                      WeightRows::store,
                      in,
                      adjoints,
                      {nullptr, gx, nullptr, nullptr}};
  const auto kernel = adjoint ? conv_senders<T, true> : conv_senders<T, false>;
  PATHTUNE_LAUNCH(kernel, dim3(unsigned(shape.n_nodes), unsigned((sizes.max_mul + chunk - 1) / chunk)),
                  dim3(unsigned(32 * n_warps)), size_t(a.layout.end), static_cast<cudaStream_t>(stream), a);
  check_launch("edge_conv");
}

#define PATHTUNE_INSTANTIATE(T)                                                                             \
  template void edge_conv_senders<T>(const EdgeConvShape&, const EdgeConvGraph&, const int64_t*,            \
                                     const ConvSizes&, const ConvTable<T>&, bool, const EdgeConvInputs<T>&, \
                                     const EdgeConvAdjoints<T>&, T*, void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)
#undef PATHTUNE_INSTANTIATE

}  // namespace pathtune::cuda
