// One pass over all edges: everything but the arithmetic of a path.
//
// Parallel axis: receivers. A thread owns a receiver's rows of out and its edges' rows of gy and gw. The
// parts of gx belong to senders: they are collected per edge for a chunk of receivers (megabytes, whatever
// the size of the batch), then added by the owner of each sender in the order of edges. Where edges share a
// row of w, the pass is done in rounds, the first edges of all rows, then the second ones, so that no two
// threads meet in a row of gw. No atomics; the result does not depend on the number of threads.
#pragma once
#include <memory>

#include "edge_conv/path_kernels.hpp"

namespace pathtune::PATHTUNE_ISA {

constexpr int64_t chunk_bytes_per_thread = int64_t(4) << 20;  // of the edges' parts of gx

// Walks done one after the other over each tile: a mode, and the kernel of each path in it.
template <class T>
struct Stage {
  Mode mode;
  List<PathKernel<T>> kernels;
};

template <class T, Mode mode>
inline Stage<T> make_stage(const Plan<T>& plan) {
  Stage<T> stage{mode, {}};
  for (const PlannedPath<T>& p : plan.paths) stage.kernels.push_back(choose_kernel<T, mode>(p.path));
  return stage;
}

template <class T>
struct Pass {
  const EdgeConvShape& shape;
  const EdgeConvGraph& graph;
  const EdgeConvInputs<T>& in;
  const EdgeConvAdjoints<T> adjoints;
  const EdgeConvOutputs<T>& to;
  Plan<T> plan;
  List<Stage<T>> stages;
  List<int64_t> round;  // [n_edges] place of an edge among those that share its row of w
  int64_t n_rounds = 1;
  List<T> zeros;  // stands for a row of an absent adjoint
};

// What one thread needs for a tile.
template <class T>
struct Workspace {
  List<T> m, am;                // [tile_edges, m_stride]
  List<Vector<T>> moments, gy;  // [tile_edges, max_m_size], [tile_edges, dim_y]
  List<int64_t> edges;          // of one receiver and round

