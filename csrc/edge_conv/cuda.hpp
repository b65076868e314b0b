// edge_conv on CUDA: what the launchers get from the host. Formulas and contract: edge_conv.hpp; what Python
// makes of a table of paths: python/pathtune/ops/_edge_conv_cuda.py.
#pragma once
#include <cstdint>

#include "edge_conv/edge_conv.hpp"

namespace pathtune::cuda {

struct ConvPath {
  int32_t in_offset, weight_offset, out_offset, out_mul;  // as in EdgeConvPath
  int32_t mul, dim1, dim3;
  int32_t slot;      // of its first component among those of out
  int32_t in_slot;   // of its first component among those of x
  int32_t m_offset;  // of M [dim3, dim1] among those of its batch
};

// Components of out that one or several paths add to: [dim3, mul] in rows of out_mul.
struct ConvBlock {
  int32_t out_offset, out_mul, mul, dim3;
  int32_t slot;
};

// A sparse matrix by rows.
template <class T>
struct SparseRows {
  const int32_t* ptr;
  const int32_t* index;
  const T* value;
};

// In device memory. Paths are sorted by in_offset, and cut into batches whose M stay in shared memory
// together.
template <class T>
struct ConvTable {
  const ConvPath* paths;
  const ConvBlock* blocks;
  const int32_t* batches;    // [n_batches + 1, 2] first path, first row of `contract`
  SparseRows<T> contract;    // M = contract y: rows are the batches' M, one after the other
  SparseRows<T> transposed;  // gy += transposed gM: rows are [n_batches, dim_y]
};

// On the host: all that a launch depends on.
struct ConvSizes {
  int64_t n_paths, n_blocks, n_batches;
  int64_t n_slots;     // components of out
  int64_t n_in_slots;  // components of x
  int64_t max_m;       // M of the largest batch
  int64_t max_mul;
};

// How the receivers' channels are cut into blocks.
struct ConvCut {
  int64_t vector;  // channels of a thread
  int64_t chunk;   // channels of a block, a multiple of `vector`
};

// What a pass computes, and with which inputs.
struct ConvWants {
  bool value, gradient, gy, adjoint;
};

// Channels of a block; throws std::runtime_error if not even one thread's fit.
template <class T>
int64_t conv_chunk(const EdgeConvShape&, const ConvSizes&, const ConvWants&, int64_t vector);

// How gw is written.
enum class WeightRows : int {
  add,       // several edges share a row: onto zeros
  store,     // no two edges share a row
  per_edge,  // gw is [n_edges, weight_numel]
};

// The pass over receivers. gx is added onto zeros; components of gg without a path are left alone; gy is
// [n_chunks, n_edges, dim_y], a part for each chunk of channels. `order`: 0 forward, 1 backward, 2 double
// backward.
template <class T>
void edge_conv_receivers(int order, const EdgeConvShape&, const EdgeConvGraph&, const ConvSizes&,
                         const ConvTable<T>&, const ConvCut&, WeightRows, const EdgeConvInputs<T>&,
                         const EdgeConvAdjoints<T>&, const EdgeConvOutputs<T>&, void* stream);

// gx alone, without atomics; components without a path are left alone. receiver: [n_edges]
template <class T>
void edge_conv_senders(const EdgeConvShape&, const EdgeConvGraph&, const int64_t* receiver, const ConvSizes&,
                       const ConvTable<T>&, bool adjoint, const EdgeConvInputs<T>&,
                       const EdgeConvAdjoints<T>&, T* gx, void* stream);

// to[n] = sum over parts of from[n_parts, n]
template <class T>
void edge_conv_sum_parts(const T* from, T* to, int64_t n_parts, int64_t n, void* stream);

}  // namespace pathtune::cuda
