// edge_conv on CUDA: what the kernels over receivers (cuda.cu) and over senders (cuda_senders.cu) share: the
// block's shared memory, staging a tile of edges, and contracting harmonics with coefficients.
#pragma once
#include "edge_conv/cuda.hpp"
#include "portability.hpp"

namespace pathtune::cuda {

constexpr int tile_edges = 4;  // edges that are walked together; a Pack of 4 floats holds one M of each
constexpr int max_threads = 128;
constexpr unsigned all_lanes = 0xffffffffu;

// Where things lie in a block's shared memory, in bytes.
struct ConvLayout {
  int64_t edges, paths, blocks;  // int64 [3, tile_edges], ConvPath [n_paths], ConvBlock [n_blocks]
  int64_t y, ay;                 // [dim_y, tile_edges]
  int64_t m, am;                 // [max_m, tile_edges]
  int64_t moments, gy;           // [n_warps, max_m, tile_edges], [dim_y, tile_edges]
  int64_t out, g;                // [slots, chunk], each thread its own channels
  int64_t end;
};

// Appends n elements of T at a multiple of 16 bytes.
template <class T>
inline int64_t reserve(int64_t& end, int64_t n) {
  const int64_t at = (end + 15) / 16 * 16;
  end = at + n * int64_t(sizeof(T));
  return at;
}

template <class T>
inline ConvLayout conv_layout(const EdgeConvShape& shape, const ConvSizes& sizes, const ConvWants& wants,
                              int64_t n_warps, int64_t chunk, int64_t n_out_slots, int64_t n_g_slots) {
  ConvLayout at{};
  at.edges = reserve<int64_t>(at.end, 3 * tile_edges);
  at.paths = reserve<ConvPath>(at.end, sizes.n_paths);
  at.blocks = reserve<ConvBlock>(at.end, sizes.n_blocks);
  at.y = reserve<T>(at.end, shape.dim_y * tile_edges);
  at.ay = reserve<T>(at.end, wants.adjoint ? shape.dim_y * tile_edges : 0);
  at.m = reserve<T>(at.end, sizes.max_m * tile_edges);
  at.am = reserve<T>(at.end, wants.adjoint ? sizes.max_m * tile_edges : 0);
  at.moments = reserve<T>(at.end, wants.gy ? n_warps * sizes.max_m * tile_edges : 0);
  at.gy = reserve<T>(at.end, wants.gy ? shape.dim_y * tile_edges : 0);
  at.out = reserve<T>(at.end, n_out_slots * chunk);
  at.g = reserve<T>(at.end, n_g_slots * chunk);
  return at;
}

// The chunk of channels of a block whose shared memory is `bytes(n_warps, chunk)`: as many channels as leave
// room for several blocks on a multiprocessor, evenly cut; at least a warp's if they fit at all, else fewer,
// and lanes idle. 0: not even one thread's channels fit.
template <class Bytes>
inline int64_t choose_chunk(int64_t max_mul, int64_t vector, Bytes bytes) {
  constexpr int64_t preferred = 32 * 1024;
  const int64_t of_warp = 32 * vector, n_warps = (max_mul + of_warp - 1) / of_warp;
  int64_t best = 0;
  for (int64_t n = 1; n <= n_warps && n <= max_threads / 32; ++n)
    if (bytes(n, n * of_warp) <= (n == 1 ? shared_bytes_per_block : preferred)) best = n;
  if (best > 0) {
    const int64_t n_chunks = (n_warps + best - 1) / best;
    return (n_warps + n_chunks - 1) / n_chunks * of_warp;
  }
  for (int64_t chunk = of_warp / 2; chunk >= vector; chunk /= 2)
    if (bytes(1, chunk) <= shared_bytes_per_block) return chunk;
  return 0;
}

inline int64_t warps_of(int64_t chunk, int64_t vector) { return (chunk + 32 * vector - 1) / (32 * vector); }

template <class T>
struct ConvArgs {
  EdgeConvShape shape;
  EdgeConvGraph graph;
  const int64_t* receiver;  // of each edge; for the pass over senders
  ConvSizes sizes;
  ConvTable<T> table;
  ConvLayout layout;
  int chunk;
  WeightRows weight_rows;
  EdgeConvInputs<T> in;
  EdgeConvAdjoints<T> adjoint;
  EdgeConvOutputs<T> to;
};

template <class P>
__device__ __forceinline__ P* shared_at(unsigned char* shared, int64_t offset) {
  return reinterpret_cast<P*>(shared + offset);
}

// All threads of the block copy n words.
template <class P>
__device__ __forceinline__ void stage_table(const P* from, P* to, int64_t n) {
  const int32_t* words = reinterpret_cast<const int32_t*>(from);
  int32_t* shared = reinterpret_cast<int32_t*>(to);
  for (int64_t q = threadIdx.x; q < n * int64_t(sizeof(P) / sizeof(int32_t)); q += blockDim.x)
    shared[q] = global_load(words + q);
}

// y [dim_y, tile_edges] of the tile's edges, zero beyond the last. `order`: null where edges follow each
// other.
template <class T>
__device__ __forceinline__ void stage_harmonics(const T* y, T* to, int dim_y, const int64_t* order,
                                                int64_t begin, int n_edges) {
  for (int q = threadIdx.x; q < tile_edges * dim_y; q += blockDim.x) {
    const int e = q / dim_y, j = q - e * dim_y;
    T value = T(0);
    if (e < n_edges) {
      const int64_t edge = order ? global_load(order + begin + e) : begin + e;
      value = global_load(y + edge * dim_y + j);
    }
    to[j * tile_edges + e] = value;
  }
}

// to[row, e] (+)= sum of values of the row times from[index, e], summed over n_parts of `from`. A row belongs
// to the same thread in every call.
template <class T>
__device__ __forceinline__ void contract(const SparseRows<T>& by, int64_t first_row, int n_rows,
                                         const T* from, int n_parts, int64_t part, T* to, bool adds) {
  for (int row = threadIdx.x; row < n_rows; row += blockDim.x) {
    T sum[tile_edges];
    PATHTUNE_UNROLL
    for (int e = 0; e < tile_edges; ++e) sum[e] = adds ? to[row * tile_edges + e] : T(0);
    const int end = global_load(by.ptr + first_row + row + 1);
    for (int q = global_load(by.ptr + first_row + row); q < end; ++q) {
      const T* column = from + global_load(by.index + q) * tile_edges;
      const T value = global_load(by.value + q);
      for (int n = 0; n < n_parts; ++n, column += part) {
        PATHTUNE_UNROLL
        for (int e = 0; e < tile_edges; ++e) sum[e] += value * column[e];
      }
    }
    PATHTUNE_UNROLL
    for (int e = 0; e < tile_edges; ++e) to[row * tile_edges + e] = sum[e];
  }
}

// E neighbouring edges of a row [tile_edges] in shared memory, in accesses of up to 16 bytes.
template <int E, class T>
__device__ __forceinline__ void load_edges(const T* from, T (&to)[E]) {
  constexpr int width = E * sizeof(T) > 16 ? 16 / sizeof(T) : E;
  PATHTUNE_UNROLL
  for (int e = 0; e < E; e += width) {
    const Pack<T, width> pack = *reinterpret_cast<const Pack<T, width>*>(from + e);
    PATHTUNE_UNROLL
    for (int q = 0; q < width; ++q) to[e + q] = pack.v[q];
  }
}

// V neighbouring channels of device memory, or zeros.
template <int V, class T>
__device__ __forceinline__ void load_channels(const T* from, bool loads, T (&to)[V]) {
  Pack<T, V> pack{};
  if (loads) pack = global_load(reinterpret_cast<const Pack<T, V>*>(from));
  PATHTUNE_UNROLL
  for (int v = 0; v < V; ++v) to[v] = pack.v[v];
}

template <int V, class T>
__device__ __forceinline__ void store_channels(T* to, const T (&from)[V]) {
  Pack<T, V> pack;
  PATHTUNE_UNROLL
  for (int v = 0; v < V; ++v) pack.v[v] = from[v];
  global_store(reinterpret_cast<Pack<T, V>*>(to), pack);
}

// Instances of the walks over the paths of one block of x. For larger irreps Python refuses the table.
#define PATHTUNE_CONV_DIM1(dim1, walk) \
  switch (dim1) {                      \
    case 1:                            \
      walk(1);                         \
      break;                           \
    case 3:                            \
      walk(3);                         \
      break;                           \
    case 5:                            \
      walk(5);                         \
      break;                           \
    case 7:                            \
      walk(7);                         \
      break;                           \
    case 9:                            \
      walk(9);                         \
      break;                           \
    default:                           \
      walk(11);                        \
      break;                           \
  }

}  // namespace pathtune::cuda
