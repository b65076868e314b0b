// What edge_conv gets from Python: python/pathtune/ops/edge_conv.py, and _edge_conv_cuda.py for CUDA.
#pragma once
#include "edge_conv/edge_conv.hpp"
#include "record.hpp"

namespace pathtune {

namespace record {
PATHTUNE_RECORD(EdgeConvSizes, n_nodes, n_edges, n_rows, dim_in, dim_y, dim_out, weight_numel, n_paths)
PATHTUNE_RECORD(EdgeConvIndex, sender, receiver_ptr, sender_order, sender_ptr, weight_row, row_ptr, row_edges,
                paths, coefficients)
PATHTUNE_RECORD(EdgeConvInputs, x, y, w, g)
PATHTUNE_RECORD(EdgeConvAdjoints, ax, ay, aw)
PATHTUNE_RECORD(EdgeConvOutputs, gg, gx, gy, gw)
// for CUDA
PATHTUNE_RECORD(ConvSizes, n_paths, n_blocks, n_batches, n_slots, n_in_slots, max_m, max_mul)
PATHTUNE_RECORD(ConvTable, paths, blocks, batches, contract_ptr, contract_index, contract_value,
                transposed_ptr, transposed_index, transposed_value)
PATHTUNE_RECORD(ConvCut, vector, chunk)
PATHTUNE_RECORD(ConvWants, value, gradient, gy, adjoint)
}  // namespace record

inline EdgeConvShape shape_of(const record::EdgeConvSizes& sizes, int n_threads) {
  return {.n_nodes = sizes.n_nodes,
          .n_edges = sizes.n_edges,
          .n_rows = sizes.n_rows,
          .dim_in = sizes.dim_in,
          .dim_y = sizes.dim_y,
          .dim_out = sizes.dim_out,
          .weight_numel = sizes.weight_numel,
          .n_paths = sizes.n_paths,
          .n_threads = n_threads};
}

inline EdgeConvGraph graph_of(const record::EdgeConvIndex& index) {
  return {.sender = at<const int64_t>(index.sender),
          .receiver_ptr = at<const int64_t>(index.receiver_ptr),
          .sender_order = at<const int64_t>(index.sender_order),
          .sender_ptr = at<const int64_t>(index.sender_ptr),
          .weight_row = at<const int64_t>(index.weight_row),
          .row_ptr = at<const int64_t>(index.row_ptr),
          .row_edges = at<const int64_t>(index.row_edges)};
}

template <class T>
EdgeConvInputs<T> inputs_of(const record::EdgeConvInputs& tensors) {
  return {.x = at<const T>(tensors.x),
          .y = at<const T>(tensors.y),
          .w = at<const T>(tensors.w),
          .g = at<const T>(tensors.g)};
}

template <class T>
EdgeConvAdjoints<T> adjoints_of(const record::EdgeConvAdjoints& tensors) {
  return {.ax = at<const T>(tensors.ax), .ay = at<const T>(tensors.ay), .aw = at<const T>(tensors.aw)};
}

template <class T>
EdgeConvOutputs<T> outputs_of(const record::EdgeConvOutputs& tensors) {
  return {.gg = at<T>(tensors.gg), .gx = at<T>(tensors.gx), .gy = at<T>(tensors.gy), .gw = at<T>(tensors.gw)};
}

}  // namespace pathtune