  explicit Workspace(const Pass<T>& pass)
      : m(tile_edges * pass.plan.m_stride),
        am(tile_edges * pass.plan.m_stride),
        moments(pass.to.gy ? tile_edges * pass.plan.max_m_size : 0),
        gy(pass.to.gy ? tile_edges * pass.shape.dim_y : 0) {}
};

template <class T>
void find_rounds(Pass<T>& pass) {
  if (!pass.to.gw) return;  // rows of w are read in any order
  pass.round.resize(pass.shape.n_edges);
  for (int64_t row = 0; row < pass.shape.n_rows; ++row)
    for (int64_t q = pass.graph.row_ptr[row]; q < pass.graph.row_ptr[row + 1]; ++q) {
      pass.round[pass.graph.row_edges[q]] = q - pass.graph.row_ptr[row];
      pass.n_rounds = std::max(pass.n_rounds, q - pass.graph.row_ptr[row] + 1);
    }
}

template <class T>
void run_stage(const Pass<T>& pass, const Stage<T>& stage, const Tile<T>& tile, Workspace<T>& work) {
  for (size_t p = 0; p < pass.plan.paths.size(); ++p) {
    const PlannedPath<T>& planned = pass.plan.paths[p];
    const EdgeConvPath& path = planned.path;
    const int64_t whole = stage.kernels[p] ? path.mul / n_lanes<T> * n_lanes<T> : 0;
    if (whole > 0)
      stage.kernels[p](path, planned.m_offset, tile);
    else if (has_moments(stage.mode))
      std::fill(work.moments.begin(), work.moments.end(), Vector<T>{});
    any_path<T>(stage.mode, path, planned.m_offset, tile, whole);
    if (has_moments(stage.mode))
      for (int e = 0; e < tile.n_edges; ++e)
        contract_moments(planned, tile.moments + e * tile.moments_stride, &work.gy[e * pass.shape.dim_y]);
  }
}

// The edge that will stand in the place of edges[q] in the next tile; past the last one, those that follow
// it.
template <class T>
int64_t edge_after(const Pass<T>& pass, const List<int64_t>& edges, size_t q) {
  const size_t next = q + tile_edges;
  if (next < edges.size()) return edges[next];
  return std::min(edges.back() + 1 + int64_t(next - edges.size()), pass.shape.n_edges - 1);
}

// Edges work.edges[begin .. begin + n_edges - 1] of one receiver; `parts` holds gx of edges from `first_edge`
// on.
template <class T>
void run_tile(const Pass<T>& pass, Tile<T>& tile, Workspace<T>& work, int64_t begin, T* parts,
              int64_t first_edge) {
  const EdgeConvShape& shape = pass.shape;
  for (int e = 0; e < tile.n_edges; ++e) {
    const int64_t edge = work.edges[begin + e], sender = pass.graph.sender[edge],
                  row = pass.graph.weight_row[edge];
    tile.x[e] = pass.in.x + sender * shape.dim_in;
    tile.w[e] = pass.in.w + row * shape.weight_numel;
    tile.ax[e] = pass.adjoints.ax ? pass.adjoints.ax + sender * shape.dim_in : pass.zeros.data();
    tile.aw[e] = pass.adjoints.aw ? pass.adjoints.aw + row * shape.weight_numel : pass.zeros.data();
    const int64_t next_row = pass.graph.weight_row[edge_after(pass, work.edges, begin + e)];
    tile.next_w[e] = pass.in.w + next_row * shape.weight_numel;
    tile.next_aw[e] = pass.adjoints.aw ? pass.adjoints.aw + next_row * shape.weight_numel : pass.zeros.data();
    tile.gx[e] = parts ? parts + (edge - first_edge) * shape.dim_in : nullptr;
    tile.gw[e] = pass.to.gw ? pass.to.gw + row * shape.weight_numel : nullptr;
    if (parts) std::fill_n(tile.gx[e], shape.dim_in, T(0));
    contract_harmonics(pass.plan, pass.in.y + edge * shape.dim_y, &work.m[e * pass.plan.m_stride]);
    if (pass.adjoints.ay)
      contract_harmonics(pass.plan, pass.adjoints.ay + edge * shape.dim_y, &work.am[e * pass.plan.m_stride]);
  }
  std::fill(work.gy.begin(), work.gy.end(), Vector<T>{});
  for (const Stage<T>& stage : pass.stages) run_stage(pass, stage, tile, work);
  if (pass.to.gy)
    for (int e = 0; e < tile.n_edges; ++e)
      for (int64_t j = 0; j < shape.dim_y; ++j)
        pass.to.gy[work.edges[begin + e] * shape.dim_y + j] = sum_lanes<T>(work.gy[e * shape.dim_y + j]);
}

template <class T>
void run_receiver(const Pass<T>& pass, int64_t node, int64_t round, Workspace<T>& work, T* parts,
                  int64_t first_edge) {
  const EdgeConvShape& shape = pass.shape;
  Tile<T> tile{};
  tile.m = work.m.data();
  tile.am = work.am.data();
  tile.m_stride = pass.plan.m_stride;
  tile.moments = work.moments.data();
  tile.moments_stride = pass.plan.max_m_size;
  tile.g = pass.in.g ? pass.in.g + node * shape.dim_out : nullptr;
  tile.out = pass.to.gg ? pass.to.gg + node * shape.dim_out : nullptr;
  tile.adds_gw = round > 0;
  if (tile.out && round == 0) std::fill_n(tile.out, shape.dim_out, T(0));
  work.edges.clear();
  for (int64_t edge = pass.graph.receiver_ptr[node]; edge < pass.graph.receiver_ptr[node + 1]; ++edge)
    if (pass.n_rounds == 1 || pass.round[edge] == round) work.edges.push_back(edge);
  const int64_t n_edges = int64_t(work.edges.size());
  for (int64_t begin = 0; begin < n_edges; begin += tile_edges) {
    tile.n_edges = int(std::min<int64_t>(tile_edges, n_edges - begin));
    run_tile(pass, tile, work, begin, parts, first_edge);
  }
}

// gx[node] += the parts of its edges in [first_edge, end_edge); `cursor` is where the last chunk stopped.
template <class T>
void add_parts(const Pass<T>& pass, int64_t node, int64_t round, const T* parts, int64_t first_edge,
               int64_t end_edge, int64_t& cursor) {
  const int64_t dim = pass.shape.dim_in;
  T* gx = pass.to.gx + node * dim;
  if (first_edge == 0) {
    cursor = pass.graph.sender_ptr[node];
    if (round == 0) std::fill_n(gx, dim, T(0));
  }
  for (; cursor < pass.graph.sender_ptr[node + 1]; ++cursor) {
    const int64_t edge = pass.graph.sender_order[cursor];
    if (edge >= end_edge) break;
    if (pass.n_rounds > 1 && pass.round[edge] != round) continue;
    const T* part = parts + (edge - first_edge) * dim;
    for (int64_t c = 0; c < dim; ++c) gx[c] += part[c];
  }
}

// Receivers begin[c] .. begin[c+1] - 1 form chunk c: as many as have their parts of gx in the buffer.
template <class T>
List<int64_t> chunk_receivers(const Pass<T>& pass, int64_t& max_edges) {
  const int64_t* ptr = pass.graph.receiver_ptr;
  const int64_t n_nodes = pass.shape.n_nodes;
  const int64_t row_bytes = std::max<int64_t>(1, pass.shape.dim_in) * int64_t(sizeof(T));
  const int64_t limit = chunk_bytes_per_thread * pass.shape.n_threads / row_bytes;
  List<int64_t> begin{0};
  max_edges = 0;
  for (int64_t n = 0; n < n_nodes; ++n) {
    if (pass.to.gx && ptr[n + 1] - ptr[begin.back()] > limit && n > begin.back()) begin.push_back(n);
    max_edges = std::max(max_edges, ptr[n + 1] - ptr[begin.back()]);
  }
  begin.push_back(n_nodes);
  return begin;
}

template <class T>
void run_pass(Pass<T>& pass) {
  const EdgeConvShape& shape = pass.shape;
  find_rounds(pass);
  pass.zeros.assign(std::max(shape.dim_in, shape.weight_numel), T(0));
  if (pass.to.gw)
    for (int64_t row = 0; row < shape.n_rows; ++row)  // rows that no edge reads
      if (pass.graph.row_ptr[row] == pass.graph.row_ptr[row + 1])
        std::fill_n(pass.to.gw + row * shape.weight_numel, shape.weight_numel, T(0));
  int64_t max_edges;
  const List<int64_t> chunks = chunk_receivers(pass, max_edges);
  const std::unique_ptr<T[]> parts(pass.to.gx ? new T[max_edges * shape.dim_in] : nullptr);
  List<int64_t> cursor(pass.to.gx ? shape.n_nodes : 0);
#pragma omp parallel num_threads(shape.n_threads)
  {
    Workspace<T> work(pass);
    for (int64_t round = 0; round < pass.n_rounds; ++round)
      for (size_t chunk = 0; chunk + 1 < chunks.size(); ++chunk) {
        const int64_t first_edge = pass.graph.receiver_ptr[chunks[chunk]];
        const int64_t end_edge = pass.graph.receiver_ptr[chunks[chunk + 1]];
#pragma omp for schedule(dynamic)
        for (int64_t n = chunks[chunk]; n < chunks[chunk + 1]; ++n)
          run_receiver(pass, n, round, work, parts.get(), first_edge);
        if (pass.to.gx) {
#pragma omp for schedule(static)
          for (int64_t n = 0; n < shape.n_nodes; ++n)
            add_parts(pass, n, round, parts.get(), first_edge, end_edge, cursor[n]);
        }
      }
  }
}

}  // namespace pathtune::PATHTUNE_ISA
