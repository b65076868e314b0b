// y[n, out_p, k, v] = c_p sum_u x[n, in_p, k, u] weights_p[u, species[n], v], summed over the paths into
// out_p
//
// Each path is a product of matrices for each species: rows (node, k), columns v, inner index u. Parallel
// axis of the forward and of grad_x: irreps of the output, in each tiles of rows of one species times tiles
// of columns; a block walks over all paths into its irrep, so that it owns what it stores and nothing has to
// be zeroed before. grad_x is the same product with the weights transposed. One launch for all paths: a layer
// has many small ones. No atomics, deterministic.
#include "cuda_launch.hpp"
#include "portability.hpp"
#include "species_linear/cuda.hpp"

namespace pathtune::cuda {
namespace {

template <class T>
struct Term {  // scale in_row B, B[inner, column] of the species
  int64_t weight_offset;
  int64_t in_offset;
  int64_t n_inner;
  T scale;
};

struct Output {  // an irrep of a row of the output, or what lies between two, into which no path leads
  int64_t first_block;
  int64_t offset;
  int64_t n_components;
  int64_t n_columns;
  int first_term;
  int end_term;
  bool is_added;  // to what an earlier launch has stored
};

template <class T>
struct RowProducts {
  const T* in;
  const T* weights;
  T* out;
  int64_t in_dim;
  int64_t out_dim;
  int64_t n_species;
  int64_t n_present;
  int n_outputs;
  int n_terms;
  Output outputs[most_outputs];
  Term<T> terms[most_terms];
};
static_assert(sizeof(RowProducts<double>) + sizeof(SpeciesGroups) <= 4096);

// Transposed: B[v, u] = weights[u, species, v] (grad_x), else B[u, v]. W: elements of one access.
template <class T, int Tile, bool Transposed, int W>
__global__ void __launch_bounds__(threads_of<Tile>, least_blocks<Tile>)
    multiply_rows(const RowProducts<T> p, const SpeciesGroups groups) {
  constexpr int Threads = threads_of<Tile>, Stride = stride_of<T, Tile>;
  constexpr int V = vector_width<T>, Size = slab * Stride;
  PATHTUNE_SHARED(int64_t, nodes, Tile);
  PATHTUNE_SHARED(int64_t, components, Tile);
  using Vector = Pack<T, V>;  // for its alignment
  PATHTUNE_SHARED(Vector, in_slabs, 2 * Size / V);
  PATHTUNE_SHARED(Vector, weight_slabs, 2 * Size / V);
  int o = 0;
  while (o + 1 < p.n_outputs && int64_t(blockIdx.x) >= p.outputs[o + 1].first_block) ++o;
  const Output& output = p.outputs[o];
  const int64_t n_columns = output.n_columns, n_column_tiles = (n_columns + Tile - 1) / Tile;
  const int64_t block = int64_t(blockIdx.x) - output.first_block;
  const SpeciesTile tile =
      find_tile(groups.ptr, p.n_present, block / n_column_tiles, output.n_components, Tile);
  if (tile.group < 0) return;  // the whole block
  if (threadIdx.x < Tile) {
    const int64_t row = tile.index * Tile + threadIdx.x;
    const int64_t place = tile.begin + row / output.n_components;
    nodes[threadIdx.x] = place < tile.end ? global_load(groups.order + place) : -1;
    components[threadIdx.x] = row % output.n_components;
  }
  const int64_t species = global_load(groups.present + tile.group);
  const int64_t first_column = block % n_column_tiles * Tile;
  __syncthreads();

  Fetched<T, Tile, slab, Threads, W> rows;
  Fetched<T, Transposed ? Tile : slab, Transposed ? slab : Tile, Threads, W> b;
  int t = output.first_term;
  int64_t inner = 0;
  const auto fetch = [&] {
    const Term<T>& term = p.terms[t];
    const T* in = p.in + term.in_offset;
    rows.load(
        [&](int l) {
          return nodes[l] < 0 ? nullptr : in + nodes[l] * p.in_dim + components[l] * term.n_inner;
        },
        inner, term.n_inner);
    rows.multiply(term.scale);
    const int64_t mul_out = Transposed ? term.n_inner : n_columns;
    const T* weights = p.weights + term.weight_offset + species * mul_out;
    const int64_t first_line = Transposed ? first_column : inner;
    const int64_t n_lines = Transposed ? n_columns : term.n_inner;
    b.load(
        [&](int l) {
          return first_line + l < n_lines ? weights + (first_line + l) * p.n_species * mul_out : nullptr;
        },
        Transposed ? inner : first_column, mul_out);
  };
  Accumulator<T, Tile> sums;
  if (t < output.end_term) fetch();
  for (int buffer = 0; t < output.end_term; buffer ^= 1) {
    T* in_slab = reinterpret_cast<T*>(in_slabs) + buffer * Size;
    T* weight_slab = reinterpret_cast<T*>(weight_slabs) + buffer * Size;
    rows.template store_transposed<Stride>(in_slab);
    if constexpr (Transposed)
      b.template store_transposed<Stride>(weight_slab);
    else
      b.template store<Stride>(weight_slab);
    __syncthreads();  // also: nobody reads the other buffer any more when the next slab is stored
    inner += slab;
    if (inner >= p.terms[t].n_inner) {
      inner = 0;
      ++t;
    }
    if (t < output.end_term) fetch();
    sums.add_slab(in_slab, weight_slab);
  }
  PATHTUNE_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = sums.row() + i;
    if (nodes[row] < 0) continue;
    T* to = p.out + nodes[row] * p.out_dim + output.offset + components[row] * n_columns;
    if (output.is_added)
      sums.template add_row_to<W>(to, i, first_column, n_columns, T(1));
    else
      sums.template store_row<W>(to, i, first_column, n_columns);
  }
}

// The forward, or grad_x: walks over the output's row, and launches what it has collected.
template <class T, bool Transposed>
struct Rows {
  const char* op;
  const SpeciesLinearShape& shape;
  const SpeciesGroups& groups;
  const SpeciesLinearPath* paths;
  const double* coefficients;
  void* stream;
  RowProducts<T> p;

