// out[n, o, u] = sum_{q: o_q = o} c[s_n, q, u] mono[n, m_q, u] and its derivatives, see the header.
//
// Lanes are channels. Parallel axis: (species present, vector of channels, stretch of its nodes). A task
// packs its species' coefficients once, so that they stay in cache for all of its nodes and ragged tails
// end there; it owns its rows of out and grad_a. grad_coefficients sums over nodes: the first stretch
// writes, the others have a slot each, added in the order of nodes: no atomics, deterministic.
#include <algorithm>

#include "list.hpp"
#include "polynomial.hpp"

namespace pathtune::PATHTUNE_ISA {
namespace {

constexpr int tile = 2;              // nodes at a time
constexpr int64_t least_nodes = 16;  // per task: below, packing the coefficients would show

struct Task {
  int64_t group;    // index into present
  int64_t channel;  // first of the vector
  int64_t begin;    // into order
  int64_t end;
  int64_t slot;  // of partial sums; -1: the first stretch of (group, channel)
};

struct Tasks {
  List<Task> list;
  int64_t n_slots = 0;
};

// Enough tasks for every thread to get four, whatever the species; each group has one even if it is empty.
Tasks make_tasks(const ContractionShape& shape, const SpeciesGroups& groups, int64_t lanes) {
  Tasks tasks;
  const int64_t n_vectors = (shape.mul + lanes - 1) / lanes;
  const int64_t share = shape.n_nodes * n_vectors / (4 * std::max(shape.n_threads, 1)) + 1;
  const int64_t stretch = std::max(share, least_nodes);
  for (int64_t s = 0; s < shape.n_present; ++s)
    for (int64_t u = 0; u < shape.mul; u += lanes) {
      int64_t begin = groups.ptr[s];
      const int64_t end = groups.ptr[s + 1];
      tasks.list.push_back({s, u, begin, std::min(begin + stretch, end), -1});
      for (begin += stretch; begin < end; begin += stretch)
        tasks.list.push_back({s, u, begin, std::min(begin + stretch, end), tasks.n_slots++});
    }
  return tasks;
}

// One vector of channels out of rows of `mul`, ragged at the end.
template <class T>
struct Channels {
  int64_t mul;
  int64_t first;
  int tail;  // > 0: only so many lanes exist

  Channels(int64_t mul, int64_t first)
      : mul(mul), first(first), tail(mul - first < n_lanes<T> ? int(mul - first) : 0) {}
  Vector<T> read(const T* rows, int64_t row) const {
    const T* from = rows + row * mul + first;
    return tail ? load_partial(from, tail) : load(from);
  }
  void write(T* rows, int64_t row, Vector<T> v) const {
    T* to = rows + row * mul + first;
    tail ? store_partial(to, v, tail) : store(to, v);
  }
  template <int Tile>
  void read_nodes(const T* x, int64_t n_components, const int64_t* nodes, Tiled<T, Tile>* to) const {
    for (int n = 0; n < Tile; ++n)
      for (int64_t i = 0; i < n_components; ++i) to[i].v[n] = read(x, nodes[n] * n_components + i);
  }
  template <int Tile>
  void write_nodes(T* x, int64_t n_components, const int64_t* nodes, const Tiled<T, Tile>* from) const {
    for (int n = 0; n < Tile; ++n)
      for (int64_t i = 0; i < n_components; ++i) write(x, nodes[n] * n_components + i, from[i].v[n]);
  }
};

// What one thread works in, for any tile up to `tile`: [count][Tile] vectors each.
template <class T>
class Scratch {
 public:
  explicit Scratch(const ContractionTable& t)
      : components_(4 * size_t(std::max(t.n_ell, t.n_out)) * tile),
        monomials_(4 * size_t(t.n_monomials) * tile),
        terms_(3 * size_t(t.n_terms)),
        n_components_(std::max(t.n_ell, t.n_out)),
        n_monomials_(t.n_monomials),
        n_terms_(t.n_terms) {}
  template <int Tile>
  Tiled<T, Tile>* components(int which) {
    return reinterpret_cast<Tiled<T, Tile>*>(components_.data() + which * n_components_ * tile);
  }
  template <int Tile>
  Tiled<T, Tile>* monomials(int which) {
    return reinterpret_cast<Tiled<T, Tile>*>(monomials_.data() + which * n_monomials_ * tile);
  }
  Vector<T>* terms(int which) { return terms_.data() + which * n_terms_; }

