// soft_threshold: a sparse delta is written into its layer's weights, at the candidates only.
//
//   S(D, d)[q] = sign(D[q]) relu(|D[q]| - d)
//   W'[i_q]    = W[i_q] + S[q]              in place; the other entries of W' are W's already
//
// for the candidates q of all layers in one call. Its derivatives are part of sampled_gradient, which is the
// only place where the gradient of W' is formed.
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace pathtune {

template <class T>
struct ThresholdedLayer {
  int64_t n_candidates;
  const T* values;         // [n_candidates] D
  const T* thresholds;     // [n_thresholds] d; or null: no threshold, S = D
  const int64_t* segment;  // [n_candidates] which threshold a candidate obeys; or null: the first
  const int64_t* indices;  // [n_candidates] ascending, into the weights
  const T* base;           // [weight_numel] W
  T* effective;            // [weight_numel] W'; or null: S only
  T* delta;                // [n_candidates] S
  int64_t n_active;        // out: entries with |D| > d, or all
  int64_t n_changed;       // out: entries of W' whose value is another now
};

PATHTUNE_DECLARE_PER_ISA(template <class T> void soft_threshold(ThresholdedLayer<T>* layers,  // [n_layers]
                                                                int64_t n_layers, int n_threads);)

}  // namespace pathtune
