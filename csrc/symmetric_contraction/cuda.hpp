// The CUDA side of symmetric_contraction: the contract of symmetric_contraction.hpp, on a stream, with
// another table of the same terms. Everything lies on the device.
//
// A segment is up to four terms of one output component whose monomials are head times a[tail]: the product
// of the head is taken once, and the terms share the rest by Horner's rule, out_o += head sum_j c_j
// a[tail_j]. All monomials are padded to the same number of factors by the index n_ell, where the kernels put
// a one.
#pragma once
#include "symmetric_contraction/symmetric_contraction.hpp"

namespace pathtune::cuda {

struct alignas(16) ContractionSegment {
  int32_t term[4];
  int16_t n_terms;  // 1 .. 4
  int16_t output;
  int16_t head[2];
  int16_t tail[4];
};

struct ContractionSegments {
  const ContractionSegment* segments;  // [n_segments], by rising output; each term is in one of them
  const int32_t* more;                 // [n_segments, n_more]: the head's factors after the second
  int64_t n_segments;
  int64_t n_more;  // highest degree - 3, or 0
  int64_t n_ell;
  int64_t n_out;
  int64_t n_terms;
};

// As those of symmetric_contraction.hpp; stream: a cudaStream_t. Throw std::runtime_error where so many
// components do not fit in shared memory.
template <class T>
void symmetric_contraction(const ContractionShape&, const SpeciesGroups&, const ContractionSegments&,
                           const T* a, const T* coefficients, T* out, void* stream);
template <class T>
void symmetric_contraction_backward(const ContractionShape&, const SpeciesGroups&, const ContractionSegments&,
                                    const T* grad_out, const T* a, const T* coefficients, T* grad_a,
                                    T* grad_coefficients, void* stream);
template <class T>
void symmetric_contraction_double_backward(const ContractionShape&, const SpeciesGroups&,
                                           const ContractionSegments&, const T* adjoint_a,
                                           const T* adjoint_coefficients, const T* grad_out, const T* a,
                                           const T* coefficients, T* grad_grad_out, T* grad_a,
                                           T* grad_coefficients, void* stream);

// The part of both backwards that sums over nodes (cuda_coefficients.cu): grad_coefficients of mono, or of
// its change along adjoint_a where that is not nullptr.
template <class T>
void contraction_grad_coefficients(const char* op, const ContractionShape&, const SpeciesGroups&,
                                   const ContractionSegments&, const T* adjoint_a, const T* grad_out,
                                   const T* a, T* grad_coefficients, void* stream);

}  // namespace pathtune::cuda
