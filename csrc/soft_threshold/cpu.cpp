// W'[i_q] = W[i_q] + sign(D[q]) relu(|D[q]| - d), see the header.
//
// Parallel axis: stretches of candidates, because one layer may hold most of them; what they count is added
// up afterwards. Bound by the scattered reads of W, so nothing is vectorised by hand.
#include <algorithm>

#include "list.hpp"
#include "soft_threshold.hpp"

namespace pathtune::PATHTUNE_ISA {
namespace {

constexpr int64_t stretch = 4096;  // candidates; fewer than two stretches stay on one thread

struct Task {
  int64_t layer, begin, end;
  int64_t n_active, n_changed;
};

template <class T>
void run(const ThresholdedLayer<T>& layer, Task& task) {
  for (int64_t q = task.begin; q < task.end; ++q) {
    const T value = layer.values[q];
    T delta = value;
    if (layer.thresholds) {
      const T d = layer.thresholds[layer.segment ? layer.segment[q] : 0];
      const bool is_active = !((value < 0 ? -value : value) <= d);  // so that NaN is not lost
      delta = !is_active ? T(0) : value < 0 ? value + d : value - d;
    }
    task.n_active += !layer.thresholds || delta != 0;
    layer.delta[q] = delta;
    if (!layer.effective) continue;
    T& effective = layer.effective[layer.indices[q]];
    const T changed = layer.base[layer.indices[q]] + delta;
    task.n_changed += !(changed == effective);  // NaN always counts as changed
    effective = changed;
  }
}

}  // namespace

template <class T>
void soft_threshold(ThresholdedLayer<T>* layers, int64_t n_layers, int n_threads) {
  List<Task> tasks;
  for (int64_t l = 0; l < n_layers; ++l) {
    layers[l].n_active = layers[l].n_changed = 0;
    for (int64_t q = 0; q < layers[l].n_candidates; q += stretch)
      tasks.push_back({l, q, std::min(q + stretch, layers[l].n_candidates), 0, 0});
  }
  const int64_t n_tasks = int64_t(tasks.size());
  int64_t n_candidates = 0;
  for (const Task& task : tasks) n_candidates += task.end - task.begin;
#pragma omp parallel for schedule(dynamic) num_threads(n_candidates < 2 * stretch ? 1 : n_threads)
  for (int64_t i = 0; i < n_tasks; ++i) run(layers[tasks[size_t(i)].layer], tasks[size_t(i)]);
  for (const Task& task : tasks) {
    layers[task.layer].n_active += task.n_active;
    layers[task.layer].n_changed += task.n_changed;
  }
}

#define PATHTUNE_INSTANTIATE(T) template void soft_threshold<T>(ThresholdedLayer<T>*, int64_t, int);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::PATHTUNE_ISA