  int64_t offset(const SpeciesLinearPath& path) const {
    return Transposed ? path.in_offset : path.out_offset;
  }
  int64_t columns(const SpeciesLinearPath& path) const { return Transposed ? path.mul_in : path.mul_out; }
  int64_t inner(const SpeciesLinearPath& path) const { return Transposed ? path.mul_out : path.mul_in; }
  int64_t length(const SpeciesLinearPath& path) const { return path.n_components * columns(path); }

  // The irrep that begins at `at`, or the gap there.
  Output output_at(int64_t at) const {
    int64_t end = p.out_dim;
    for (int64_t i = 0; i < shape.n_paths; ++i) {
      if (length(paths[i]) == 0) continue;
      if (offset(paths[i]) == at) return {0, at, paths[i].n_components, columns(paths[i]), 0, 0, false};
      if (offset(paths[i]) > at && offset(paths[i]) < end) end = offset(paths[i]);
    }
    return {0, at, 1, end - at, 0, 0, false};
  }

  bool is_into(const SpeciesLinearPath& path, const Output& output) const {
    return offset(path) == output.offset && length(path) > 0 && inner(path) > 0;
  }

  bool has_vectors(const Output& output) const {
    bool result = is_vector<T>(output.offset) && is_vector<T>(output.n_columns);
    for (int64_t i = 0; i < shape.n_paths; ++i)
      if (is_into(paths[i], output)) result = result && is_aligned<T>(paths[i]);
    return result;
  }

