// The SIMD vector of the instruction set that is being compiled: lanes are channels (layout ir_mul).
// Arithmetic comes from the compiler's vector extensions; only memory and reductions are spelled out.
#pragma once
#include <cstdint>
#include <cstring>

namespace pathtune::PATHTUNE_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(vector_bytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(vector_bytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
constexpr int n_lanes = vector_bytes / int(sizeof(T));

template <class T>
inline Vector<T> load(const T* from) {
  Vector<T> v;
  std::memcpy(&v, from, sizeof v);  // one unaligned vector load
  return v;
}

template <class T>
inline void store(T* to, Vector<T> v) {
  std::memcpy(to, &v, sizeof v);
}

// The ragged tail: the first n lanes, the others zero (and not stored).
template <class T>
inline Vector<T> load_partial(const T* from, int n) {
  Vector<T> v{};
  for (int lane = 0; lane < n; ++lane) v[lane] = from[lane];
  return v;
}

template <class T>
inline void store_partial(T* to, Vector<T> v, int n) {
  for (int lane = 0; lane < n; ++lane) to[lane] = v[lane];
}

template <class T>
inline T sum_lanes(Vector<T> v) {
  T partial[n_lanes<T>];
  std::memcpy(partial, &v, sizeof v);
  for (int width = n_lanes<T> / 2; width > 0; width /= 2)  // pairwise: fixed order, small rounding
    for (int lane = 0; lane < width; ++lane) partial[lane] += partial[lane + width];
  return partial[0];
}

}  // namespace pathtune::PATHTUNE_ISA
