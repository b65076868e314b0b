// grad_weights[u, species, v] += c_p sum_(n, k) x[n, in_p, k, u] grad_y[n, out_p, k, v], over the nodes of a
// species
//
// Parallel axis: (path, species, tile of u, tile of v); each block sums over all rows of its species. One
// launch for all paths. Every weight has one owner: no atomics, deterministic.
#include "cuda_launch.hpp"
#include "portability.hpp"
#include "species_linear/cuda.hpp"

namespace pathtune::cuda {
namespace {

template <class T>
struct Outer {  // grad_weights[u, species, v] += scale sum_rows x_row[u] grad_y_row[v]
  int64_t first_block;
  SpeciesLinearPath path;
  T scale;
};

template <class T>
struct Outers {
  const T* x;
  const T* grad_y;
  T* grad_weights;
  int64_t dim_in;
  int64_t dim_out;
  int64_t n_species;
  int n_paths;
  Outer<T> list[most_terms];
};
static_assert(sizeof(Outers<double>) + sizeof(SpeciesGroups) <= 4096);

template <class T, int Tile, int W>
__global__ void __launch_bounds__(threads_of<Tile>, least_blocks<Tile>)
    sum_outer(const Outers<T> p, const SpeciesGroups groups) {
  constexpr int Threads = threads_of<Tile>, Stride = stride_of<T, Tile>;
  constexpr int V = vector_width<T>, Size = slab * Stride;
  using Vector = Pack<T, V>;
  PATHTUNE_SHARED(Vector, x_slabs, 2 * Size / V);
  PATHTUNE_SHARED(Vector, y_slabs, 2 * Size / V);
  int o = 0;
  while (o + 1 < p.n_paths && int64_t(blockIdx.x) >= p.list[o + 1].first_block) ++o;
  const SpeciesLinearPath& path = p.list[o].path;
  const int64_t u_tiles = (path.mul_in + Tile - 1) / Tile, v_tiles = (path.mul_out + Tile - 1) / Tile;
  const int64_t block = int64_t(blockIdx.x) - p.list[o].first_block;
  const int64_t group = block / (u_tiles * v_tiles), tile = block % (u_tiles * v_tiles);
  const int64_t first_u = tile / v_tiles * Tile, first_v = tile % v_tiles * Tile;
  const int64_t begin = global_load(groups.ptr + group), end = global_load(groups.ptr + group + 1);
  const int64_t K = path.n_components, n_rows = (end - begin) * K;

  Fetched<T, slab, Tile, Threads, W> x, y;
  const auto fetch = [&](int64_t first) {
    const auto row_of = [&](const T* rows, int64_t dim, int64_t offset, int64_t mul, int64_t row) {
      return row < n_rows ? rows + global_load(groups.order + begin + row / K) * dim + offset + row % K * mul
                          : nullptr;
    };
    x.load([&](int l) { return row_of(p.x, p.dim_in, path.in_offset, path.mul_in, first + l); }, first_u,
           path.mul_in);
    y.load([&](int l) { return row_of(p.grad_y, p.dim_out, path.out_offset, path.mul_out, first + l); },
           first_v, path.mul_out);
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
  T* to = p.grad_weights + path.weight_offset + global_load(groups.present + group) * path.mul_out;
  PATHTUNE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int64_t u = first_u + sums.row() + i;
    if (u < path.mul_in)
      sums.template add_row_to<W>(to + u * p.n_species * path.mul_out, i, first_v, path.mul_out,
                                  p.list[o].scale);
  }
}

}  // namespace

template <class T>
void species_linear_grad_weights(const SpeciesLinearShape& shape, const SpeciesGroups& groups,
                                 const SpeciesLinearPath* paths, const double* coefficients, const T* x,
                                 const T* grad_y, T* grad_weights, void* stream) {
  if (shape.n_nodes == 0) return;
  Outers<T> p{x, grad_y, grad_weights, shape.dim_in, shape.dim_out, shape.n_species, 0, {}};
  const auto launch = [&](bool vectors) {
    if (p.n_paths == 0) return;
    const auto count = [&](int64_t tile) {
      int64_t n = 0;
      for (int i = 0; i < p.n_paths; ++i) {
        p.list[i].first_block = n;
        n += shape.n_present * tiles(p.list[i].path.mul_in, tile) * tiles(p.list[i].path.mul_out, tile);
      }
      return n;
    };
    const bool large = count(64) >= enough_blocks;
    const int64_t n_blocks = count(large ? 64 : 32);
    constexpr int V = vector_width<T>;
    const auto kernel = large ? (vectors ? &sum_outer<T, 64, V> : &sum_outer<T, 64, 1>)
                              : (vectors ? &sum_outer<T, 32, V> : &sum_outer<T, 32, 1>);
    PATHTUNE_LAUNCH(kernel, dim3(unsigned(n_blocks)), dim3(large ? threads_of<64> : threads_of<32>), 0,
                    static_cast<cudaStream_t>(stream), p, groups);
    check_launch("species_linear_grad_weights");
    p.n_paths = 0;
  };
  const bool aligned = is_aligned<T>(shape, x, grad_y, grad_weights);
  for (const bool vectors : {true, false}) {
    for (int64_t i = 0; i < shape.n_paths; ++i) {
      if (paths[i].mul_in == 0 || paths[i].mul_out == 0) continue;
      if ((aligned && is_aligned<T>(paths[i])) != vectors) continue;
      if (p.n_paths == most_terms) launch(vectors);
      p.list[p.n_paths++] = {0, paths[i], T(coefficients[i])};
    }
    launch(vectors);
  }
}

#define PATHTUNE_INSTANTIATE(T)                                                                             \
  template void species_linear_grad_weights<T>(const SpeciesLinearShape&, const SpeciesGroups&,             \
                                               const SpeciesLinearPath*, const double*, const T*, const T*, \
                                               T*, void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::cuda
