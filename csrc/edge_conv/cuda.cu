// edge_conv over receivers: forward, backward and double backward.
//
// For each edge and path the harmonics are contracted once with the coefficients, M[k,i] = sum_j C[i,j,k]
// y[j], and aM from ay likewise; the rest is a product over channels (plan.hpp has the formulas and names):
//   out_k += sum_i M_ki t_i    h_i = sum_k M_ki g_k    gx_i = w h_i    gw = sum_i h_i x_i
//   gM_ki = sum_u t_i g_k      gy_j = sum_ki C_ijk gM_ki
// and in the double backward, with s_i = w ax_i + aw x_i and a_i = sum_k aM_ki g_k,
//   gg_k += sum_i M_ki s_i + aM_ki t_i    gx_i = w a_i + aw h_i    gw = sum_i h_i ax_i + a_i x_i
//   gM_ki = sum_u s_i g_k
//
// Parallel axis: a block has one receiver and a chunk of channels, a thread V of these. The pass is bound by
// the traffic in w, x and their gradients, of which nothing is read twice; this is why the double backward is
// one kernel. What a channel keeps of its receiver is out and g alone (sum of dim3 numbers each), in shared
// memory; sums over harmonics instead of components (A_ij = sum_e y_j t_i, contracted with C once for each
// receiver) would need sum of dim1 dim2, two to three times as much, and SevenNet-0 would not fit. M costs
// the block some percent of the arithmetic, and is shared by all its channels. gM is summed over a warp by
// halving, which takes about as many exchanges as there are numbers.
//
// gx is added atomically onto zeros: dim1 additions for each edge, path group and channel, where a walk over
// senders has to gather the receivers' rows of g, several times as long, and w and y again. The order of the
// additions is not fixed; where torch asks for deterministic algorithms, gx comes from cuda_senders.cu.
// Everything else has one owner, except gw where edges share a row: two additions onto zero do not depend on
// their order.
#include <stdexcept>

#include "edge_conv/cuda_walk.hpp"

