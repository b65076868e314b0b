// y[n, out_p, k, v] = c_p sum_u x[n, in_p, k, u] weights_p[u, species[n], v], summed over the paths into
// out_p
//
// Parallel axis of the forward and of grad_x: chunks of nodes of one species, so that a thread reads one
// species' weights and owns its rows: no atomics, deterministic. Of grad_weights: (path, species, block
// of u), so that each weight has one owner, which sums over all its nodes in a fixed order.
#include <algorithm>

#include "gemm_tile.hpp"
#include "list.hpp"
#include "species_linear.hpp"
#include "transpose.hpp"

namespace pathtune::PATHTUNE_ISA {
namespace {

constexpr int64_t chunk_nodes = 8;
constexpr int64_t block_u = 32;

struct Chunk {
  int64_t group;  // index into present
  int64_t begin;  // into order
  int64_t end;
};

List<Chunk> chunks_of_nodes(const SpeciesGroups& groups, int64_t n_present) {
  List<Chunk> chunks;
  for (int64_t s = 0; s < n_present; ++s)
    for (int64_t n = groups.ptr[s]; n < groups.ptr[s + 1]; n += chunk_nodes)
      chunks.push_back({s, n, std::min(n + chunk_nodes, groups.ptr[s + 1])});
  return chunks;
}

// One row per (node, component): the rows of x and y that meet in a product.
template <class P>
void collect_rows(List<P*>& rows, P* base, int64_t dim, int64_t offset, int64_t mul, int64_t n_components,
                  const int64_t* nodes, int64_t n_nodes) {
  rows.clear();
  for (int64_t n = 0; n < n_nodes; ++n)
    for (int64_t k = 0; k < n_components; ++k) rows.push_back(base + nodes[n] * dim + offset + k * mul);
}

template <class T>
void zero_rows(T* base, int64_t dim, const int64_t* nodes, int64_t n_nodes) {
  for (int64_t n = 0; n < n_nodes; ++n) std::fill_n(base + nodes[n] * dim, dim, T(0));
}

}  // namespace

template <class T>
void species_linear(const SpeciesLinearShape& shape, const SpeciesGroups& groups,
                    const SpeciesLinearPath* paths, const double* coefficients, const T* x, const T* weights,
                    T* y) {
  const List<Chunk> chunks = chunks_of_nodes(groups, shape.n_present);
#pragma omp parallel num_threads(shape.n_threads)
  {
    List<const T*> x_rows;
    List<T*> y_rows;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < int64_t(chunks.size()); ++i) {
      const Chunk& chunk = chunks[i];
      const int64_t* nodes = groups.order + chunk.begin;
      const int64_t n_nodes = chunk.end - chunk.begin;
      zero_rows(y, shape.dim_out, nodes, n_nodes);
      for (int64_t p = 0; p < shape.n_paths; ++p) {
        const SpeciesLinearPath& path = paths[p];
        collect_rows(x_rows, x, shape.dim_in, path.in_offset, path.mul_in, path.n_components, nodes, n_nodes);
        collect_rows(y_rows, y, shape.dim_out, path.out_offset, path.mul_out, path.n_components, nodes,
                     n_nodes);
        multiply<T>(int(x_rows.size()), x_rows.data(), y_rows.data(),
                    weights + path.weight_offset + groups.present[chunk.group] * path.mul_out,
                    shape.n_species * path.mul_out, int(path.mul_in), int(path.mul_out), T(coefficients[p]));
      }
    }
  }
}

