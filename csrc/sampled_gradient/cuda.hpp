// sampled_gradient on CUDA: the contract of sampled_gradient.hpp for tensors in device memory. Sizes come
// from the host; a species' number of rows, which lies on the device, is read there.
//
// In place of the index of the CPU there is a table of items, made once for a set of candidates and a device
// (python/pathtune/ops/_sampled_cuda.py).
#pragma once
#include <cstdint>

#include "sampled_gradient/sampled_gradient.hpp"

namespace pathtune::cuda {

constexpr int sampled_item_size = 256;  // most candidates of an item: one for each thread of a block
// Most channels that the candidates of an item may span; an item begins at a multiple of 4 channels.
constexpr int sampled_u_channels = 128;
constexpr int sampled_v_channels = 192;
constexpr int sampled_terms_at_once = 2;  // those of a force loss

// A stretch of candidates of one path and one species, and the channels of x and g that they span.
struct SampledItem {
  int32_t x_begin, x_width,
      x_stride;  // first channel in a row of x, their number, from component to component
  int32_t g_begin, g_width, g_stride;  // and of g
  int32_t n_components;                // 2l + 1
  int32_t species;
  int32_t first, last;  // candidates, in the order of the items
  double coefficient;
};

struct SampledChannels {  // of a candidate, counted from its item's first ones
  int16_t u, v;
};

// A chunk is one of `n_chunks` equal parts of a species' rows. There is a slot for each chunk of each two
// terms.
template <class T>
struct SampledDeviceLayer {
  const SampledItem* items;         // [n_items]
  const SampledChannels* channels;  // [n_candidates] in the order of the items
  const int32_t* place;             // [n_candidates] in the layer; or null: the same order
  int64_t n_items, n_candidates, dim_in, dim_out;
  const SampledTerm<T>* terms;  // [n_terms] on the host
  int64_t n_terms, n_chunks;
  T* partial;              // workspace [n_slots, n_candidates]
  const T* other;          // these as in SampledLayer
  const T* delta;          //
  const int64_t* segment;  //
  int64_t n_thresholds;
  double* block_sums;  // workspace [ceil(n_candidates / sampled_item_size), n_thresholds]
  T* grad_values;
  T* grad_thresholds;
};

// Overwrites the gradients. stream: a cudaStream_t.
template <class T>
void sampled_gradient(const SampledDeviceLayer<T>* layers,  // [n_layers] on the host
                      int64_t n_layers, void* stream);

}  // namespace pathtune::cuda