 private:
  List<Vector<T>> components_, monomials_, terms_;
  int64_t n_components_, n_monomials_, n_terms_;
};

template <class T, int Tile>
Tiled<T, Tile>* zeroed(Tiled<T, Tile>* x, int64_t n) {
  std::fill(x, x + n, Tiled<T, Tile>{});
  return x;
}

// Every argument of every pass; a pass uses some. Shapes in symmetric_contraction.hpp.
template <class T>
struct Arguments {
  const T *adjoint_a, *adjoint_coefficients, *grad_out, *a, *coefficients;
  T *out, *grad_a, *grad_coefficients;
};

struct Forward {
  template <class T, int Tile>
  static void nodes(const ContractionTable& t, const Arguments<T>& x, const Channels<T>& channels,
                    const int64_t* nodes, Scratch<T>& scratch) {
    auto* a = scratch.template components<Tile>(0);
    auto* mono = scratch.template monomials<Tile>(0);
    auto* out = zeroed(scratch.template components<Tile>(1), t.n_out);
    channels.read_nodes(x.a, t.n_ell, nodes, a);
    evaluate(t, t.n_monomials, a, mono);
    sum_terms(t, scratch.terms(0), mono, out);
    channels.write_nodes(x.out, t.n_out, nodes, out);
  }
};

struct Backward {
  template <class T, int Tile>
  static void nodes(const ContractionTable& t, const Arguments<T>& x, const Channels<T>& channels,
                    const int64_t* nodes, Scratch<T>& scratch) {
    auto* a = scratch.template components<Tile>(0);
    auto* g = scratch.template components<Tile>(1);
    auto* mono = scratch.template monomials<Tile>(0);
    channels.read_nodes(x.a, t.n_ell, nodes, a);
    channels.read_nodes(x.grad_out, t.n_out, nodes, g);
    // Only grad_coefficients reads monomials without children.
    evaluate(t, x.grad_coefficients ? t.n_monomials : t.n_inner, a, mono);
    if (x.grad_coefficients) accumulate_terms(t, g, mono, scratch.terms(2));
    if (x.grad_a) {
      auto* gmono = scratch.template monomials<Tile>(1);
      auto* ga = zeroed(scratch.template components<Tile>(2), t.n_ell);
      reverse(t, scratch.terms(0), g, a, mono, gmono, ga);
      channels.write_nodes(x.grad_a, t.n_ell, nodes, ga);
    }
  }
};

struct DoubleBackward {
  template <class T, int Tile>
  static void nodes(const ContractionTable& t, const Arguments<T>& x, const Channels<T>& channels,
                    const int64_t* nodes, Scratch<T>& scratch) {
    auto* a = scratch.template components<Tile>(0);
    auto* g = scratch.template components<Tile>(1);
    auto* da = scratch.template components<Tile>(2);
    auto* result = scratch.template components<Tile>(3);
    auto* mono = scratch.template monomials<Tile>(0);
    auto* dmono = scratch.template monomials<Tile>(1);
    channels.read_nodes(x.a, t.n_ell, nodes, a);
    channels.read_nodes(x.grad_out, t.n_out, nodes, g);
    channels.read_nodes(x.adjoint_a, t.n_ell, nodes, da);
    // Only grad_a alone does without the monomials that have no children.
    evaluate_dual(t, x.out || x.grad_coefficients ? t.n_monomials : t.n_inner, a, da, mono, dmono);
    if (x.out) {
      zeroed(result, t.n_out);
      sum_terms(t, scratch.terms(0), dmono, result);
      if (x.adjoint_coefficients) sum_terms(t, scratch.terms(1), mono, result);
      channels.write_nodes(x.out, t.n_out, nodes, result);
    }
    if (x.grad_coefficients) accumulate_terms(t, g, dmono, scratch.terms(2));
    if (x.grad_a) {
      auto* gmono = scratch.template monomials<Tile>(2);
      auto* gdmono = scratch.template monomials<Tile>(3);
      zeroed(result, t.n_ell);
      reverse_dual(t, scratch.terms(0), x.adjoint_coefficients ? scratch.terms(1) : nullptr, g, a, da, mono,
                   dmono, gmono, gdmono, result);
      channels.write_nodes(x.grad_a, t.n_ell, nodes, result);
    }
  }
};

template <class T>
void pack(const ContractionTable& t, const T* coefficients, int64_t group, const Channels<T>& channels,
          Vector<T>* packed) {
  for (int64_t q = 0; q < t.n_terms; ++q) packed[q] = channels.read(coefficients, group * t.n_terms + q);
}

template <class Pass, class T>
void run_task(const Task& task, const ContractionShape& shape, const SpeciesGroups& groups,
              const ContractionTable& t, const Arguments<T>& x, Scratch<T>& scratch, Vector<T>* slots) {
  const Channels<T> channels(shape.mul, task.channel);
  pack(t, x.coefficients, task.group, channels, scratch.terms(0));
  if (x.adjoint_coefficients) pack(t, x.adjoint_coefficients, task.group, channels, scratch.terms(1));
  Vector<T>* sums = scratch.terms(2);
  if (x.grad_coefficients) std::fill(sums, sums + t.n_terms, Vector<T>{});
  int64_t n = task.begin;
  for (; n + tile <= task.end; n += tile)
    Pass::template nodes<T, tile>(t, x, channels, groups.order + n, scratch);
  for (; n < task.end; ++n) Pass::template nodes<T, 1>(t, x, channels, groups.order + n, scratch);
  if (!x.grad_coefficients) return;
  for (int64_t q = 0; q < t.n_terms; ++q)
    if (task.slot < 0)
      channels.write(x.grad_coefficients, task.group * t.n_terms + q, sums[q]);
    else
      slots[task.slot * t.n_terms + q] = sums[q];
}

template <class Pass, class T>
void run(const ContractionShape& shape, const SpeciesGroups& groups, const ContractionTable& t,
         const Arguments<T>& x) {
  const Tasks tasks = make_tasks(shape, groups, n_lanes<T>);
  List<Vector<T>> slots(x.grad_coefficients ? size_t(tasks.n_slots * t.n_terms) : 0);
#pragma omp parallel num_threads(shape.n_threads)
  {
    Scratch<T> scratch(t);
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < int64_t(tasks.list.size()); ++i)
      run_task<Pass>(tasks.list[i], shape, groups, t, x, scratch, slots.data());
#pragma omp for schedule(static)
    for (int64_t q = 0; q < (slots.empty() ? 0 : t.n_terms); ++q)
      for (const Task& task : tasks.list) {
        if (task.slot < 0) continue;
        const Channels<T> channels(shape.mul, task.channel);
        const int64_t row = task.group * t.n_terms + q;
        const Vector<T> part = slots[task.slot * t.n_terms + q];
        channels.write(x.grad_coefficients, row, channels.read(x.grad_coefficients, row) + part);
      }
  }
}

}  // namespace

