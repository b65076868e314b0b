// a[q] = c_p sum_t sum_{n: species[n] = s_q} sum_k x_t[n, in_p, k, u_q] g_t[n, out_p, k, v_q], see the
// header.
//
// Lanes are rows (n, k): panels of rows are transposed on the fly, so that a candidate is a dot product of
// two contiguous stretches and costs what its share of the dense product would; what is inactive is left out.
// Parallel axis: (layer, block, term, stretch of rows), because a block may be the only one. A stretch sums
// its panels in float64 into a slot of its own, and the slots of a block are added in the order of terms and
// rows: no atomics, deterministic for a number of threads.
#include <algorithm>

#include "list.hpp"
#include "sampled_gradient.hpp"
#include "sampled_gradient/panel.hpp"

namespace pathtune::PATHTUNE_ISA {
namespace {

constexpr int panel_vectors = 8;  // of rows: those of a channel fit in registers, the panel in the cache
constexpr int64_t serial_cost =
    1 << 15;  // values to transpose; below, waking threads costs more than it saves

struct Task {
  int64_t layer, block, active;  // block: of the layer; active: of the plan
  const int64_t* nodes;          // of the term's group of that species
  int64_t term, row_begin, row_end;
  int64_t slot;  // of its sums, one for each active candidate of the block
};

struct Plan {
  List<ActiveBlock> blocks;  // of all layers, those without active candidates too
  List<SampledRun> runs;     // compacted copies, for layers with a threshold
  List<int32_t> v_row, place;
  List<Task> tasks;  // block by block, by rising terms and rows
  int64_t n_sums = 0;
  int64_t cost = 0;                            // values to transpose
  int64_t most_u_tiles = 0, most_v_tiles = 0;  // of a block
  int64_t most_channels = 0;                   // of a path
};

template <class T>
bool is_active(const SampledLayer<T>& layer, int64_t q) {
  return !layer.delta || layer.delta[q] != T(0);  // NaN is active
}

// Appends the active candidates of a block to the plan's arrays, where the layer begins at `at`.
template <class T>
ActiveBlock compact(const SampledLayer<T>& layer, const SampledBlock& block, int64_t at, Plan& plan) {
  const SampledIndex& index = layer.candidates;
  SampledRun* runs = plan.runs.data() + at + block.candidate_begin;  // no more than candidates
  int32_t *v_row = plan.v_row.data() + at, *place = plan.place.data() + at;
  int64_t n_runs = 0, q = block.candidate_begin, end = q;
  for (int64_t r = block.run_begin; r < block.run_end; ++r) {
    const int64_t before = end;
    for (; q < index.runs[r].end; ++q)
      if (is_active(layer, index.place[q])) {
        v_row[end] = index.v_row[q];
        place[end++] = index.place[q];
      }
    if (end > before) runs[n_runs++] = {index.runs[r].u_row, int32_t(end)};
  }
  return {runs, n_runs, v_row, place, block.candidate_begin, end};
}

template <class T>
void list_active(const SampledLayer<T>* layers, int64_t n_layers, Plan& plan) {
  int64_t at = 0;
  for (int64_t l = 0; l < n_layers; ++l)
    if (layers[l].delta) at += layers[l].candidates.n_candidates;
  plan.runs.resize(size_t(at));
  plan.v_row.resize(size_t(at));
  plan.place.resize(size_t(at));
  at = 0;
  for (int64_t l = 0; l < n_layers; ++l) {
    const SampledIndex& index = layers[l].candidates;
    for (int64_t b = 0; b < index.n_blocks; ++b) {
      const SampledBlock& block = index.blocks[b];
      plan.blocks.push_back(layers[l].delta
                                ? compact(layers[l], block, at, plan)
                                : ActiveBlock{index.runs + block.run_begin, block.run_end - block.run_begin,
                                              index.v_row, index.place, block.candidate_begin,
                                              block.candidate_end});
    }
    if (layers[l].delta) at += index.n_candidates;
  }
}

// One task for all rows of every (block, term) that has work.
template <class T>
void list_work(const SampledLayer<T>* layers, int64_t n_layers, Plan& plan) {
  int64_t active = 0;
  for (int64_t l = 0; l < n_layers; ++l)
    for (int64_t b = 0; b < layers[l].candidates.n_blocks; ++b, ++active) {
      const SampledBlock& block = layers[l].candidates.blocks[b];
      if (plan.blocks[size_t(active)].begin == plan.blocks[size_t(active)].end) continue;
      const SpeciesLinearPath& path = layers[l].paths[block.path];
      for (int64_t t = 0; t < layers[l].n_terms; ++t) {
        const SampledTerm<T>& term = layers[l].terms[t];
        int64_t s = 0;
        while (s < term.n_present && term.groups.present[s] != block.species) ++s;
        if (s == term.n_present) continue;
        const int64_t n_rows = (term.groups.ptr[s + 1] - term.groups.ptr[s]) * path.n_components;
        plan.tasks.push_back({l, b, active, term.groups.order + term.groups.ptr[s], t, 0, n_rows, 0});
      }
      plan.most_u_tiles = std::max(plan.most_u_tiles, block.u_tile_end - block.u_tile_begin);
      plan.most_v_tiles = std::max(plan.most_v_tiles, block.v_tile_end - block.v_tile_begin);
      plan.most_channels = std::max({plan.most_channels, path.mul_in, path.mul_out});
    }
}

// Splits the tasks into stretches of whole panels, four for each thread, and gives each its sums.
template <class T>
void split_work(const SampledLayer<T>* layers, int n_threads, int64_t panel_rows, Plan& plan) {
  auto cost_of_row = [&](const Task& task) {
    const SampledBlock& block = layers[task.layer].candidates.blocks[task.block];
    const ActiveBlock& active = plan.blocks[size_t(task.active)];
    return (block.u_tile_end - block.u_tile_begin + block.v_tile_end - block.v_tile_begin) * tile_channels +
           active.end - active.begin;
  };
  for (const Task& task : plan.tasks) plan.cost += task.row_end * cost_of_row(task);
  const int64_t share = plan.cost / (4 * std::max(n_threads, 1)) + 1;
  List<Task> stretches;
  for (Task task : plan.tasks) {
    const int64_t n_rows = task.row_end, step = (share / cost_of_row(task) / panel_rows + 1) * panel_rows;
    for (int64_t r = 0; r < n_rows; r += step) {
      task.row_begin = r;
      task.row_end = std::min(r + step, n_rows);
      task.slot = plan.n_sums;
      stretches.push_back(task);
      plan.n_sums += plan.blocks[size_t(task.active)].end - plan.blocks[size_t(task.active)].begin;
    }
  }
  plan.tasks = std::move(stretches);
}

// One thread's work on one stretch after another.
template <class T>
class Worker {
 public:
  static constexpr int lanes = n_lanes<T>;
  static constexpr int panel_rows = panel_vectors * lanes;

