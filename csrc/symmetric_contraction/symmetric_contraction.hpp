// symmetric_contraction: per species and channel one polynomial in the components of A.
//
//   out[n, o, u] = sum_{q: o_q = o} c[s_n, q, u] mono[n, m_q, u]
//   mono[n, m, u] = product of a[n, i, u] over the indices i of monomial m
//
// Each term q is one coefficient: a monomial that feeds one output component. Coefficients are a linear
// map of the weights, made once per step for the species present (python/pathtune/tables/contraction.py).
// Monomials form a tree, which the outputs share: mono[m] = mono[parent] a[last[m]], mono[0] = 1.
//
// With F = sum g_o out_o, the backward is gA = dF/da and gc = dF/dc. The double backward differentiates
// S = <aA, gA> + <ac, gc> = sum_q g_{o_q} (c_q dmono[m_q] + ac_q mono[m_q]), where dmono is the change of
// mono along aA (dual numbers): dmono[m] = dmono[parent] a[last] + mono[parent] aA[last].
// Layout ir_mul: i and o count components, u the channels.
#pragma once
#include <cstdint>

#include "isa.hpp"
#include "species_linear/species_linear.hpp"  // SpeciesGroups

namespace pathtune {

// int32: the tables are read for every node and share the first-level cache with the monomials.
struct ContractionBranch {
  int32_t parent;  // its children are monomials begin .. end - 1; a parent comes before its children
  int32_t begin;
  int32_t end;
};

struct ContractionRun {
  int32_t output;  // terms begin .. end - 1 add to this output component
  int32_t begin;
  int32_t end;
};

struct ContractionUse {
  int32_t term;
  int32_t output;
};

// The terms twice: by output component for the forward, by monomial for the reverse.
struct ContractionTable {
  const ContractionBranch* branches;  // [n_branches]
  const int32_t* last;                // [n_monomials]
  const ContractionRun* runs;         // [n_runs]
  const int32_t* term_monomial;       // [n_terms]
  const int32_t* first_use;           // [n_monomials + 1]: uses first_use[m] .. first_use[m + 1] - 1 are of m
  const ContractionUse* uses;         // [n_terms]
  int64_t n_ell;                      // components of a
  int64_t n_out;                      // components of out
  int64_t n_monomials;                // the empty one, mono[0], included
  int64_t n_inner;                    // monomials 0 .. n_inner - 1 may have children, the others have none
  int64_t n_terms;
  int64_t n_branches;
  int64_t n_runs;
};

struct ContractionShape {
  int64_t n_nodes;
  int64_t mul;
  int64_t n_present;  // species that occur in this batch
  int n_threads;
};

// Every output is overwritten, not added to; one that is nullptr is not needed, and its work is skipped.
PATHTUNE_DECLARE_PER_ISA(
    template <class T>
    void symmetric_contraction(const ContractionShape&, const SpeciesGroups&, const ContractionTable&,
                               const T* a,             // [n_nodes, n_ell, mul]
                               const T* coefficients,  // [n_present, n_terms, mul]
                               T* out);                // [n_nodes, n_out, mul]
    template <class T>
    void symmetric_contraction_backward(const ContractionShape&, const SpeciesGroups&,
                                        const ContractionTable&,
                                        const T* grad_out,      // [n_nodes, n_out, mul]
                                        const T* a,             // [n_nodes, n_ell, mul]
                                        const T* coefficients,  // [n_present, n_terms, mul]
                                        T* grad_a,              // [n_nodes, n_ell, mul] or nullptr
                                        T* grad_coefficients);  // [n_present, n_terms, mul] or nullptr
    template <class T> void symmetric_contraction_double_backward(
        const ContractionShape&, const SpeciesGroups&, const ContractionTable&,
        const T* adjoint_a,             // [n_nodes, n_ell, mul], of grad_a
        const T* adjoint_coefficients,  // [n_present, n_terms, mul], of grad_coefficients, or nullptr: zero
        const T* grad_out,              // [n_nodes, n_out, mul]
        const T* a,                     // [n_nodes, n_ell, mul]
        const T* coefficients,          // [n_present, n_terms, mul]
        T* grad_grad_out,               // [n_nodes, n_out, mul] or nullptr
        T* grad_a,                      // [n_nodes, n_ell, mul] or nullptr
        T* grad_coefficients);)         // [n_present, n_terms, mul] or nullptr

}  // namespace pathtune
