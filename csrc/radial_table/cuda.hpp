// radial_table on CUDA: the contract of radial_table.hpp for tensors in device memory, slots included.
#pragma once
#include "radial_table/radial_table.hpp"

namespace pathtune::cuda {

// stream: a cudaStream_t
template <class T>
void radial_expand(const RadialTableShape&, const RadialTableSlots&, const T* coefficients,
                   const int64_t* slot, const T* r, const T* a, T* out, void* stream);
template <class T>
void radial_contract(const RadialTableShape&, const RadialTableSlots&, const T* coefficients,
                     const int64_t* slot, const T* r, const T* g, T* out, void* stream);

}  // namespace pathtune::cuda