  Worker(const SampledLayer<T>* layers, const Plan& plan)
      : layers_(layers),
        plan_(plan),
        xt_(plan.most_u_tiles * tile_channels * panel_rows),
        gt_(plan.most_v_tiles * tile_channels * panel_rows),
        zeros_(plan.most_channels + 1) {
    std::fill_n(zeros_.data(), plan.most_channels, T(0));
  }

  void run(const Task& task, double* sums) {
    const SampledLayer<T>& layer = layers_[task.layer];
    const SampledBlock& block = layer.candidates.blocks[task.block];
    const SpeciesLinearPath& path = layer.paths[block.path];
    const ActiveBlock& active = plan_.blocks[size_t(task.active)];
    std::fill_n(sums + task.slot, active.end - active.begin, 0.0);
    const int64_t* node = task.nodes + task.row_begin / path.n_components;
    int64_t k = task.row_begin % path.n_components;
    for (int64_t r = task.row_begin; r < task.row_end; r += panel_rows) {
      const int n = int(std::min<int64_t>(panel_rows, task.row_end - r));
      for (int i = 0; i < n; ++i) {
        x_rows_[i] = layer.terms[task.term].x + *node * layer.dim_in + path.in_offset + k * path.mul_in;
        g_rows_[i] = layer.terms[task.term].g + *node * layer.dim_out + path.out_offset + k * path.mul_out;
        if (++k == path.n_components) k = 0, ++node;
      }
      for (int i = n; i < panel_rows; ++i) x_rows_[i] = g_rows_[i] = zeros_.data();
      if (n > 4 * lanes)
        run_panel<8>(layer.candidates, block, path, active, sums + task.slot);
      else if (n > 2 * lanes)
        run_panel<4>(layer.candidates, block, path, active, sums + task.slot);
      else if (n > lanes)
        run_panel<2>(layer.candidates, block, path, active, sums + task.slot);
      else
        run_panel<1>(layer.candidates, block, path, active, sums + task.slot);
    }
  }