namespace pathtune::cuda {

namespace {

// Offsets of the tile's rows; of an edge beyond the last, any.
template <class T>
__device__ __forceinline__ void stage_rows(const ConvArgs<T>& a, int64_t begin, int n_edges, int64_t* rows) {
  const int e = threadIdx.x;
  if (e >= tile_edges) return;
  const int64_t edge = begin + e, row = e < n_edges ? global_load(a.graph.weight_row + edge) : 0;
  rows[e] = e < n_edges ? global_load(a.graph.sender + edge) * a.shape.dim_in : 0;
  rows[tile_edges + e] = row * a.shape.weight_numel;
  rows[2 * tile_edges + e] = (a.weight_rows == WeightRows::per_edge ? edge : row) * a.shape.weight_numel;
}

template <class T, int V, ConvPass pass>
__device__ __forceinline__ void load_receiver(const ConvThread<T>& t, const ConvBlock* blocks,
                                              int64_t receiver) {
  for (int b = 0; b < t.a.sizes.n_blocks; ++b) {
    const ConvBlock block = blocks[b];
    if (t.channel >= block.mul) continue;
    for (int k = 0; k < block.dim3; ++k) {
      const int64_t slot = int64_t(block.slot + k) * t.a.chunk;
      const T* from =
          t.a.in.g + receiver * t.a.shape.dim_out + block.out_offset + k * block.out_mul + t.channel;
      T g[V];
      if (has_gradient(pass) && t.g) load_channels<V>(from, true, g);
      PATHTUNE_UNROLL
      for (int v = 0; v < V; ++v) {
        if (has_gradient(pass) && t.g) t.g[slot + v] = g[v];
        if (has_value(pass) && t.a.to.gg) t.out[slot + v] = T(0);
      }
    }
  }
}

template <class T, int V>
__device__ __forceinline__ void store_receiver(const ConvThread<T>& t, const ConvBlock* blocks,
                                               int64_t receiver) {
  for (int b = 0; b < t.a.sizes.n_blocks; ++b) {
    const ConvBlock block = blocks[b];
    if (t.channel >= block.mul) continue;
    for (int k = 0; k < block.dim3; ++k) {
      T out[V];
      PATHTUNE_UNROLL
      for (int v = 0; v < V; ++v) out[v] = t.out[int64_t(block.slot + k) * t.a.chunk + v];
      store_channels<V>(
          t.a.to.gg + receiver * t.a.shape.dim_out + block.out_offset + k * block.out_mul + t.channel, out);
    }
  }
}

template <class T, int V, ConvPass pass>
__device__ __forceinline__ void walk_batch(const ConvThread<T>& t, int first, int end) {
  while (first < end) {
    int next = first + 1;
    while (next < end && t.paths[next].in_offset == t.paths[first].in_offset) ++next;
#define PATHTUNE_WALK(D1) walk_paths<T, V, pass, D1>(t, first, next)
    PATHTUNE_CONV_DIM1(t.paths[first].dim1, PATHTUNE_WALK)
#undef PATHTUNE_WALK
    first = next;
  }
}

// Blocks of max_threads that registers leave room for on a multiprocessor: as many as cause no spill.
template <class T, int V>
constexpr int min_blocks(ConvPass pass) {
  const bool is_wide = V * sizeof(T) == 8;
  switch (pass) {
    case ConvPass::forward:
      return 5;
    case ConvPass::double_backward_gy:
      return is_wide ? 2 : 3;
    default:
      return is_wide ? 3 : 4;
  }
}

template <class T, int V, ConvPass pass>
__global__ void __launch_bounds__(max_threads, min_blocks<T, V>(pass)) conv_receivers(ConvArgs<T> a) {
  PATHTUNE_DYNAMIC_SHARED(unsigned char, shared);
  const ConvLayout& at = a.layout;
  const int64_t receiver = blockIdx.x;
  const int warp = threadIdx.x / 32, n_warps = blockDim.x / 32, local = threadIdx.x * V;
  const int dim_y = int(a.shape.dim_y), chunk_begin = blockIdx.y * a.chunk;
  constexpr int idle = 0x3fffffff;
  int64_t* rows = shared_at<int64_t>(shared, at.edges);
  ConvPath* paths = shared_at<ConvPath>(shared, at.paths);
  ConvBlock* blocks = shared_at<ConvBlock>(shared, at.blocks);
  T* y = shared_at<T>(shared, at.y);
  T* ay = shared_at<T>(shared, at.ay);
  T* m = shared_at<T>(shared, at.m);
  T* am = shared_at<T>(shared, at.am);
  T* moments = shared_at<T>(shared, at.moments);
  T* gy = shared_at<T>(shared, at.gy);
  const int64_t part = a.sizes.max_m * tile_edges;
  const bool wants_g = has_gradient(pass) && at.end > at.g;
  ConvThread<T> t{a,
                  paths,
                  rows,
                  rows + tile_edges,
                  rows + 2 * tile_edges,
                  m,
                  am,
                  moments + warp * part,
                  shared_at<T>(shared, at.out) + local,
                  wants_g ? shared_at<T>(shared, at.g) + local : nullptr,
                  local < a.chunk ? chunk_begin + local : idle,
                  chunk_begin + warp * 32 * V,
                  int(threadIdx.x) % 32,
                  0};

  stage_table(a.table.paths, paths, a.sizes.n_paths);
  stage_table(a.table.blocks, blocks, a.sizes.n_blocks);
  __syncthreads();
  load_receiver<T, V, pass>(t, blocks, receiver);
  const int64_t end = global_load(a.graph.receiver_ptr + receiver + 1);
  for (int64_t begin = global_load(a.graph.receiver_ptr + receiver); begin < end; begin += tile_edges) {
    t.n_edges = int(min(int64_t(tile_edges), end - begin));
    stage_rows(a, begin, t.n_edges, rows);
    stage_harmonics<T>(a.in.y, y, dim_y, nullptr, begin, t.n_edges);
    if (is_adjoint(pass) && a.adjoint.ay)
      stage_harmonics<T>(a.adjoint.ay, ay, dim_y, nullptr, begin, t.n_edges);
    __syncthreads();
    for (int batch = 0; batch < a.sizes.n_batches; ++batch) {
      const int first_path = global_load(a.table.batches + 2 * batch);
      const int first_m = global_load(a.table.batches + 2 * batch + 1);
      const int end_path = global_load(a.table.batches + 2 * batch + 2);
      const int n_m = global_load(a.table.batches + 2 * batch + 3) - first_m;
      contract_harmonics<T>(a.table.contract, first_m, n_m, y, ay, is_adjoint(pass) && a.adjoint.ay, m, am);
      __syncthreads();
      walk_batch<T, V, pass>(t, first_path, end_path);
      __syncthreads();
      if constexpr (has_moments(pass))
        contract<1, T>(a.table.transposed, int64_t(batch) * dim_y, dim_y, {moments}, n_warps, part, {gy},
                       batch > 0);
    }
    if constexpr (has_moments(pass))
      for (int j = threadIdx.x; j < dim_y; j += blockDim.x)
        for (int e = 0; e < t.n_edges; ++e)
          global_store(a.to.gy + (int64_t(blockIdx.y) * a.shape.n_edges + begin + e) * dim_y + j,
                       gy[j * tile_edges + e]);
  }
  if constexpr (has_value(pass))
    if (a.to.gg) store_receiver<T, V>(t, blocks, receiver);
}

template <class T>
__global__ void conv_sum_parts(const T* from, T* to, int64_t n_parts, int64_t n) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= n) return;
  T sum = T(0);
  for (int64_t part = 0; part < n_parts; ++part) sum += global_load(from + part * n + at);
  global_store(to + at, sum);
}

