// radial_table: radial functions of the lengths of edges, as piecewise polynomials.
//
//   f(n, c; m) = d^m/dr^m sum_k C[s, k, c] t^k    s: the segment of r[n]; t in [-1, 1]: r's place in it
//
//   expand:   out[n, c] = a[n] f(n, c; m)
//
//   contract: out[n] = sum_c g[n, c] f(n, c; m)
//
// The radial functions are expand with m = 0 and a = 1. expand and contract, each a slot of the form
// sum a g f(m), are closed under differentiation: that to r raises m by one. Row n reads the table slot[n],
// which has segments of equal width between its begin and its end; at its end and beyond the functions are
// zero.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace pathtune {

constexpr int radial_terms = 8;   // polynomials of degree seven
constexpr int radial_orders = 3;  // m = 0, 1, 2

struct RadialTableShape {
  int64_t n_rows;
  int64_t n_columns;
  int order;  // m
  int n_threads;
};

struct RadialTableSlots {
  const int64_t* first;       // [n_slots] the first segment of each table
  const int64_t* n_segments;  // [n_slots]
  const double* begin;        // [n_slots] A; a row below it reads the first segment's polynomial
  const double* width;        // [n_slots] A, of a segment
};

PATHTUNE_DECLARE_PER_ISA(
    template <class T>
    void radial_expand(const RadialTableShape&, const RadialTableSlots&,
                       const T* coefficients,  // [n_segments of all, radial_terms, n_columns]
                       const int64_t* slot,    // [n_rows], or null: all read table 0
                       const T* r,             // [n_rows] A
                       const T* a,             // [n_rows], or null: one
                       T* out);                // [n_rows, n_columns]
    template <class T> void radial_contract(const RadialTableShape&, const RadialTableSlots&,
                                            const T* coefficients,  // as above
                                            const int64_t* slot, const T* r,
                                            const T* g,  // [n_rows, n_columns]
                                            T* out);     // [n_rows]
)

}  // namespace pathtune