  void add(Output output, bool vectors) {
    if (p.n_outputs == most_outputs || p.n_terms == most_terms) launch(vectors);
    output.first_term = output.end_term = p.n_terms;
    for (int64_t i = 0; i < shape.n_paths; ++i) {
      if (!is_into(paths[i], output)) continue;
      if (p.n_terms == most_terms) {
        p.outputs[p.n_outputs++] = output;
        launch(vectors);
        output.first_term = output.end_term = 0;
        output.is_added = true;
      }
      p.terms[p.n_terms++] = {paths[i].weight_offset, Transposed ? paths[i].out_offset : paths[i].in_offset,
                              inner(paths[i]), T(coefficients[i])};
      output.end_term = p.n_terms;
    }
    p.outputs[p.n_outputs++] = output;
  }

  void launch(bool vectors) {
    if (p.n_outputs == 0) return;
    int64_t n_large = 0;
    for (int o = 0; o < p.n_outputs; ++o)
      n_large += tiles(shape.n_nodes * p.outputs[o].n_components, 64) * tiles(p.outputs[o].n_columns, 64);
    const bool large = n_large >= enough_blocks;
    const int tile = large ? 64 : 32;
    int64_t n_blocks = 0;
    for (int o = 0; o < p.n_outputs; ++o) {
      p.outputs[o].first_block = n_blocks;
      n_blocks += most_tiles(shape.n_nodes * p.outputs[o].n_components, shape.n_present, tile) *
                  tiles(p.outputs[o].n_columns, tile);
    }
    constexpr int V = vector_width<T>;
    const auto kernel =
        large ? (vectors ? &multiply_rows<T, 64, Transposed, V> : &multiply_rows<T, 64, Transposed, 1>)
              : (vectors ? &multiply_rows<T, 32, Transposed, V> : &multiply_rows<T, 32, Transposed, 1>);
    PATHTUNE_LAUNCH(kernel, dim3(unsigned(n_blocks)), dim3(large ? threads_of<64> : threads_of<32>), 0,
                    static_cast<cudaStream_t>(stream), p, groups);
    check_launch(op);
    p.n_outputs = p.n_terms = 0;
  }

  void run() {
    if (shape.n_nodes == 0) return;
    const bool aligned = is_aligned<T>(shape, p.in, p.weights, p.out);
    for (const bool vectors : {true, false}) {
      for (int64_t at = 0; at < p.out_dim;) {
        const Output output = output_at(at);
        if ((aligned && has_vectors(output)) == vectors) add(output, vectors);
        at += output.n_components * output.n_columns;
      }
      launch(vectors);
    }
  }
};

}  // namespace

template <class T>
void species_linear(const SpeciesLinearShape& shape, const SpeciesGroups& groups,
                    const SpeciesLinearPath* paths, const double* coefficients, const T* x, const T* weights,
                    T* y, void* stream) {
  Rows<T, false>{"species_linear",
                 shape,
                 groups,
                 paths,
                 coefficients,
                 stream,
                 {x, weights, y, shape.dim_in, shape.dim_out, shape.n_species, shape.n_present, 0, 0, {}, {}}}
      .run();
}

template <class T>
void species_linear_grad_x(const SpeciesLinearShape& shape, const SpeciesGroups& groups,
                           const SpeciesLinearPath* paths, const double* coefficients, const T* grad_y,
                           const T* weights, T* grad_x, void* stream) {
  Rows<T, true>{
      "species_linear_grad_x",
      shape,
      groups,
      paths,
      coefficients,
      stream,
      {grad_y, weights, grad_x, shape.dim_out, shape.dim_in, shape.n_species, shape.n_present, 0, 0, {}, {}}}
      .run();
}

#define PATHTUNE_INSTANTIATE(T)                                                                              \
  template void species_linear<T>(const SpeciesLinearShape&, const SpeciesGroups&, const SpeciesLinearPath*, \
                                  const double*, const T*, const T*, T*, void*);                             \
  template void species_linear_grad_x<T>(const SpeciesLinearShape&, const SpeciesGroups&,                    \
                                         const SpeciesLinearPath*, const double*, const T*, const T*, T*,    \
                                         void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::cuda