template <class T>
void species_linear_grad_x(const SpeciesLinearShape& shape, const SpeciesGroups& groups,
                           const SpeciesLinearPath* paths, const double* coefficients, const T* grad_y,
                           const T* weights, T* grad_x) {
  const List<Chunk> chunks = chunks_of_nodes(groups, shape.n_present);
  // The weights of the species present, transposed: products of rows run along memory then, as the forward's.
  List<int64_t> first(size_t(shape.n_paths) + 1, 0);
  for (int64_t p = 0; p < shape.n_paths; ++p)
    first[size_t(p) + 1] = first[size_t(p)] + shape.n_present * paths[p].mul_in * paths[p].mul_out;
  const Buffer<T> transposed(first[size_t(shape.n_paths)]);
  auto slice = [&](int64_t p, int64_t group) {
    return transposed.data() + first[size_t(p)] + group * paths[p].mul_in * paths[p].mul_out;
  };
#pragma omp parallel num_threads(shape.n_threads)
  {
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < shape.n_paths * shape.n_present; ++i) {
      const SpeciesLinearPath& path = paths[i / shape.n_present];
      const int64_t group = i % shape.n_present;
      transpose_matrix(weights + path.weight_offset + groups.present[group] * path.mul_out,
                       shape.n_species * path.mul_out, path.mul_in, path.mul_out,
                       slice(i / shape.n_present, group));
    }
    List<T*> x_rows;
    List<const T*> y_rows;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < int64_t(chunks.size()); ++i) {
      const Chunk& chunk = chunks[i];
      const int64_t* nodes = groups.order + chunk.begin;
      const int64_t n_nodes = chunk.end - chunk.begin;
      zero_rows(grad_x, shape.dim_in, nodes, n_nodes);
      for (int64_t p = 0; p < shape.n_paths; ++p) {
        const SpeciesLinearPath& path = paths[p];
        collect_rows(x_rows, grad_x, shape.dim_in, path.in_offset, path.mul_in, path.n_components, nodes,
                     n_nodes);
        collect_rows(y_rows, grad_y, shape.dim_out, path.out_offset, path.mul_out, path.n_components, nodes,
                     n_nodes);
        multiply<T>(int(x_rows.size()), y_rows.data(), x_rows.data(), slice(p, chunk.group), path.mul_in,
                    int(path.mul_out), int(path.mul_in), T(coefficients[p]));
      }
    }
  }
}

template <class T>
void species_linear_grad_weights(const SpeciesLinearShape& shape, const SpeciesGroups& groups,
                                 const SpeciesLinearPath* paths, const double* coefficients, const T* x,
                                 const T* grad_y, T* grad_weights) {
  struct Task {
    int64_t path, group, u;
  };
  List<Task> tasks;
  for (int64_t p = 0; p < shape.n_paths; ++p)
    for (int64_t s = 0; s < shape.n_present; ++s)
      for (int64_t u = 0; u < paths[p].mul_in; u += block_u) tasks.push_back({p, s, u});
#pragma omp parallel num_threads(shape.n_threads)
  {
    List<const T*> x_rows, y_rows;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < int64_t(tasks.size()); ++i) {
      const auto [p, s, u] = tasks[i];
      const SpeciesLinearPath& path = paths[p];
      const int64_t* nodes = groups.order + groups.ptr[s];
      const int64_t n_nodes = groups.ptr[s + 1] - groups.ptr[s];
      collect_rows(x_rows, x, shape.dim_in, path.in_offset, path.mul_in, path.n_components, nodes, n_nodes);
      collect_rows(y_rows, grad_y, shape.dim_out, path.out_offset, path.mul_out, path.n_components, nodes,
                   n_nodes);
      accumulate_outer<T>(int(x_rows.size()), x_rows.data(), y_rows.data(),
                          grad_weights + path.weight_offset + groups.present[s] * path.mul_out,
                          shape.n_species * path.mul_out, int(u), int(std::min(u + block_u, path.mul_in)),
                          int(path.mul_out), T(coefficients[p]));
    }
  }
}

#define PATHTUNE_INSTANTIATE(T)                                                                              \
  template void species_linear<T>(const SpeciesLinearShape&, const SpeciesGroups&, const SpeciesLinearPath*, \
                                  const double*, const T*, const T*, T*);                                    \
  template void species_linear_grad_x<T>(const SpeciesLinearShape&, const SpeciesGroups&,                    \
                                         const SpeciesLinearPath*, const double*, const T*, const T*, T*);   \
  template void species_linear_grad_weights<T>(const SpeciesLinearShape&, const SpeciesGroups&,              \
                                               const SpeciesLinearPath*, const double*, const T*, const T*,  \
                                               T*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::PATHTUNE_ISA
