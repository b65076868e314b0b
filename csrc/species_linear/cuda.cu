// y[n, out_p, k, v] += c_p sum_u x[n, in_p, k, u] weights_p[u, species[n], v]
//
// Each path is a product of matrices for each species: rows (node, k), columns v, inner index u. Parallel
// axis of the forward and of grad_x: tiles of rows of one species times tiles of columns; grad_x is the same
// product with the weights transposed. Of grad_weights: (species, tile of u, tile of v), each block sums over
// all rows of its species. Every output has one owner within a launch and the paths follow each other on the
// stream: no atomics, deterministic.
#include "cuda_groups.hpp"
#include "cuda_tile.hpp"
#include "portability.hpp"
#include "species_linear/cuda.hpp"

namespace pathtune::cuda {
namespace {

// Small tiles until large ones give every multiprocessor two blocks (an H100 has 132).
constexpr int64_t enough_blocks = 264;

template <class T>
struct RowProduct {  // out_row += scale in_row B, B[inner, column] of the species
  const T* in;
  const T* weights;  // of the path
  T* out;
  int64_t in_dim;
  int64_t in_offset;
  int64_t out_dim;
  int64_t out_offset;
  int64_t n_components;
  int64_t n_inner;
  int64_t n_columns;
  int64_t n_species;
  int64_t n_present;
  T scale;
};

// Transposed: B[v, u] = weights[u, species, v] (grad_x), else B[u, v]. W: elements of one access.
template <class T, int Tile, bool Transposed, int W>
__global__ void __launch_bounds__(threads_of<Tile>)
    multiply_rows(const RowProduct<T> p, const SpeciesGroups groups) {
  constexpr int Threads = threads_of<Tile>, Stride = stride_of<T, Tile>;
  constexpr int V = vector_width<T>, Size = slab * Stride;
  PATHTUNE_SHARED(int64_t, in_rows, Tile);
  PATHTUNE_SHARED(int64_t, out_rows, Tile);
  using Vector = Pack<T, V>;  // for its alignment
  PATHTUNE_SHARED(Vector, in_slabs, 2 * Size / V);
  PATHTUNE_SHARED(Vector, weight_slabs, 2 * Size / V);
  const SpeciesTile tile = find_tile(groups.ptr, p.n_present, blockIdx.x, p.n_components, Tile);
  if (tile.group < 0) return;  // the whole block
  if (threadIdx.x < Tile) {
    const int64_t row = tile.index * Tile + threadIdx.x, k = row % p.n_components;
    const int64_t place = tile.begin + row / p.n_components;
    const int64_t node = place < tile.end ? global_load(groups.order + place) : -1;
    in_rows[threadIdx.x] = node < 0 ? -1 : node * p.in_dim + p.in_offset + k * p.n_inner;
    out_rows[threadIdx.x] = node < 0 ? -1 : node * p.out_dim + p.out_offset + k * p.n_columns;
  }
  const int64_t mul_out = Transposed ? p.n_inner : p.n_columns;
  const T* weights = p.weights + global_load(groups.present + tile.group) * mul_out;
  const int64_t weight_stride = p.n_species * mul_out, first_column = int64_t(blockIdx.y) * Tile;
  __syncthreads();

  Fetched<T, Tile, slab, Threads, W> rows;
  Fetched<T, Transposed ? Tile : slab, Transposed ? slab : Tile, Threads, W> b;
  const auto fetch = [&](int64_t inner) {
    rows.load([&](int l) { return in_rows[l] < 0 ? nullptr : p.in + in_rows[l]; }, inner, p.n_inner);
    const int64_t first_line = Transposed ? first_column : inner;
    const int64_t n_lines = Transposed ? p.n_columns : p.n_inner;
    b.load(
        [&](int l) {
          return first_line + l < n_lines ? weights + (first_line + l) * weight_stride : nullptr;
        },
        Transposed ? inner : first_column, mul_out);
  };
  Accumulator<T, Tile> sums;
  fetch(0);
  int buffer = 0;
  for (int64_t inner = 0; inner < p.n_inner; inner += slab, buffer ^= 1) {
    T* in_slab = reinterpret_cast<T*>(in_slabs) + buffer * Size;
    T* weight_slab = reinterpret_cast<T*>(weight_slabs) + buffer * Size;
    rows.template store_transposed<Stride>(in_slab);
    if constexpr (Transposed)
      b.template store_transposed<Stride>(weight_slab);
    else
      b.template store<Stride>(weight_slab);
    __syncthreads();  // also: nobody reads the other buffer any more when the next slab is stored
    if (inner + slab < p.n_inner) fetch(inner + slab);
    sums.add_slab(in_slab, weight_slab);
  }
  PATHTUNE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int64_t row = out_rows[sums.row() + i];
    if (row >= 0) sums.template add_row_to<W>(p.out + row, i, first_column, p.n_columns, p.scale);
  }
}

template <class T>
struct Outer {  // grad_weights[u, species, v] += scale sum_rows x_row[u] grad_y_row[v]
  const T* x;
  const T* grad_y;
  T* grad_weights;  // of the path
  int64_t dim_in;
  int64_t dim_out;
  int64_t n_species;
  int64_t u_tiles;
  int64_t v_tiles;
  SpeciesLinearPath path;
  T scale;
};

template <class T, int Tile, int W>
__global__ void __launch_bounds__(threads_of<Tile>) sum_outer(const Outer<T> p, const SpeciesGroups groups) {
  constexpr int Threads = threads_of<Tile>, Stride = stride_of<T, Tile>;
  constexpr int V = vector_width<T>, Size = slab * Stride;
  using Vector = Pack<T, V>;
  PATHTUNE_SHARED(Vector, x_slabs, 2 * Size / V);
  PATHTUNE_SHARED(Vector, y_slabs, 2 * Size / V);
  const int64_t group = blockIdx.x / (p.u_tiles * p.v_tiles), tile = blockIdx.x % (p.u_tiles * p.v_tiles);
  const int64_t first_u = tile / p.v_tiles * Tile, first_v = tile % p.v_tiles * Tile;
  const int64_t begin = global_load(groups.ptr + group), end = global_load(groups.ptr + group + 1);
  const int64_t K = p.path.n_components, n_rows = (end - begin) * K;

  Fetched<T, slab, Tile, Threads, W> x, y;
  const auto fetch = [&](int64_t first) {
    const auto row_of = [&](const T* rows, int64_t dim, int64_t offset, int64_t mul, int64_t row) {
      return row < n_rows ? rows + global_load(groups.order + begin + row / K) * dim + offset + row % K * mul
                          : nullptr;
    };
    x.load([&](int l) { return row_of(p.x, p.dim_in, p.path.in_offset, p.path.mul_in, first + l); }, first_u,
           p.path.mul_in);
    y.load([&](int l) { return row_of(p.grad_y, p.dim_out, p.path.out_offset, p.path.mul_out, first + l); },
           first_v, p.path.mul_out);
  };
  Accumulator<T, Tile> sums;
  fetch(0);
  int buffer = 0;
  for (int64_t row = 0; row < n_rows; row += slab, buffer ^= 1) {
    T* x_slab = reinterpret_cast<T*>(x_slabs) + buffer * Size;
    T* y_slab = reinterpret_cast<T*>(y_slabs) + buffer * Size;
    x.template store<Stride>(x_slab);
    y.template store<Stride>(y_slab);
    __syncthreads();
    if (row + slab < n_rows) fetch(row + slab);
    sums.add_slab(x_slab, y_slab);
  }
  const int64_t mul_out = p.path.mul_out;
  T* to = p.grad_weights + global_load(groups.present + group) * mul_out;
  PATHTUNE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int64_t u = first_u + sums.row() + i;
    if (u < p.path.mul_in)
      sums.template add_row_to<W>(to + u * p.n_species * mul_out, i, first_v, mul_out, p.scale);
  }
}

