// sampled_gradient: the weight gradient of a species linear or a path linear, at candidate entries only.
//
//   out[q] = c_p sum_{n: species[n] = s_q} sum_k x[n, in_p, k, u_q] g[n, out_p, k, v_q]
//
// q = (p, s, u, v) runs over the candidates; the dense product x^T g is never formed. A path linear is a
// species linear of one species to which every node belongs. With (x, g) = (input, cotangent) it is one term
// of a force loss's weight gradient, with (adjoint of the force pass's gradient, cotangent) the other.
//
// The index below is made once for a set of candidates (python/pathtune/ops/sampled_gradient.py): a call
// sorts nothing. Only tiles of `tile_channels` channels that hold a candidate are read; a tile's channels
// have consecutive rows in the transposed copy, whose rows the runs and v_row count.
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
  const int32_t* place;        // [n_candidates] of a grouped candidate in out
  int64_t n_blocks;
  int64_t n_candidates;
};

// Overwrites out; candidates whose species is absent get zero. shape.n_nodes etc. as in species_linear.
PATHTUNE_DECLARE_PER_ISA(template <class T>
                         void sampled_gradient(const SpeciesLinearShape&, const SpeciesGroups&,
                                               const SampledIndex&,
                                               const SpeciesLinearPath* paths,  // [n_paths]
                                               const double* coefficients,      // [n_paths]
                                               const T* x,                      // [n_nodes, dim_in]
                                               const T* g,                      // [n_nodes, dim_out]
                                               T* out);)                        // [n_candidates]

}  // namespace pathtune
