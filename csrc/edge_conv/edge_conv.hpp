// edge_conv: gather, channel-wise ('uvu') tensor product and scatter in one pass over the edges.
//
//   F(x, y, w, g) = sum_{e, p, i, j, k, u} C_p[i,j,k] x[sender_e, i, u] y[e, j] w[row_e, p, u] g[receiver_e,
//   k, u]
//
// The operator is dF/dg. F is linear in each slot, so that its backward is (dF/dx, dF/dy, dF/dw), and its
// double backward the gradient of ax dF/dx + ay dF/dy + aw dF/dw with respect to (g, x, y, w). Layout
// ir_mul: i, j, k count components, u the channels of the path. Several paths may add into one block of out,
// or stand side by side in it (SevenNet's linears read all paths to one irrep as one block).
#pragma once
#include <cstdint>

#include "isa.hpp"

namespace pathtune {

struct EdgeConvPath {
  int64_t in_offset;           // of the block [dim1, mul] in a row of x
  int64_t y_offset;            // of dim2 components in a row of y
  int64_t out_offset;          // of the path's first channel in a row of out
  int64_t weight_offset;       // of mul weights in a row of w
  int64_t coefficient_offset;  // of C [dim1, dim2, dim3]
  int64_t mul;
  int64_t dim1;  // 2 l1 + 1
  int64_t dim2;
  int64_t dim3;
  int64_t out_mul;  // channels of its block of out [dim3, out_mul], of which mul are the path's
};

struct EdgeConvShape {
  int64_t n_nodes;
  int64_t n_edges;
  int64_t n_rows;        // of w; fewer than n_edges where edges share a row
  int64_t dim_in;        // row length of x
  int64_t dim_y;         // row length of y
  int64_t dim_out;       // row length of out
  int64_t weight_numel;  // row length of w
  int64_t n_paths;
  int n_threads;
};

// Edges are sorted by receiver: those of node n are receiver_ptr[n] .. receiver_ptr[n+1] - 1.
struct EdgeConvGraph {
  const int64_t* sender;        // [n_edges]
  const int64_t* receiver_ptr;  // [n_nodes + 1]
  const int64_t* sender_order;  // [n_edges] edges sorted by sender, ascending for each sender
  const int64_t* sender_ptr;    // [n_nodes + 1] into sender_order
  const int64_t* weight_row;    // [n_edges] the row of w that an edge reads
  const int64_t* row_ptr;       // [n_rows + 1] into row_edges
  const int64_t* row_edges;     // [n_edges] edges sorted by row
};

template <class T>
struct EdgeConvInputs {
  const T* x;  // [n_nodes, dim_in]
  const T* y;  // [n_edges, dim_y]
  const T* w;  // [n_rows, weight_numel]
  const T* g;  // [n_nodes, dim_out] cotangent of out; null in the forward
};

// Adjoints of the backward's results, shaped like x, y, w; null where absent.
template <class T>
struct EdgeConvAdjoints {
  const T* ax;
  const T* ay;
  const T* aw;
};

// Gradients shaped like g, x, y, w, each fully overwritten; null where not wanted.
template <class T>
struct EdgeConvOutputs {
  T* gg;
  T* gx;
  T* gy;
  T* gw;
};

PATHTUNE_DECLARE_PER_ISA(
    // outputs.gg = dF/dg
    template <class T> void edge_conv(const EdgeConvShape&, const EdgeConvGraph&,
                                      const EdgeConvPath* paths,   // [n_paths]
                                      const double* coefficients,  // each path's C, one after the other
                                      const EdgeConvInputs<T>&, const EdgeConvOutputs<T>&);
    // outputs.gx, gy, gw = dF/dx, dF/dy, dF/dw
    template <class T>
    void edge_conv_backward(const EdgeConvShape&, const EdgeConvGraph&, const EdgeConvPath* paths,
                            const double* coefficients, const EdgeConvInputs<T>&, const EdgeConvOutputs<T>&);
    // outputs = gradient of (ax dF/dx + ay dF/dy + aw dF/dw)
    template <class T>
    void edge_conv_double_backward(const EdgeConvShape&, const EdgeConvGraph&, const EdgeConvPath* paths,
                                   const double* coefficients, const EdgeConvInputs<T>&,
                                   const EdgeConvAdjoints<T>&, const EdgeConvOutputs<T>&);)

}  // namespace pathtune
