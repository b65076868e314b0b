// W'[i_q] = W[i_q] + sign(D[q]) relu(|D[q]| - d), see the header.
//
// Parallel axis: candidates, of all layers in one launch, because a layer may have few. Bound by the
// scattered reads of W and W', which ascending indices leave as near to each other as they are. A block adds
// what it has counted with one atomic for each count: integers, so that the order does not matter.
#include "portability.hpp"
#include "soft_threshold/cuda.hpp"

namespace pathtune::cuda {
namespace {

constexpr int n_threads = 256;
constexpr int most_layers = 32;  // of a launch: descriptors go by value, within 4 KB

using Count = unsigned long long;  // what CUDA's atomics take
static_assert(sizeof(Count) == sizeof(int64_t));

template <class T>
struct Layers {
  ThresholdedLayer<T> list[most_layers];
  int64_t first_block[most_layers];
  int n;
};
static_assert(sizeof(Layers<double>) <= 4096);

template <class T>
__global__ void __launch_bounds__(n_threads) write_deltas(const Layers<T> layers, Count* counts) {
  int l = 0;
  while (l + 1 < layers.n && int64_t(blockIdx.x) >= layers.first_block[l + 1]) ++l;
  const ThresholdedLayer<T>& layer = layers.list[l];
  const int64_t q = (int64_t(blockIdx.x) - layers.first_block[l]) * n_threads + threadIdx.x;
  bool is_active = false, is_changed = false;
  if (q < layer.n_candidates) {
    const T value = global_load(layer.values + q);
    T delta = value;
    is_active = true;
    if (layer.thresholds) {
      const T d = global_load(layer.thresholds + (layer.segment ? global_load(layer.segment + q) : 0));
      if ((value < 0 ? -value : value) <= d)  // NaN is not
        delta = T(0);
      else
        delta = value < 0 ? value + d : value - d;
      is_active = delta != T(0);
    }
    global_store(layer.delta + q, delta);
    if (layer.effective) {
      const int64_t i = global_load(layer.indices + q);
      const T changed = global_load(layer.base + i) + delta;
      is_changed = !(changed == global_load(layer.effective + i));  // NaN always counts as changed
      if (is_changed) global_store(layer.effective + i, changed);
    }
  }
  const int n_active = __syncthreads_count(is_active), n_changed = __syncthreads_count(is_changed);
  if (threadIdx.x == 0) {
    if (n_active) global_add(counts + 2 * l, Count(n_active));
    if (n_changed) global_add(counts + 2 * l + 1, Count(n_changed));
  }
}

}  // namespace

template <class T>
void soft_threshold(const ThresholdedLayer<T>* layers, int64_t n_layers, int64_t* counts, void* stream) {
  for (int64_t first = 0; first < n_layers; first += most_layers) {
    Layers<T> batch{};
    int64_t n_blocks = 0;
    for (int64_t l = first; l < n_layers && batch.n < most_layers; ++l, ++batch.n) {
      batch.list[batch.n] = layers[l];
      batch.first_block[batch.n] = n_blocks;
      n_blocks += (layers[l].n_candidates + n_threads - 1) / n_threads;
    }
    if (!n_blocks) continue;
    PATHTUNE_LAUNCH(write_deltas<T>, dim3(unsigned(n_blocks)), dim3(n_threads), 0,
                    static_cast<cudaStream_t>(stream), batch, reinterpret_cast<Count*>(counts + 2 * first));
    check_launch("soft_threshold");
  }
}

#define PATHTUNE_INSTANTIATE(T) \
  template void soft_threshold<T>(const ThresholdedLayer<T>*, int64_t, int64_t*, void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::cuda
