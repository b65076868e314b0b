// out[q] = c_p sum_{n: species[n] = s_q} sum_k x[n, in_p, k, u_q] g[n, out_p, k, v_q], see the header.
//
// Lanes are rows (n, k): tiles of rows are transposed on the fly, so that a candidate is a dot product of two
// contiguous stretches and costs what its share of the dense product would. Parallel axis: (block, stretch
// of rows), because a block may be the only one. A stretch sums its tiles in float64 into a slot of its own,
// and the slots of a block are added in the order of rows: no atomics, deterministic for a number of threads.
#include <algorithm>

#include "list.hpp"
#include "sampled_gradient.hpp"
#include "transpose.hpp"

namespace pathtune::PATHTUNE_ISA {
namespace {

constexpr int tile_vectors = 8;  // rows of a tile, in vectors: those of one channel fit in registers
constexpr int64_t serial_values = 1 << 15;  // to transpose; below, waking threads costs more than they save

struct Task {
  int64_t block;
  int64_t row_begin, row_end;  // of the block's rows (n, k)
  int64_t slot;                // of its sums, one for each candidate of the block
};

struct Group {
  int64_t begin, end;  // into order; empty for an absent species
};

struct Plan {
  List<Group> groups;  // [n_species]
  List<Task> tasks;    // block by block, by rising rows
  int64_t n_sums = 0;
  int64_t n_values = 0;                        // to transpose, in all
  int64_t most_u_tiles = 0, most_v_tiles = 0;  // of a block
  int64_t most_channels = 0;                   // of a path
};

Plan make_plan(const SpeciesLinearShape& shape, const SpeciesGroups& groups, const SampledIndex& index,
               const SpeciesLinearPath* paths, int64_t tile_rows) {
  Plan plan;
  plan.groups.assign(size_t(shape.n_species), Group{0, 0});
  for (int64_t i = 0; i < shape.n_present; ++i)
    plan.groups[size_t(groups.present[i])] = {groups.ptr[i], groups.ptr[i + 1]};
  auto n_rows = [&](const SampledBlock& b) {
    const Group& group = plan.groups[size_t(b.species)];
    return (group.end - group.begin) * paths[b.path].n_components;
  };
  int64_t total_rows = 0;
  for (int64_t i = 0; i < index.n_blocks; ++i) total_rows += n_rows(index.blocks[i]);
  // four tasks for each thread, of whole tiles
  const int64_t share = total_rows / (4 * std::max(shape.n_threads, 1)) / tile_rows + 1;
  for (int64_t i = 0; i < index.n_blocks; ++i) {
    const SampledBlock& b = index.blocks[i];
    const int64_t rows = n_rows(b), u_tiles = b.u_tile_end - b.u_tile_begin,
                  v_tiles = b.v_tile_end - b.v_tile_begin;
    for (int64_t r = 0; r < rows; r += share * tile_rows) {
      plan.tasks.push_back({i, r, std::min(r + share * tile_rows, rows), plan.n_sums});
      plan.n_sums += b.candidate_end - b.candidate_begin;
    }
    plan.n_values += rows * (u_tiles + v_tiles) * tile_channels;
    plan.most_u_tiles = std::max(plan.most_u_tiles, u_tiles);
    plan.most_v_tiles = std::max(plan.most_v_tiles, v_tiles);
    plan.most_channels = std::max({plan.most_channels, paths[b.path].mul_in, paths[b.path].mul_out});
  }
  return plan;
}

// to[(tile * tile_channels + c) * stride + r] = rows[r][tiles[tile] + c], stride = Vectors * lanes
template <class T, int Vectors>
void transpose_tiles(const T* const* rows,  // [Vectors * lanes], each [n_channels]
                     const int32_t* tiles,  // [n_tiles]
                     int64_t n_tiles, int64_t n_channels,
                     T* to) {  // [n_tiles * tile_channels, Vectors * lanes]
  constexpr int lanes = n_lanes<T>;
  for (int b = 0; b < Vectors; ++b)  // outermost: rows are read along their length
    for (int64_t t = 0; t < n_tiles; ++t)
      for (int64_t c = 0; c < tile_channels && tiles[t] + c < n_channels; c += lanes) {
        const int64_t channel = tiles[t] + c, n_left = n_channels - channel;
        Vector<T> block[lanes];
        for (int i = 0; i < lanes; ++i) {
          const T* from = rows[b * lanes + i] + channel;
          block[i] = n_left >= lanes ? load(from) : load_partial(from, int(n_left));
        }
        transpose<T>(block);
        T* block_to = to + ((t * tile_channels + c) * Vectors + b) * lanes;
        for (int i = 0; i < lanes; ++i) store(block_to + i * Vectors * lanes, block[i]);
      }
}

// sums[q] += the tile's dot product of candidate q
template <class T, int Vectors>
void accumulate_tile(const SampledBlock& block, const SampledIndex& index,
                     const T* x,      // [u rows, Vectors * lanes]
                     const T* g,      // [v rows, Vectors * lanes]
                     double* sums) {  // [candidates of the block]
  constexpr int lanes = n_lanes<T>;
  Vector<T> pending[lanes] = {};
  int n_pending = 0;
  auto flush = [&] {  // the lanes of many candidates are summed at once
    T totals[lanes];
    store(totals, sum_rows<T>(pending));
    for (int i = 0; i < n_pending; ++i) sums[i] += double(totals[i]);
    sums += n_pending;
    n_pending = 0;
  };
  int64_t q = block.candidate_begin;
  for (int64_t r = block.run_begin; r < block.run_end; ++r) {
    Vector<T> xv[Vectors];
    for (int b = 0; b < Vectors; ++b) xv[b] = load(x + (index.runs[r].u_row * Vectors + b) * lanes);
    for (; q < index.runs[r].end; ++q) {
      const T* gv = g + int64_t(index.v_row[q]) * Vectors * lanes;
      Vector<T> sum[2] = {xv[0] * load(gv), Vector<T>{}};
      for (int b = 1; b < Vectors; ++b) sum[b % 2] += xv[b] * load(gv + b * lanes);
      pending[n_pending++] = sum[0] + sum[1];
      if (n_pending == lanes) flush();
    }
  }
  flush();
}

// One thread's work on one tile after another.
template <class T>
class TileWorker {
 public:
  TileWorker(const SpeciesLinearShape& shape, const SpeciesGroups& groups, const SampledIndex& index,
             const SpeciesLinearPath* paths, const Plan& plan, const T* x, const T* g)
      : shape_(shape),
        groups_(groups),
        index_(index),
        paths_(paths),
        plan_(plan),
        x_(x),
        g_(g),
        xt_(plan.most_u_tiles * tile_channels * tile_rows),
        gt_(plan.most_v_tiles * tile_channels * tile_rows),
        zeros_(plan.most_channels + 1) {
    std::fill_n(zeros_.data(), plan.most_channels, T(0));
  }