template <class T>
void symmetric_contraction(const ContractionShape& shape, const SpeciesGroups& groups,
                           const ContractionTable& table, const T* a, const T* coefficients, T* out) {
  run<Forward, T>(shape, groups, table, {nullptr, nullptr, nullptr, a, coefficients, out, nullptr, nullptr});
}

template <class T>
void symmetric_contraction_backward(const ContractionShape& shape, const SpeciesGroups& groups,
                                    const ContractionTable& table, const T* grad_out, const T* a,
                                    const T* coefficients, T* grad_a, T* grad_coefficients) {
  run<Backward, T>(shape, groups, table,
                   {nullptr, nullptr, grad_out, a, coefficients, nullptr, grad_a, grad_coefficients});
}

template <class T>
void symmetric_contraction_double_backward(const ContractionShape& shape, const SpeciesGroups& groups,
                                           const ContractionTable& table, const T* adjoint_a,
                                           const T* adjoint_coefficients, const T* grad_out, const T* a,
                                           const T* coefficients, T* grad_grad_out, T* grad_a,
                                           T* grad_coefficients) {
  run<DoubleBackward, T>(
      shape, groups, table,
      {adjoint_a, adjoint_coefficients, grad_out, a, coefficients, grad_grad_out, grad_a, grad_coefficients});
}

#define PATHTUNE_INSTANTIATE(T)                                                                              \
  template void symmetric_contraction<T>(const ContractionShape&, const SpeciesGroups&,                      \
                                         const ContractionTable&, const T*, const T*, T*);                   \
  template void symmetric_contraction_backward<T>(const ContractionShape&, const SpeciesGroups&,             \
                                                  const ContractionTable&, const T*, const T*, const T*, T*, \
                                                  T*);                                                       \
  template void symmetric_contraction_double_backward<T>(const ContractionShape&, const SpeciesGroups&,      \
                                                         const ContractionTable&, const T*, const T*,        \
                                                         const T*, const T*, const T*, T*, T*, T*);
PATHTUNE_INSTANTIATE(float)
PATHTUNE_INSTANTIATE(double)

}  // namespace pathtune::PATHTUNE_ISA
