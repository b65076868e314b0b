// out[n, c] = a[n] f(n, c; m) and out[n] = sum_c g[n, c] f(n, c; m), see the header.
//
// Parallel axis: rows, one warp each, whose lanes are neighbouring columns: every access of a row is
// coalesced, where the row stands in its table is found by all lanes at once, and its sum stays within the
// warp, in a fixed order. A row reads eight coefficients for each number that it writes; tables have a few
// megabytes and stay in the L2 cache, so that rows are not sorted by their segments first.
#include "portability.hpp"
#include "radial_table/cuda.hpp"

namespace pathtune::cuda {
namespace {

constexpr int n_threads = 128;
constexpr int rows_per_block = n_threads / 32;

template <class T>
struct RadialRows {
  RadialTableSlots slots;
  const T* coefficients;
  const int64_t* slot;
  const T* r;
  const T* other;  // a or g
  T* out;
  int64_t n_rows;
  int64_t n_columns;
};

template <class T>
struct RadialPlace {
  bool is_inside;  // else at the table's end or beyond: zero
  int64_t segment;
  T t, scale;  // scale: (dt/dr)^m
};

template <class T, int order>
__device__ __forceinline__ RadialPlace<T> find_place(const RadialRows<T>& rows, int64_t n) {
  const int64_t s = rows.slot ? global_load(rows.slot + n) : 0;
  const double width = global_load(rows.slots.width + s);
  // float32 does not tell places within a narrow segment apart
  const double x = (double(global_load(rows.r + n)) - global_load(rows.slots.begin + s)) / width;
  if (x >= double(global_load(rows.slots.n_segments + s))) return {false, 0, T(0), T(0)};
  const int64_t i = x > 0 ? int64_t(x) : 0;  // NaN reads the first segment and stays NaN
  double scale = 1;
  for (int m = 0; m < order; ++m) scale *= 2 / width;
  return {true, global_load(rows.slots.first + s) + i, T(2 * (x - double(i)) - 1), T(scale)};
}

// What the m-th derivative multiplies term k by.
template <int order>
constexpr int factor(int k) {
  int product = 1;
  for (int i = 0; i < order; ++i) product *= k - i;
  return product;
}

// m-th derivatives to t of V neighbouring columns' polynomials, the first term's coefficients at `from`.
template <class T, int order, int V>
__device__ __forceinline__ Pack<T, V> polynomials(const T* from, int64_t n_columns, T t) {
  Pack<T, V> c[radial_terms];
  PATHTUNE_UNROLL
  for (int k = order; k < radial_terms; ++k)
    c[k] = global_load(reinterpret_cast<const Pack<T, V>*>(from + k * n_columns));
  Pack<T, V> value{};
  PATHTUNE_UNROLL
  for (int k = radial_terms - 1; k >= order; --k) {
    PATHTUNE_UNROLL
    for (int v = 0; v < V; ++v) value.v[v] = value.v[v] * t + T(factor<order>(k)) * c[k].v[v];
  }
  return value;
}

template <class T, int order, int V>
__global__ void __launch_bounds__(n_threads) radial_expand_rows(const RadialRows<T> rows) {
  const int64_t n = int64_t(blockIdx.x) * rows_per_block + threadIdx.x / 32;
  if (n >= rows.n_rows) return;
  const RadialPlace<T> place = find_place<T, order>(rows, n);
  const T scale = rows.other ? place.scale * global_load(rows.other + n) : place.scale;
  const T* from = rows.coefficients + place.segment * radial_terms * rows.n_columns;
  for (int64_t c = threadIdx.x % 32 * V; c < rows.n_columns; c += 32 * V) {
    Pack<T, V> value{};
    if (place.is_inside) {
      value = polynomials<T, order, V>(from + c, rows.n_columns, place.t);
      PATHTUNE_UNROLL
      for (int v = 0; v < V; ++v) value.v[v] *= scale;
    }
    global_store(reinterpret_cast<Pack<T, V>*>(rows.out + n * rows.n_columns + c), value);
  }
}

template <class T, int order, int V>
__global__ void __launch_bounds__(n_threads) radial_contract_rows(const RadialRows<T> rows) {
  const int64_t n = int64_t(blockIdx.x) * rows_per_block + threadIdx.x / 32;
  if (n >= rows.n_rows) return;  // the whole warp
  const RadialPlace<T> place = find_place<T, order>(rows, n);
  const T* from = rows.coefficients + place.segment * radial_terms * rows.n_columns;
  const T* g = rows.other + n * rows.n_columns;
  const int64_t end = place.is_inside ? rows.n_columns : 0;
  T sum = 0;
  for (int64_t c = threadIdx.x % 32 * V; c < end; c += 32 * V) {
    const Pack<T, V> value = polynomials<T, order, V>(from + c, rows.n_columns, place.t);
    const Pack<T, V> factors = global_load(reinterpret_cast<const Pack<T, V>*>(g + c));
    PATHTUNE_UNROLL
    for (int v = 0; v < V; ++v) sum += value.v[v] * factors.v[v];
  }
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (threadIdx.x % 32 == 0) global_store(rows.out + n, place.scale * sum);
}

template <class T>
using Kernel = void (*)(RadialRows<T>);

template <class T, bool contracts, int V>
Kernel<T> kernel_of(int order) {
  if constexpr (contracts)
    return order == 0   ? &radial_contract_rows<T, 0, V>
           : order == 1 ? &radial_contract_rows<T, 1, V>
                        : &radial_contract_rows<T, 2, V>;
  else
    return order == 0   ? &radial_expand_rows<T, 0, V>
           : order == 1 ? &radial_expand_rows<T, 1, V>
                        : &radial_expand_rows<T, 2, V>;
}

template <class T, bool contracts>
void launch(const char* op, const RadialTableShape& shape, const RadialRows<T>& rows, void* stream) {
  if (shape.n_rows == 0) return;
  constexpr int V = 16 / int(sizeof(T));
  const auto wide = reinterpret_cast<uintptr_t>(rows.coefficients) |
                    reinterpret_cast<uintptr_t>(contracts ? rows.other : rows.out);
  const bool aligned = wide % 16 == 0 && shape.n_columns % V == 0;
  const Kernel<T> kernel =
      aligned ? kernel_of<T, contracts, V>(shape.order) : kernel_of<T, contracts, 1>(shape.order);
  const int64_t n_blocks = (shape.n_rows + rows_per_block - 1) / rows_per_block;
  PATHTUNE_LAUNCH(kernel, dim3(unsigned(n_blocks)), dim3(n_threads), 0, static_cast<cudaStream_t>(stream),
                  rows);
  check_launch(op);
}

}  // namespace

template <class T>
void radial_expand(const RadialTableShape& shape, const RadialTableSlots& slots, const T* coefficients,
                   const int64_t* slot, const T* r, const T* a, T* out, void* stream) {
  launch<T, false>("radial_expand", shape,
                   {slots, coefficients, slot, r, a, out, shape.n_rows, shape.n_columns}, stream);
}

template <class T>
void radial_contract(const RadialTableShape& shape, const RadialTableSlots& slots, const T* coefficients,
                     const int64_t* slot, const T* r, const T* g, T* out, void* stream) {
  launch<T, true>("radial_contract", shape,
                  {slots, coefficients, slot, r, g, out, shape.n_rows, shape.n_columns}, stream);
}

#define PATHTUNE_INSTANTIATE(T)                                                                              \
  template void radial_expand<T>(const RadialTableShape&, const RadialTableSlots&, const T*, const int64_t*, \
                                 const T*, const T*, T*, void*);                                             \
  template void radial_contract<T>(const RadialTableShape&, const RadialTableSlots&, const T*,               \
                                   const int64_t*, const T*, const T*, T*, void*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::cuda