  void run(const Task& task, double* sums) {
    const SampledBlock& block = index_.blocks[task.block];
    std::fill_n(sums + task.slot, block.candidate_end - block.candidate_begin, 0.0);
    for (int64_t r = task.row_begin; r < task.row_end; r += tile_rows) {
      const int64_t n = std::min<int64_t>(tile_rows, task.row_end - r);
      if (n > 4 * lanes)
        run_tile<8>(block, r, n, sums + task.slot);
      else if (n > 2 * lanes)
        run_tile<4>(block, r, n, sums + task.slot);
      else if (n > lanes)
        run_tile<2>(block, r, n, sums + task.slot);
      else
        run_tile<1>(block, r, n, sums + task.slot);
    }
  }

  static constexpr int lanes = n_lanes<T>;
  static constexpr int tile_rows = tile_vectors * lanes;

 private:
  template <int Vectors>
  void run_tile(const SampledBlock& block, int64_t first, int64_t n, double* sums) {
    const SpeciesLinearPath& path = paths_[block.path];
    const int64_t* nodes = groups_.order + plan_.groups[size_t(block.species)].begin;
    for (int64_t i = 0; i < Vectors * lanes; ++i) {
      const int64_t row = first + i, k = row % path.n_components;
      const int64_t node = i < n ? nodes[row / path.n_components] : 0;
      x_rows_[i] = i < n ? x_ + node * shape_.dim_in + path.in_offset + k * path.mul_in : zeros_.data();
      g_rows_[i] = i < n ? g_ + node * shape_.dim_out + path.out_offset + k * path.mul_out : zeros_.data();
    }
    transpose_tiles<T, Vectors>(x_rows_, index_.u_tiles + block.u_tile_begin,
                                block.u_tile_end - block.u_tile_begin, path.mul_in, xt_.data());
    transpose_tiles<T, Vectors>(g_rows_, index_.v_tiles + block.v_tile_begin,
                                block.v_tile_end - block.v_tile_begin, path.mul_out, gt_.data());
    accumulate_tile<T, Vectors>(block, index_, xt_.data(), gt_.data(), sums);
  }

  const SpeciesLinearShape& shape_;
  const SpeciesGroups& groups_;
  const SampledIndex& index_;
  const SpeciesLinearPath* paths_;
  const Plan& plan_;
  const T *x_, *g_;
  Buffer<T> xt_, gt_, zeros_;
  const T *x_rows_[tile_rows], *g_rows_[tile_rows];
};

}  // namespace

template <class T>
void sampled_gradient(const SpeciesLinearShape& shape, const SpeciesGroups& groups, const SampledIndex& index,
                      const SpeciesLinearPath* paths, const double* coefficients, const T* x, const T* g,
                      T* out) {
  const Plan plan = make_plan(shape, groups, index, paths, TileWorker<T>::tile_rows);
  const Buffer<double> sums(plan.n_sums);
  const int64_t n_tasks = int64_t(plan.tasks.size());
#pragma omp parallel num_threads(plan.n_values < serial_values ? 1 : shape.n_threads)
  {
    TileWorker<T> worker(shape, groups, index, paths, plan, x, g);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n_tasks; ++i) worker.run(plan.tasks[size_t(i)], sums.data());
  }
  std::fill_n(out, index.n_candidates, T(0));
  for (int64_t i = 0; i < n_tasks;) {  // stretches of a block follow each other
    const int64_t first = i;
    while (i < n_tasks && plan.tasks[size_t(i)].block == plan.tasks[size_t(first)].block) ++i;
    const SampledBlock& block = index.blocks[plan.tasks[size_t(first)].block];
    for (int64_t q = block.candidate_begin; q < block.candidate_end; ++q) {
      double total = 0;
      for (int64_t j = first; j < i; ++j)
        total += sums.data()[plan.tasks[size_t(j)].slot + q - block.candidate_begin];
      out[index.place[q]] = T(coefficients[block.path] * total);
    }
  }
}

#define PATHTUNE_INSTANTIATE(T)                                                                           \
  template void sampled_gradient<T>(const SpeciesLinearShape&, const SpeciesGroups&, const SampledIndex&, \
                                    const SpeciesLinearPath*, const double*, const T*, const T*, T*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::PATHTUNE_ISA
