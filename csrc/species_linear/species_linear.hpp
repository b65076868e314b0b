// species_linear: a linear layer whose weights depend on the species of the node.
//
//   y[n, out_p, k, v] = sum_p c_p sum_u x[n, in_p, k, u] weights_p[u, species[n], v]
//
// It is e3nn's FullyConnectedTensorProduct with a one-hot second operand, without the zeros. It is
// trilinear in (x, weights, cotangent of y): its two first derivatives are of the same form, and so is
// every higher one. Layout ir_mul: k counts the 2l+1 components, u and v the channels.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace pathtune {

struct SpeciesLinearPath {
  int64_t in_offset;      // of this path's irrep in a row of x
  int64_t out_offset;     // and in a row of y
  int64_t weight_offset;  // of [mul_in, n_species, mul_out] in weights
  int64_t n_components;   // 2l + 1
  int64_t mul_in;
  int64_t mul_out;
};

struct SpeciesLinearShape {
  int64_t n_nodes;
  int64_t dim_in;     // row length of x
  int64_t dim_out;    // row length of y
  int64_t n_species;  // of the model
  int64_t n_present;  // species that occur in this batch
  int64_t n_paths;
  int n_threads;
};

// Nodes grouped by species: nodes order[ptr[s]] .. order[ptr[s+1] - 1] are of species present[s].
struct SpeciesGroups {
  const int64_t* order;    // [n_nodes]
  const int64_t* ptr;      // [n_present + 1]
  const int64_t* present;  // [n_present]
};

// y and grad_x are written whole, zeros where no path leads. grad_weights are added to, which the caller has
// zeroed.
PATHTUNE_DECLARE_PER_ISA(
    template <class T>
    void species_linear(const SpeciesLinearShape&, const SpeciesGroups&,
                        const SpeciesLinearPath* paths,  // [n_paths]
                        const double* coefficients,      // [n_paths]
                        const T* x,                      // [n_nodes, dim_in]
                        const T* weights,  // paths' [mul_in, n_species, mul_out], one after the other
                        T* y);             // [n_nodes, dim_out]
    template <class T> void species_linear_grad_x(const SpeciesLinearShape&, const SpeciesGroups&,
                                                  const SpeciesLinearPath* paths, const double* coefficients,
                                                  const T* grad_y,  // [n_nodes, dim_out]
                                                  const T* weights,
                                                  T* grad_x);  // [n_nodes, dim_in]
    template <class T>
    void species_linear_grad_weights(const SpeciesLinearShape&, const SpeciesGroups&,
                                     const SpeciesLinearPath* paths, const double* coefficients,
                                     const T* x,         // [n_nodes, dim_in]
                                     const T* grad_y,    // [n_nodes, dim_out]
                                     T* grad_weights);)  // like weights; species that are absent stay zero

}  // namespace pathtune