template <class T>
ConvLayout receivers_layout(const EdgeConvShape& shape, const ConvSizes& sizes, const ConvWants& wants,
                            int64_t n_warps, int64_t chunk) {
  return conv_layout<T>(shape, sizes, wants, n_warps, chunk, wants.value ? sizes.n_slots : 0,
                        wants.gradient ? sizes.n_slots : 0);
}

template <class T, int V, ConvPass pass>
void launch(const ConvArgs<T>& a, int64_t n_warps, void* stream) {
  const unsigned n_chunks = unsigned((a.sizes.max_mul + a.chunk - 1) / a.chunk);
  const auto kernel = conv_receivers<T, V, pass>;
  PATHTUNE_LAUNCH(kernel, dim3(unsigned(a.shape.n_nodes), n_chunks), dim3(unsigned(32 * n_warps)),
                  size_t(a.layout.end), static_cast<cudaStream_t>(stream), a);
  check_launch("edge_conv");
}

}  // namespace

template <class T>
int64_t conv_chunk(const EdgeConvShape& shape, const ConvSizes& sizes, const ConvWants& wants,
                   int64_t vector) {
  const int64_t chunk = choose_chunk(sizes.max_mul, vector, [&](int64_t n_warps, int64_t channels) {
    return receivers_layout<T>(shape, sizes, wants, n_warps, channels).end;
  });
  if (chunk == 0)
    throw std::runtime_error("edge_conv: the paths need more than a CUDA block's shared memory");
  return chunk;
}

template <class T>
void edge_conv_receivers(int order, const EdgeConvShape& shape, const EdgeConvGraph& graph,
                         const ConvSizes& sizes, const ConvTable<T>& table, const ConvCut& cut,
                         WeightRows weight_rows, const EdgeConvInputs<T>& in,
                         const EdgeConvAdjoints<T>& adjoint, const EdgeConvOutputs<T>& to, void* stream) {
  const ConvWants wants{to.gg != nullptr, to.gx || to.gy || to.gw, to.gy != nullptr, order == 2};
  if (shape.n_nodes == 0 || sizes.n_paths == 0 || !(wants.value || wants.gradient)) return;
  const int64_t n_warps = warps_of(cut.chunk, cut.vector);
  ConvArgs<T> a{shape,          graph,       nullptr,
                sizes,          table,       receivers_layout<T>(shape, sizes, wants, n_warps, cut.chunk),
                int(cut.chunk), weight_rows, in,
                adjoint,        to};
  if (!wants.value && !to.gw && !to.gy) a.in.x = a.adjoint.ax = nullptr;  // gx alone does not read them
  if (order == 2) {
    if (wants.gy)
      launch<T, 1, ConvPass::double_backward_gy>(a, n_warps, stream);
    else
      launch<T, 1, ConvPass::double_backward>(a, n_warps, stream);
    return;
  }
  const auto with = [&](auto vector) {
    constexpr int V = decltype(vector)::value;
    if (order == 0)
      launch<T, V, ConvPass::forward>(a, n_warps, stream);
    else if (wants.gy)
      launch<T, V, ConvPass::backward_gy>(a, n_warps, stream);
    else
      launch<T, V, ConvPass::backward>(a, n_warps, stream);
  };
  if constexpr (sizeof(T) == 4)
    if (cut.vector == 2) return with(std::integral_constant<int, 2>{});
  with(std::integral_constant<int, 1>{});
}

template <class T>
void edge_conv_sum_parts(const T* from, T* to, int64_t n_parts, int64_t n, void* stream) {
  if (n == 0) return;
  PATHTUNE_LAUNCH(conv_sum_parts<T>, dim3(unsigned((n + 255) / 256)), dim3(256), 0,
                  static_cast<cudaStream_t>(stream), from, to, n_parts, n);
  check_launch("edge_conv");
}

#define PATHTUNE_INSTANTIATE(T)                                                                           \
  template int64_t conv_chunk<T>(const EdgeConvShape&, const ConvSizes&, const ConvWants&, int64_t);      \
  template void edge_conv_receivers<T>(int, const EdgeConvShape&, const EdgeConvGraph&, const ConvSizes&, \
                                       const ConvTable<T>&, const ConvCut&, WeightRows,                   \
                                       const EdgeConvInputs<T>&, const EdgeConvAdjoints<T>&,              \
                                       const EdgeConvOutputs<T>&, void*);                                 \
  template void edge_conv_sum_parts<T>(const T*, T*, int64_t, int64_t, void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)
#undef PATHTUNE_INSTANTIATE

}  // namespace pathtune::cuda
