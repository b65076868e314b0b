// a[q] = c_p sum_t sum_{n: species[n] = s_q} sum_k x_t[n, in_p, k, u_q] g_t[n, out_p, k, v_q], see the
// header.
//
// Parallel axes: a block for each (item, chunk of rows), in it a thread for each candidate. The candidates of
// an item read few channels many times, so that a tile of rows of these channels is brought to shared memory,
// whole neighbouring channels at a time, and read there; a candidate's column of its tile is contiguous, four
// rows to a load. A gather from device memory would fetch 32 bytes for each 4 it needs. Chunks fill the
// device where candidates are few.
//
// Each thread sums its own candidate and writes it to the slot of its chunk; a second kernel adds the slots
// in their order, in float64, and applies the threshold's derivative, a third one adds what its blocks have
// counted for the thresholds. No atomics: the result does not depend on the order of threads or blocks.
#include "portability.hpp"
#include "sampled_gradient/cuda.hpp"

namespace pathtune::cuda {
namespace {

constexpr int n_threads = sampled_item_size;
constexpr int n_warps = n_threads / 32;
constexpr int tile_rows = 16;
constexpr int n_row_groups = n_threads / tile_rows;  // threads that stage one row
constexpr int most_jobs = 16;                        // of a launch: descriptors go by value, within 4 KB

template <class T>
constexpr int pack_size = 16 / int(sizeof(T));
// From channel to channel of a staged tile: one pack more than the rows, so that packs of neighbouring
// channels lie in different banks.
template <class T>
constexpr int tile_stride = tile_rows + pack_size<T>;

// One layer and two of its terms at most.
template <class T>
struct Job {
  const SampledItem* items;
  const SampledChannels* channels;
  const int32_t* place;
  const T* delta;
  T* partial;  // of its first slot
  int64_t n_candidates, dim_in, dim_out, n_chunks;
  int64_t first_block;
  SampledTerm<T> terms[sampled_terms_at_once];
  int64_t n_terms;
};

template <class T>
struct Jobs {
  Job<T> list[most_jobs];
  int n;
};
static_assert(sizeof(Jobs<double>) <= 4096);

// What is left to do when the products are there.
template <class T>
struct Finish {
  const T* partial;
  const int32_t* place;
  const T* other;
  const T* delta;
  const int64_t* segment;
  T* grad_values;
  T* grad_thresholds;
  double* block_sums;
  int64_t n_candidates, n_slots, n_thresholds;
  int64_t first_block, n_blocks;
};

template <class T>
struct Finishes {
  Finish<T> list[most_jobs];
  int n;
};
static_assert(sizeof(Finishes<double>) <= 4096);

// to[c * tile_stride + r] = row[c], r being this thread's row of the tile; zeros without a row
template <class T, int V>
__device__ __forceinline__ void stage(const T* row, int width, T* to) {
  const int r = int(threadIdx.x) % tile_rows;
#pragma unroll 2  // four, ptxas's choice, spill
  for (int c = int(threadIdx.x) / tile_rows * V; c < width; c += n_row_groups * V) {
    Pack<T, V> values{};
    if (row) values = global_load(reinterpret_cast<const Pack<T, V>*>(row + c));
    PATHTUNE_UNROLL
    for (int i = 0; i < V; ++i) to[(c + i) * tile_stride<T> + r] = values.v[i];
  }
}

// Whether rows of `dim` values from `base` on can be read by packs at `begin`, `stride` apart.
template <class T>
__device__ __forceinline__ bool is_aligned(const T* base, int64_t dim, int begin, int stride) {
  return ((reinterpret_cast<uintptr_t>(base) | uintptr_t((dim | begin | stride) * int64_t(sizeof(T)))) &
          15) == 0;
}

// The dot product of two channels over a tile.
template <class T>
__device__ __forceinline__ T dot(const T* x, const T* g) {
  T sum = 0;
  PATHTUNE_UNROLL
  for (int r = 0; r < tile_rows; r += pack_size<T>) {
    const auto a = *reinterpret_cast<const Pack<T, pack_size<T>>*>(x + r);
    const auto b = *reinterpret_cast<const Pack<T, pack_size<T>>*>(g + r);
    PATHTUNE_UNROLL
    for (int i = 0; i < pack_size<T>; ++i) sum += a.v[i] * b.v[i];
  }
  return sum;
}

// sum += value; in float32 with Kahan's correction, because float64 is slow on many devices.
template <class T>
__device__ __forceinline__ void add_tile(T value, T& sum, T& lost) {
  if constexpr (sizeof(T) == 4) {
    const T corrected = value - lost, next = sum + corrected;
    lost = (next - sum) - corrected;
    sum = next;
  } else {
    sum += value;
  }
}

// bounds[0], bounds[1]: where the nodes of `species` begin and end in groups.order; both zero if it is
// absent.
template <class T>
__device__ __forceinline__ void find_species(const SampledTerm<T>& term, int64_t species, int64_t* bounds) {
  __syncthreads();  // the previous bounds have been read
  if (threadIdx.x == 0) bounds[0] = bounds[1] = 0;
  __syncthreads();
  for (int64_t s = threadIdx.x; s < term.n_present; s += n_threads)
    if (global_load(term.groups.present + s) == species) {
      bounds[0] = global_load(term.groups.ptr + s);
      bounds[1] = global_load(term.groups.ptr + s + 1);
    }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(n_threads, 3) products(const Jobs<T> jobs) {
  using Wide = Pack<T, pack_size<T>>;
  constexpr int stride = tile_stride<T>, V = pack_size<T>;
  constexpr int n_staged = (sampled_u_channels + sampled_v_channels) * stride;
  PATHTUNE_SHARED(Wide, staged, n_staged / V);
  PATHTUNE_SHARED(int64_t, bounds, 2);
  T* const xs = reinterpret_cast<T*>(staged);
  T* const gs = xs + sampled_u_channels * stride;
  const int t = int(threadIdx.x);
  int j = 0;
  while (j + 1 < jobs.n && int64_t(blockIdx.x) >= jobs.list[j + 1].first_block) ++j;
  const Job<T>& job = jobs.list[j];
  const int64_t block = int64_t(blockIdx.x) - job.first_block;
  const SampledItem item = global_load(job.items + block / job.n_chunks);
  const int64_t chunk = block % job.n_chunks;
  const int q = item.first + t;
  const bool is_owner = q < item.last;
  SampledChannels channels{0, 0};
  bool is_active = is_owner;
  if (is_owner) {
    channels = global_load(job.channels + q);
    if (job.delta)  // NaN is active
      is_active = global_load(job.delta + (job.place ? int64_t(global_load(job.place + q)) : q)) != T(0);
  }
  const bool has_work = __syncthreads_or(is_active);
  T sum = 0, lost = 0;
  for (int i = 0; i < job.n_terms; ++i) {
    const SampledTerm<T>& term = job.terms[i];
    find_species(term, item.species, bounds);
    // 32 bits suffice: a tensor of as many rows would not fit on a device
    const int64_t begin = bounds[0];
    const int n_rows = has_work ? int(bounds[1] - begin) * item.n_components : 0;
    const int n_tiles = (n_rows + tile_rows - 1) / tile_rows;
    const int tiles_of_chunk = int((n_tiles + job.n_chunks - 1) / job.n_chunks);
    const int end = min(n_tiles, int(chunk + 1) * tiles_of_chunk);
    const bool is_x_aligned = is_aligned(term.x, job.dim_in, item.x_begin, item.x_stride);
    const bool is_g_aligned = is_aligned(term.g, job.dim_out, item.g_begin, item.g_stride);
    for (int tile = int(chunk) * tiles_of_chunk; tile < end; ++tile) {
      const int row = tile * tile_rows + t % tile_rows;
      const T *x = nullptr, *g = nullptr;
      if (row < n_rows) {
        const int64_t node = global_load(term.groups.order + begin + row / item.n_components);
        const int64_t k = row % item.n_components;
        x = term.x + node * job.dim_in + item.x_begin + k * item.x_stride;
        g = term.g + node * job.dim_out + item.g_begin + k * item.g_stride;
      }
      if (is_x_aligned)
        stage<T, V>(x, item.x_width, xs);
      else
        stage<T, 1>(x, item.x_width, xs);
      if (is_g_aligned)
        stage<T, V>(g, item.g_width, gs);
      else
        stage<T, 1>(g, item.g_width, gs);
      __syncthreads();
      if (is_active) add_tile(dot(xs + channels.u * stride, gs + channels.v * stride), sum, lost);
      __syncthreads();
    }
  }
  if (is_owner) global_store(job.partial + chunk * job.n_candidates + q, T(item.coefficient * double(sum)));
}

// The sum of all threads' values, in a fixed order, for every thread.
__device__ __forceinline__ double block_sum(double value, double* of_warps) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  __syncthreads();  // the previous sum has been read
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < n_warps; ++w) total += of_warps[w];
  return total;
}

template <class T>
__global__ void __launch_bounds__(n_threads) finish_values(const Finishes<T> layers) {
  PATHTUNE_SHARED(double, of_warps, n_warps);
  int l = 0;
  while (l + 1 < layers.n && int64_t(blockIdx.x) >= layers.list[l + 1].first_block) ++l;
  const Finish<T>& layer = layers.list[l];
  const int64_t block = int64_t(blockIdx.x) - layer.first_block;
  const int64_t q = block * n_threads + threadIdx.x;
  int64_t segment = -1;
  double by_threshold = 0;
  if (q < layer.n_candidates) {
    const int64_t at = layer.place ? int64_t(global_load(layer.place + q)) : q;
    double a = 0;
    for (int64_t slot = 0; slot < layer.n_slots; ++slot)
      a += double(global_load(layer.partial + slot * layer.n_candidates + q));
    if (layer.other) a += double(global_load(layer.other + at));
    const T delta = layer.delta ? global_load(layer.delta + at) : T(1);
    const bool is_active = delta != T(0);
    global_store(layer.grad_values + at, is_active ? T(a) : T(0));
    if (is_active && layer.n_thresholds) {
      segment = layer.segment ? global_load(layer.segment + at) : 0;
      by_threshold = delta < T(0) ? a : -a;
    }
  }
  for (int64_t s = 0; s < layer.n_thresholds; ++s) {
    const double sum = block_sum(segment == s ? by_threshold : 0.0, of_warps);
    if (threadIdx.x == 0) global_store(layer.block_sums + block * layer.n_thresholds + s, sum);
  }
}

// A block for each layer.
template <class T>
__global__ void __launch_bounds__(n_threads) finish_thresholds(const Finishes<T> layers) {
  PATHTUNE_SHARED(double, of_warps, n_warps);
  const Finish<T>& layer = layers.list[blockIdx.x];
  for (int64_t s = 0; s < layer.n_thresholds; ++s) {
    double sum = 0;
    for (int64_t b = threadIdx.x; b < layer.n_blocks; b += n_threads)
      sum += global_load(layer.block_sums + b * layer.n_thresholds + s);
    sum = block_sum(sum, of_warps);
    if (threadIdx.x == 0) global_store(layer.grad_thresholds + s, T(sum));
  }
}

template <class T>
void launch_products(Jobs<T>& jobs, int64_t& n_blocks, cudaStream_t stream) {
  if (n_blocks) {
    PATHTUNE_LAUNCH(products<T>, dim3(unsigned(n_blocks)), dim3(n_threads), 0, stream, jobs);
    check_launch("sampled_gradient");
  }
  jobs.n = 0;
  n_blocks = 0;
}

template <class T>
void multiply(const SampledDeviceLayer<T>* layers, int64_t n_layers, cudaStream_t stream) {
  Jobs<T> jobs{};
  int64_t n_blocks = 0;
  for (int64_t l = 0; l < n_layers; ++l) {
    const SampledDeviceLayer<T>& layer = layers[l];
    T* partial = layer.partial;
    for (int64_t i = 0; i < layer.n_terms && layer.n_items; i += sampled_terms_at_once) {
      Job<T> job{layer.items,  layer.channels, layer.place,    layer.delta, partial, layer.n_candidates,
                 layer.dim_in, layer.dim_out,  layer.n_chunks, n_blocks,    {},      0};
      for (; job.n_terms < sampled_terms_at_once && i + job.n_terms < layer.n_terms; ++job.n_terms)
        job.terms[job.n_terms] = layer.terms[i + job.n_terms];
      jobs.list[jobs.n++] = job;
      n_blocks += layer.n_items * layer.n_chunks;
      partial += layer.n_chunks * layer.n_candidates;
      if (jobs.n == most_jobs) launch_products(jobs, n_blocks, stream);
    }
  }
  launch_products(jobs, n_blocks, stream);
}

template <class T>
void finish(const SampledDeviceLayer<T>* layers, int64_t n_layers, cudaStream_t stream) {
  Finishes<T> batch{};
  int64_t n_blocks = 0;
  bool has_thresholds = false;
  for (int64_t l = 0; l < n_layers; ++l) {
    const SampledDeviceLayer<T>& layer = layers[l];
    const int64_t n_slots =
        layer.n_items ? (layer.n_terms + sampled_terms_at_once - 1) / sampled_terms_at_once * layer.n_chunks
                      : 0;
    const int64_t n_own = (layer.n_candidates + n_threads - 1) / n_threads;
    batch.list[batch.n++] = {layer.partial,
                             layer.place,
                             layer.other,
                             layer.delta,
                             layer.segment,
                             layer.grad_values,
                             layer.grad_thresholds,
                             layer.block_sums,
                             layer.n_candidates,
                             n_slots,
                             layer.n_thresholds,
                             n_blocks,
                             n_own};
    n_blocks += n_own;
    has_thresholds |= layer.n_thresholds > 0;
    if (batch.n < most_jobs && l + 1 < n_layers) continue;
    if (n_blocks) {
      PATHTUNE_LAUNCH(finish_values<T>, dim3(unsigned(n_blocks)), dim3(n_threads), 0, stream, batch);
      check_launch("sampled_gradient");
    }
    if (has_thresholds) {
      PATHTUNE_LAUNCH(finish_thresholds<T>, dim3(unsigned(batch.n)), dim3(n_threads), 0, stream, batch);
      check_launch("sampled_gradient");
    }
    batch.n = 0;
    n_blocks = 0;
    has_thresholds = false;
  }
}

}  // namespace

template <class T>
void sampled_gradient(const SampledDeviceLayer<T>* layers, int64_t n_layers, void* stream) {
  multiply(layers, n_layers, static_cast<cudaStream_t>(stream));
  finish(layers, n_layers, static_cast<cudaStream_t>(stream));
}

#define PATHTUNE_INSTANTIATE(T) \
  template void sampled_gradient<T>(const SampledDeviceLayer<T>*, int64_t, void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::cuda