int64_t tiles(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }

// Whether rows of this path begin on 16 bytes everywhere and are multiples of 16 bytes long.
template <class T>
bool is_aligned(const SpeciesLinearShape& shape, const SpeciesLinearPath& path, const void* a, const void* b,
                const void* c) {
  constexpr int64_t V = vector_width<T>;
  const auto address =
      reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | reinterpret_cast<uintptr_t>(c);
  return address % 16 == 0 && shape.dim_in % V == 0 && shape.dim_out % V == 0 && path.in_offset % V == 0 &&
         path.out_offset % V == 0 && path.weight_offset % V == 0 && path.mul_in % V == 0 &&
         path.mul_out % V == 0;
}

template <class T, bool Transposed>
void run_rows(const char* op, const SpeciesLinearShape& shape, const SpeciesGroups& groups,
              const SpeciesLinearPath* paths, const double* coefficients, const T* in, const T* weights,
              T* out, void* stream) {
  if (shape.n_nodes == 0) return;
  for (int64_t i = 0; i < shape.n_paths; ++i) {
    const SpeciesLinearPath& path = paths[i];
    if (path.mul_in == 0 || path.mul_out == 0) continue;
    RowProduct<T> p{in,
                    weights + path.weight_offset,
                    out,
                    shape.dim_in,
                    path.in_offset,
                    shape.dim_out,
                    path.out_offset,
                    path.n_components,
                    path.mul_in,
                    path.mul_out,
                    shape.n_species,
                    shape.n_present,
                    T(coefficients[i])};
    if constexpr (Transposed)
      p = {in,
           weights + path.weight_offset,
           out,
           shape.dim_out,
           path.out_offset,
           shape.dim_in,
           path.in_offset,
           path.n_components,
           path.mul_out,
           path.mul_in,
           shape.n_species,
           shape.n_present,
           T(coefficients[i])};
    const int64_t n_rows = shape.n_nodes * path.n_components;
    const bool large = tiles(n_rows, 64) * tiles(p.n_columns, 64) >= enough_blocks;
    const bool aligned = is_aligned<T>(shape, path, in, weights, out);
    const int tile = large ? 64 : 32;
    const dim3 grid(unsigned(most_tiles(n_rows, shape.n_present, tile)), unsigned(tiles(p.n_columns, tile)));
    constexpr int V = vector_width<T>;
    const auto kernel =
        large ? (aligned ? &multiply_rows<T, 64, Transposed, V> : &multiply_rows<T, 64, Transposed, 1>)
              : (aligned ? &multiply_rows<T, 32, Transposed, V> : &multiply_rows<T, 32, Transposed, 1>);
    PATHTUNE_LAUNCH(kernel, grid, dim3(large ? threads_of<64> : threads_of<32>), 0,
                    static_cast<cudaStream_t>(stream), p, groups);
    check_launch(op);
  }
}

}  // namespace

