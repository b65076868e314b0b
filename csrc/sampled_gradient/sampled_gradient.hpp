// sampled_gradient: the gradient of a sparse delta, W' = W + S(D, d), at its candidates only.
//
//   a[q]      = c_p sum_t sum_{n: species[n] = s_q} sum_k x_t[n, in_p, k, u_q] g_t[n, out_p, k, v_q]
//   dL/dD[q]  = a[q] where q is active, |D[q]| > d, else 0
//   dL/dd     = - sum over the active q of sign(D[q]) a[q]
//
// Where a candidate is active and which sign it has is read off S(D, d): no optimizer step can change it
// between the forward and the backward pass.
//
// q = (p, s, u, v) runs over the candidates of a layer, all layers in one call; the dense product x^T g is
// never formed. A path linear is a species linear of one species to which every node belongs. A force loss
// has two terms t: (input, adjoint of the output), and (adjoint of the force pass's gradient of the input,
// cotangent of the output).
//
// The index below is made once for a set of candidates (csrc/candidates): a call sorts nothing. Only tiles of
// `tile_channels` channels that hold a candidate are read; a tile's channels have consecutive rows in the
// transposed copy, whose rows the runs and v_row count.
#pragma once
#include <cstdint>

#include "isa.hpp"
#include "species_linear/species_linear.hpp"

namespace pathtune {

constexpr int64_t tile_channels = 16;  // a multiple of the lanes of every instruction set

// Candidates of one path and one species, which sum over the same rows (n, k).
struct SampledBlock {
  int64_t path;
  int64_t species;
  int64_t candidate_begin, candidate_end;
  int64_t run_begin, run_end;
  int64_t u_tile_begin, u_tile_end;
  int64_t v_tile_begin, v_tile_end;
};

// Successive candidates of a block that share u: from the previous run's end (or the block's begin) to `end`.
struct SampledRun {
  int32_t u_row;
  int32_t end;
};

struct SampledIndex {
  const SampledBlock* blocks;  // [n_blocks]
  const SampledRun* runs;      // [n_runs]
  const int32_t* u_tiles;      // [n_u_tiles] first channel of each tile of x
  const int32_t* v_tiles;      // [n_v_tiles] and of g
  const int32_t* v_row;        // [n_candidates] grouped by block and run
  const int32_t* place;        // [n_candidates] of a grouped candidate among the layer's
  int64_t n_blocks;
  int64_t n_candidates;
};

// One product of a layer; the nodes may be others from term to term.
template <class T>
struct SampledTerm {
  const T* x;  // [n_nodes, dim_in]
  const T* g;  // [n_nodes, dim_out]
  SpeciesGroups groups;
  int64_t n_present;
};

template <class T>
struct SampledLayer {
  SampledIndex candidates;
  const SpeciesLinearPath* paths;  // [n_paths]
  const double* coefficients;      // [n_paths]
  int64_t dim_in, dim_out;
  const SampledTerm<T>* terms;  // [n_terms]; none: only `other` counts
  int64_t n_terms;
  const T* other;          // [n_candidates] added to a: what reaches S on another way; or null
  const T* delta;          // [n_candidates] S(D, d); or null: no threshold, every candidate is active
  const int64_t* segment;  // [n_candidates] which threshold a candidate obeys; or null: the first
  int64_t n_thresholds;
  T* grad_values;      // [n_candidates] dL/dD
  T* grad_thresholds;  // [n_thresholds] dL/dd
};

// Overwrites the gradients; an absent species adds nothing to its candidates.
PATHTUNE_DECLARE_PER_ISA(template <class T>
                         void sampled_gradient(const SampledLayer<T>* layers,  // [n_layers]
                                               int64_t n_layers, int n_threads);)

}  // namespace pathtune
