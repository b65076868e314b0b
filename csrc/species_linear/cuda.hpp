// The CUDA side of species_linear: the contract of species_linear.hpp, on a stream. `paths` and
// `coefficients` lie on the host, which launches one kernel for all of them (a second one where some rows are
// no multiples of 16 bytes); everything else lies on the device.
#pragma once
#include "species_linear/species_linear.hpp"

namespace pathtune::cuda {

// stream: a cudaStream_t
template <class T>
void species_linear(const SpeciesLinearShape&, const SpeciesGroups&, const SpeciesLinearPath* paths,
                    const double* coefficients, const T* x, const T* weights, T* y, void* stream);
template <class T>
void species_linear_grad_x(const SpeciesLinearShape&, const SpeciesGroups&, const SpeciesLinearPath* paths,
                           const double* coefficients, const T* grad_y, const T* weights, T* grad_x,
                           void* stream);
template <class T>
void species_linear_grad_weights(const SpeciesLinearShape&, const SpeciesGroups&,
                                 const SpeciesLinearPath* paths, const double* coefficients, const T* x,
                                 const T* grad_y, T* grad_weights, void* stream);

}  // namespace pathtune::cuda