template <class T>
void species_linear(const SpeciesLinearShape& shape, const SpeciesGroups& groups,
                    const SpeciesLinearPath* paths, const double* coefficients, const T* x, const T* weights,
                    T* y, void* stream) {
  run_rows<T, false>("species_linear", shape, groups, paths, coefficients, x, weights, y, stream);
}

template <class T>
void species_linear_grad_x(const SpeciesLinearShape& shape, const SpeciesGroups& groups,
                           const SpeciesLinearPath* paths, const double* coefficients, const T* grad_y,
                           const T* weights, T* grad_x, void* stream) {
  run_rows<T, true>("species_linear_grad_x", shape, groups, paths, coefficients, grad_y, weights, grad_x,
                    stream);
}

template <class T>
void species_linear_grad_weights(const SpeciesLinearShape& shape, const SpeciesGroups& groups,
                                 const SpeciesLinearPath* paths, const double* coefficients, const T* x,
                                 const T* grad_y, T* grad_weights, void* stream) {
  if (shape.n_nodes == 0) return;
  for (int64_t i = 0; i < shape.n_paths; ++i) {
    const SpeciesLinearPath& path = paths[i];
    if (path.mul_in == 0 || path.mul_out == 0) continue;
    const bool large = shape.n_present * tiles(path.mul_in, 64) * tiles(path.mul_out, 64) >= enough_blocks;
    const bool aligned = is_aligned<T>(shape, path, x, grad_y, grad_weights);
    const int tile = large ? 64 : 32;
    const Outer<T> p{x,
                     grad_y,
                     grad_weights + path.weight_offset,
                     shape.dim_in,
                     shape.dim_out,
                     shape.n_species,
                     tiles(path.mul_in, tile),
                     tiles(path.mul_out, tile),
                     path,
                     T(coefficients[i])};
    constexpr int V = vector_width<T>;
    const auto kernel = large ? (aligned ? &sum_outer<T, 64, V> : &sum_outer<T, 64, 1>)
                              : (aligned ? &sum_outer<T, 32, V> : &sum_outer<T, 32, 1>);
    PATHTUNE_LAUNCH(kernel, dim3(unsigned(shape.n_present * p.u_tiles * p.v_tiles)),
                    dim3(large ? threads_of<64> : threads_of<32>), 0, static_cast<cudaStream_t>(stream), p,
                    groups);
    check_launch("species_linear_grad_weights");
  }
}

#define PATHTUNE_INSTANTIATE(T)                                                                              \
  template void species_linear<T>(const SpeciesLinearShape&, const SpeciesGroups&, const SpeciesLinearPath*, \
                                  const double*, const T*, const T*, T*, void*);                             \
  template void species_linear_grad_x<T>(const SpeciesLinearShape&, const SpeciesGroups&,                    \
                                         const SpeciesLinearPath*, const double*, const T*, const T*, T*,    \
                                         void*);                                                             \
  template void species_linear_grad_weights<T>(const SpeciesLinearShape&, const SpeciesGroups&,              \
                                               const SpeciesLinearPath*, const double*, const T*, const T*,  \
                                               T*, void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::cuda
