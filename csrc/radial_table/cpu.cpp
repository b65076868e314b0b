// out[n, c] = a[n] f(n, c; m) and out[n] = sum_c g[n, c] f(n, c; m), see the header.
//
// Parallel axis: rows, in the order of their segments, so that a segment's coefficients are fetched once for
// the rows that share it; each row is written by one thread, and its sum has a fixed order. Up to four rows
// of one segment go together: a coefficient that is loaded serves them all.
#include <algorithm>
#include <cmath>

#include "list.hpp"
#include "radial_table.hpp"
#include "vector.hpp"

namespace pathtune::PATHTUNE_ISA {
namespace {

constexpr int tile = 4;                 // rows
constexpr int64_t least_work = 100000;  // elements of w below which one thread is faster

// m-th derivative of the polynomial with these coefficients, Horner from the highest term.
template <int order, class V, class S>
inline V polynomial(const V (&c)[radial_terms], S t) {
  V value = c[radial_terms - 1];
  for (int k = radial_terms - 2; k >= order; --k) value = value * t + c[k];
  return value;
}

// What the m-th derivative multiplies term k by.
constexpr int factor(int k, int order) {
  int product = 1;
  for (int i = 0; i < order; ++i) product *= k - i;
  return product;
}

struct Place {
  int64_t row, segment;  // segment -1: beyond the end, zero
  double t, scale;       // scale: (dt/dr)^m
};

// Rows in the order of their segments: a counting sort, stable.
template <class T>
List<Place> places(const RadialTableShape& shape, const RadialTableSlots& slots, const int64_t* slot,
                   const T* r) {
  List<Place> found(size_t(shape.n_rows));
  int64_t last = -1;
  for (int64_t n = 0; n < shape.n_rows; ++n) {
    const int64_t s = slot ? slot[n] : 0;
    const double x = (double(r[n]) - slots.begin[s]) / slots.width[s];
    const int64_t count = slots.n_segments[s];
    if (x >= double(count)) {
      found[size_t(n)] = {n, -1, 0, 0};
      continue;
    }
    const int64_t i = x > 0 ? int64_t(x) : 0;  // NaN reads the first segment and stays NaN
    double scale = 1;
    for (int m = 0; m < shape.order; ++m) scale *= 2 / slots.width[s];
    found[size_t(n)] = {n, slots.first[s] + i, 2 * (x - double(i)) - 1, scale};
    last = std::max(last, slots.first[s] + i);
  }
  List<int64_t> at(size_t(last + 3), 0);
  for (const Place& p : found) ++at[size_t(p.segment + 2)];
  for (size_t i = 1; i < at.size(); ++i) at[i] += at[i - 1];
  List<Place> sorted(found.size());
  for (const Place& p : found) sorted[size_t(at[size_t(p.segment + 1)]++)] = p;
  return sorted;
}

template <class T, int order>
inline void load_terms(const T* from, int64_t stride, int n, Vector<T> (&c)[radial_terms]) {
  for (int k = order; k < radial_terms; ++k) {
    c[k] = n == n_lanes<T> ? load(from + k * stride) : load_partial(from + k * stride, n);
    c[k] *= T(factor(k, order));
  }
}

// `rows` places of one segment.
template <class T, int order, int rows, bool contracts>
void run(const Place* places, int64_t n_columns, const T* coefficients, const T* a, const T* g, T* out) {
  const T* from = coefficients + places[0].segment * radial_terms * n_columns;
  Vector<T> sum[rows] = {};
  T t[rows], scale[rows];
  for (int q = 0; q < rows; ++q) {
    t[q] = T(places[q].t);
    scale[q] = T(places[q].scale) * (a ? a[places[q].row] : T(1));
  }
  Vector<T> c[radial_terms];
  auto columns = [&](int64_t begin, int n) {
    load_terms<T, order>(from + begin, n_columns, n, c);
    for (int q = 0; q < rows; ++q) {
      const Vector<T> value = polynomial<order>(c, t[q]);
      const int64_t at = places[q].row * n_columns + begin;
      if constexpr (contracts)
        sum[q] += value * (n == n_lanes<T> ? load(g + at) : load_partial(g + at, n));
      else if (n == n_lanes<T>)
        store(out + at, value * scale[q]);
      else
        store_partial(out + at, value * scale[q], n);
    }
  };
  int64_t begin = 0;
  for (; begin + n_lanes<T> <= n_columns; begin += n_lanes<T>) columns(begin, n_lanes<T>);
  if (begin < n_columns) columns(begin, int(n_columns - begin));
  if constexpr (contracts)
    for (int q = 0; q < rows; ++q) out[places[q].row] = scale[q] * sum_lanes<T>(sum[q]);
}

template <class T, int order, bool contracts>
void run_all(const RadialTableShape& shape, const RadialTableSlots& slots, const T* coefficients,
             const int64_t* slot, const T* r, const T* a, const T* g, T* out) {
  const List<Place> sorted = places(shape, slots, slot, r);
  const int64_t n = shape.n_rows, n_columns = shape.n_columns;
  const int n_threads = n * n_columns < least_work ? 1 : shape.n_threads;
  const int64_t n_chunks = std::min<int64_t>(n, n_threads);
#pragma omp parallel for schedule(static) num_threads(n_threads)
  for (int64_t chunk = 0; chunk < n_chunks; ++chunk) {
    int64_t q = n * chunk / n_chunks;
    const int64_t end = n * (chunk + 1) / n_chunks;
    while (q < end) {
      const Place* at = &sorted[size_t(q)];
      int64_t same = 1;
      while (same < tile && q + same < end && at[same].segment == at->segment) ++same;
      if (at->segment < 0) {
        same = 1;
        std::fill_n(out + at->row * (contracts ? 1 : n_columns), contracts ? 1 : n_columns, T(0));
      } else if (same == tile) {
        run<T, order, tile, contracts>(at, n_columns, coefficients, a, g, out);
      } else if (same >= 2) {
        same = 2;
        run<T, order, 2, contracts>(at, n_columns, coefficients, a, g, out);
      } else {
        run<T, order, 1, contracts>(at, n_columns, coefficients, a, g, out);
      }
      q += same;
    }
  }
}

}  // namespace

template <class T>
void radial_expand(const RadialTableShape& shape, const RadialTableSlots& slots, const T* coefficients,
                   const int64_t* slot, const T* r, const T* a, T* out) {
  const T* none = nullptr;
  if (shape.order == 0) run_all<T, 0, false>(shape, slots, coefficients, slot, r, a, none, out);
  if (shape.order == 1) run_all<T, 1, false>(shape, slots, coefficients, slot, r, a, none, out);
  if (shape.order == 2) run_all<T, 2, false>(shape, slots, coefficients, slot, r, a, none, out);
}

template <class T>
void radial_contract(const RadialTableShape& shape, const RadialTableSlots& slots, const T* coefficients,
                     const int64_t* slot, const T* r, const T* g, T* out) {
  const T* none = nullptr;
  if (shape.order == 0) run_all<T, 0, true>(shape, slots, coefficients, slot, r, none, g, out);
  if (shape.order == 1) run_all<T, 1, true>(shape, slots, coefficients, slot, r, none, g, out);
  if (shape.order == 2) run_all<T, 2, true>(shape, slots, coefficients, slot, r, none, g, out);
}

#define PATHTUNE_INSTANTIATE(T)                                                                              \
  template void radial_expand<T>(const RadialTableShape&, const RadialTableSlots&, const T*, const int64_t*, \
                                 const T*, const T*, T*);                                                    \
  template void radial_contract<T>(const RadialTableShape&, const RadialTableSlots&, const T*,               \
                                   const int64_t*, const T*, const T*, T*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::PATHTUNE_ISA