 private:
  template <int Vectors>
  void run_panel(const SampledIndex& index, const SampledBlock& block, const SpeciesLinearPath& path,
                 const ActiveBlock& active, double* sums) {
    transpose_panel<T, Vectors>(x_rows_, index.u_tiles + block.u_tile_begin,
                                block.u_tile_end - block.u_tile_begin, path.mul_in, xt_.data());
    transpose_panel<T, Vectors>(g_rows_, index.v_tiles + block.v_tile_begin,
                                block.v_tile_end - block.v_tile_begin, path.mul_out, gt_.data());
    accumulate_panel<T, Vectors>(active, xt_.data(), gt_.data(), sums);
  }

  const SampledLayer<T>* layers_;
  const Plan& plan_;
  Buffer<T> xt_, gt_, zeros_;
  const T *x_rows_[panel_rows], *g_rows_[panel_rows];
};

// What the stretches of a layer, tasks[begin] .. tasks[end - 1], have summed, and the threshold's derivative.
template <class T>
void finish(const SampledLayer<T>& layer, const Plan& plan, int64_t begin, int64_t end, const double* sums) {
  const int64_t n = layer.candidates.n_candidates;
  List<double> total(size_t(n), 0.0);
  for (int64_t i = begin; i < end; ++i) {
    const Task& task = plan.tasks[size_t(i)];
    const ActiveBlock& active = plan.blocks[size_t(task.active)];
    const double c = layer.coefficients[layer.candidates.blocks[task.block].path];
    for (int64_t q = active.begin; q < active.end; ++q)
      total[size_t(active.place[q])] += c * sums[task.slot + q - active.begin];
  }
  List<double> by_threshold(size_t(layer.n_thresholds), 0.0);
  for (int64_t q = 0; q < n; ++q) {
    const double a = total[size_t(q)] + (layer.other ? double(layer.other[q]) : 0.0);
    layer.grad_values[q] = is_active(layer, q) ? T(a) : T(0);
    if (layer.n_thresholds && is_active(layer, q))
      by_threshold[size_t(layer.segment ? layer.segment[q] : 0)] += layer.delta[q] < 0 ? a : -a;
  }
  for (int64_t s = 0; s < layer.n_thresholds; ++s) layer.grad_thresholds[s] = T(by_threshold[size_t(s)]);
}

}  // namespace

template <class T>
void sampled_gradient(const SampledLayer<T>* layers, int64_t n_layers, int n_threads) {
  Plan plan;
  list_active(layers, n_layers, plan);
  list_work(layers, n_layers, plan);
  split_work(layers, n_threads, Worker<T>::panel_rows, plan);
  const Buffer<double> sums(plan.n_sums);
  const int64_t n_tasks = int64_t(plan.tasks.size());
  List<int64_t> first(size_t(n_layers) + 1, 0);  // task of each layer
  for (const Task& task : plan.tasks) ++first[size_t(task.layer) + 1];
  for (int64_t l = 0; l < n_layers; ++l) first[size_t(l) + 1] += first[size_t(l)];
#pragma omp parallel num_threads(plan.cost < serial_cost ? 1 : n_threads)
  {
    Worker<T> worker(layers, plan);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n_tasks; ++i) worker.run(plan.tasks[size_t(i)], sums.data());
#pragma omp for schedule(dynamic)
    for (int64_t l = 0; l < n_layers; ++l)
      finish(layers[l], plan, first[size_t(l)], first[size_t(l) + 1], sums.data());
  }
}

#define PATHTUNE_INSTANTIATE(T) template void sampled_gradient<T>(const SampledLayer<T>*, int64_t, int);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::PATHTUNE_ISA
