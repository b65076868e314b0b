// The one header that a CUDA kernel file includes beside its contract. nvcc: real CUDA. Any other compiler:
// the emulation of tests/emulation/emulator.hpp, whose folder the build of the tests puts on the include
// path, so that the same source runs on a machine without a GPU.
//
// Rules that keep a kernel testable there: launches and shared memory through these macros only; no early
// return before a barrier or a collective; every sum across threads through atomicAdd or with one owner for
// each output; sizes at run time or from templates, so that tests run tiny shapes with ragged tails; no
// dynamically indexed local arrays (they spill, and a spill is an error in the build).
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define PATHTUNE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#define PATHTUNE_SHARED(T, name, n) __shared__ T name[n]
#define PATHTUNE_DYNAMIC_SHARED(T, name)                                 \
  extern __shared__ __align__(16) unsigned char pathtune_shared_bytes[]; \
  T* name = reinterpret_cast<T*>(pathtune_shared_bytes)
#define PATHTUNE_UNROLL _Pragma("unroll")
#else
#include "emulator.hpp"
#define PATHTUNE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  emulator::launch(#kernel, (grid), (block), (shared_bytes), (stream), kernel, __VA_ARGS__)
#define PATHTUNE_SHARED(T, name, n) \
  static char name##_tag_;          \
  T* name = static_cast<T*>(emulator::shared_alloc(&name##_tag_, sizeof(T) * (n)))
#define PATHTUNE_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(emulator::dynamic_shared())
#define PATHTUNE_UNROLL
#endif

namespace pathtune::cuda {

// V neighbouring channels, moved as one: 16 bytes where V sizeof(T) = 16.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T v[V];
};

// Every access of a kernel to tensors in device memory goes through these three: the emulation counts bytes
// there.
template <class P>
__device__ __forceinline__ P global_load(const P* from) {
#if !defined(__CUDACC__)
  emulator::count_load(sizeof(P));
#endif
  return *from;
}
template <class P>
__device__ __forceinline__ void global_store(P* to, const P& value) {
#if !defined(__CUDACC__)
  emulator::count_store(sizeof(P));
#endif
  *to = value;
}
template <class T>
__device__ __forceinline__ void global_add(T* to, T value) {
#if !defined(__CUDACC__)
  emulator::count_store(sizeof(T));
#endif
  atomicAdd(to, value);
}

// A block's shared memory that every device grants without being asked.
constexpr int64_t shared_bytes_per_block = 48 * 1024;

// Throws std::runtime_error with the operator's name and CUDA's words if the last launch was refused.
void check_launch(const char* op);

}  // namespace pathtune::cuda
