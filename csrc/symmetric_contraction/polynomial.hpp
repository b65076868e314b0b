// The steps that the passes of symmetric_contraction are made of, for Tile nodes and one vector of
// channels. Every array is [count][Tile] vectors and stays in the first-level cache; two nodes at a time
// share each coefficient and table entry, and hide the latency of each other's multiply-adds.
#pragma once
#include "symmetric_contraction.hpp"
#include "vector.hpp"

namespace pathtune::PATHTUNE_ISA {

template <class T, int Tile>
struct Tiled {
  Vector<T> v[Tile];
};

// mono[m] = mono[parent] a[last]
template <class T, int Tile>
inline void evaluate(const ContractionTable& t, int64_t n_monomials, const Tiled<T, Tile>* a,
                     Tiled<T, Tile>* mono) {
  for (int n = 0; n < Tile; ++n) mono[0].v[n] = Vector<T>{} + T(1);
  for (int64_t b = 0; b < t.n_branches; ++b) {
    const ContractionBranch branch = t.branches[b];
    if (branch.begin >= n_monomials) break;
    const Tiled<T, Tile> parent = mono[branch.parent];
    for (int32_t m = branch.begin; m < branch.end; ++m)
      for (int n = 0; n < Tile; ++n) mono[m].v[n] = parent.v[n] * a[t.last[m]].v[n];
  }
}

// dmono[m] = dmono[parent] a[last] + mono[parent] da[last]; mono as above
template <class T, int Tile>
inline void evaluate_dual(const ContractionTable& t, int64_t n_monomials, const Tiled<T, Tile>* a,
                          const Tiled<T, Tile>* da, Tiled<T, Tile>* mono, Tiled<T, Tile>* dmono) {
  for (int n = 0; n < Tile; ++n) {
    mono[0].v[n] = Vector<T>{} + T(1);
    dmono[0].v[n] = Vector<T>{};
  }
  for (int64_t b = 0; b < t.n_branches; ++b) {
    const ContractionBranch branch = t.branches[b];
    if (branch.begin >= n_monomials) break;
    const Tiled<T, Tile> parent = mono[branch.parent], dparent = dmono[branch.parent];
    for (int32_t m = branch.begin; m < branch.end; ++m) {
      const int32_t i = t.last[m];
      for (int n = 0; n < Tile; ++n) {
        mono[m].v[n] = parent.v[n] * a[i].v[n];
        dmono[m].v[n] = dparent.v[n] * a[i].v[n] + parent.v[n] * da[i].v[n];
      }
    }
  }
}

// out[o] += sum_q c[q] mono[m_q]
template <class T, int Tile>
inline void sum_terms(const ContractionTable& t, const Vector<T>* c, const Tiled<T, Tile>* mono,
                      Tiled<T, Tile>* out) {
  for (int64_t r = 0; r < t.n_runs; ++r) {
    const ContractionRun run = t.runs[r];
    Tiled<T, Tile> even = out[run.output], odd = {};
    int32_t q = run.begin;
    for (; q + 2 <= run.end; q += 2)
      for (int n = 0; n < Tile; ++n) {
        even.v[n] += c[q] * mono[t.term_monomial[q]].v[n];
        odd.v[n] += c[q + 1] * mono[t.term_monomial[q + 1]].v[n];
      }
    if (q < run.end)
      for (int n = 0; n < Tile; ++n) even.v[n] += c[q] * mono[t.term_monomial[q]].v[n];
    for (int n = 0; n < Tile; ++n) out[run.output].v[n] = even.v[n] + odd.v[n];
  }
}

// to += sum_{q: m_q = m} g[o_q] c[q] for one monomial: the transpose of sum_terms
template <class T, int Tile>
inline void add_own_share(const ContractionTable& t, const Vector<T>* c, const Tiled<T, Tile>* g, int32_t m,
                          Tiled<T, Tile>& to) {
  for (int32_t k = t.first_use[m]; k < t.first_use[m + 1]; ++k) {
    const ContractionUse use = t.uses[k];
    for (int n = 0; n < Tile; ++n) to.v[n] += g[use.output].v[n] * c[use.term];
  }
}

// gc[q] += sum_n g[o_q] mono[m_q]
template <class T, int Tile>
inline void accumulate_terms(const ContractionTable& t, const Tiled<T, Tile>* g, const Tiled<T, Tile>* mono,
                             Vector<T>* gc) {
  for (int64_t r = 0; r < t.n_runs; ++r) {
    const ContractionRun run = t.runs[r];
    const Tiled<T, Tile> g_o = g[run.output];
    for (int32_t q = run.begin; q < run.end; ++q) {
      Vector<T> sum = gc[q];
      for (int n = 0; n < Tile; ++n) sum += g_o.v[n] * mono[t.term_monomial[q]].v[n];
      gc[q] = sum;
    }
  }
}

// The reverse of evaluate: ga[i] += d/da[i] sum_q g[o_q] c[q] mono[m_q]. gmono is d/dmono.
//   gmono[m] = own_share(m) + sum over children k of gmono[k] a[last[k]]
//   ga[last[m]] += gmono[m] mono[parent]
// Only monomials that may have children keep gmono in memory, and it holds their children's part.
template <class T, int Tile>
inline void reverse(const ContractionTable& t, const Vector<T>* c, const Tiled<T, Tile>* g,
                    const Tiled<T, Tile>* a, const Tiled<T, Tile>* mono, Tiled<T, Tile>* gmono,
                    Tiled<T, Tile>* ga) {
  for (int64_t m = 0; m < t.n_inner; ++m) gmono[m] = {};
  for (int64_t b = t.n_branches - 1; b >= 0; --b) {
    const ContractionBranch branch = t.branches[b];
    const Tiled<T, Tile> parent = mono[branch.parent];
    Tiled<T, Tile> gparent = {};
    for (int32_t m = branch.begin; m < branch.end; ++m) {
      const int32_t i = t.last[m];
      Tiled<T, Tile> gm = {};
      if (m < t.n_inner) gm = gmono[m];
      add_own_share(t, c, g, m, gm);
      for (int n = 0; n < Tile; ++n) {
        gparent.v[n] += gm.v[n] * a[i].v[n];
        ga[i].v[n] += gm.v[n] * parent.v[n];
      }
    }
    gmono[branch.parent] = gparent;
  }
}

// The reverse of evaluate_dual, of sum_q g[o_q] (c[q] dmono[m_q] + ac[q] mono[m_q]); ac may be nullptr.
//   gdmono[parent] += gdmono[m] a[last];  gmono[parent] += gmono[m] a[last] + gdmono[m] da[last]
//   ga[last] += gmono[m] mono[parent] + gdmono[m] dmono[parent]
template <class T, int Tile>
inline void reverse_dual(const ContractionTable& t, const Vector<T>* c, const Vector<T>* ac,
                         const Tiled<T, Tile>* g, const Tiled<T, Tile>* a, const Tiled<T, Tile>* da,
                         const Tiled<T, Tile>* mono, const Tiled<T, Tile>* dmono, Tiled<T, Tile>* gmono,
                         Tiled<T, Tile>* gdmono, Tiled<T, Tile>* ga) {
  for (int64_t m = 0; m < t.n_inner; ++m) gmono[m] = gdmono[m] = {};
  for (int64_t b = t.n_branches - 1; b >= 0; --b) {
    const ContractionBranch branch = t.branches[b];
    const Tiled<T, Tile> parent = mono[branch.parent], dparent = dmono[branch.parent];
    Tiled<T, Tile> gparent = {}, gdparent = {};
    for (int32_t m = branch.begin; m < branch.end; ++m) {
      const int32_t i = t.last[m];
      Tiled<T, Tile> gm = {}, gdm = {};
      if (m < t.n_inner) {
        gm = gmono[m];
        gdm = gdmono[m];
      }
      add_own_share(t, c, g, m, gdm);
      if (ac) add_own_share(t, ac, g, m, gm);
      for (int n = 0; n < Tile; ++n) {
        gdparent.v[n] += gdm.v[n] * a[i].v[n];
        gparent.v[n] += gm.v[n] * a[i].v[n] + gdm.v[n] * da[i].v[n];
        ga[i].v[n] += gm.v[n] * parent.v[n] + gdm.v[n] * dparent.v[n];
      }
    }
    gmono[branch.parent] = gparent;
    gdmono[branch.parent] = gdparent;
  }
}

}  // namespace pathtune::PATHTUNE_ISA
