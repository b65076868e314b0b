// CPU emulation of the CUDA subset our kernels use. Thin front end; the scheduler lives in
// emulator.cpp, which is always compiled WITHOUT sanitizers (it only carries their annotations).
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static  // blocks run one at a time; not poisoned: prefer PATHTUNE_SHARED

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define EMULATOR_VECTOR(T, n)                                                 \
  struct alignas(2 * sizeof(T)) n##2 { T x, y; };                             \
  struct n##3 { T x, y, z; };                                                 \
  struct alignas(sizeof(T) >= 8 ? 16 : 4 * sizeof(T)) n##4 { T x, y, z, w; }; \
  inline n##2 make_##n##2(T x, T y) { return {x, y}; }                        \
  inline n##4 make_##n##4(T x, T y, T z, T w) { return {x, y, z, w}; }        \
  static_assert(true, "")
EMULATOR_VECTOR(float, float);
EMULATOR_VECTOR(double, double);
EMULATOR_VECTOR(int, int);
#undef EMULATOR_VECTOR

typedef int cudaError_t;
enum {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNoDevice = 100,
  cudaErrorLaunchFailure = 719
};
typedef struct emulator_stream* cudaStream_t;
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};

namespace emulator {
enum Order { FORWARD, REVERSE, RANDOM };
struct Config {
  Order order = FORWARD;  // order of threads between barriers, and of blocks in the grid
  unsigned seed = 1;
  unsigned preempt = 0;         // 1/n chance of a thread switch at each atomic (0: never)
  size_t max_smem = 48 * 1024;  // raise as cudaFuncSetAttribute would
  size_t stack = 128 * 1024;
  bool abort_on_error = false;  // else count into errors()
};
Config& config();
struct Thread {
  uint3 tid, bid;
};  // what the built-in variables read
extern Thread* cur;  // the running fiber
extern dim3 g_block, g_grid;
void* shared_alloc(void* tag, size_t bytes);  // one per __shared__ declaration and block
// bytes that kernels moved through global_load, global_store and global_add
inline unsigned long long bytes_loaded = 0, bytes_stored = 0;
inline void count_load(size_t bytes) { __atomic_fetch_add(&bytes_loaded, bytes, __ATOMIC_RELAXED); }
inline void count_store(size_t bytes) { __atomic_fetch_add(&bytes_stored, bytes, __ATOMIC_RELAXED); }
void* dynamic_shared();
void sync_block(const char* file, int line, bool is_warp_order = false);
int sync_block_reduce(int pred, int op, const char* file, int line);  // 0 count 1 and 2 or
// value exchange of one warp: returns the bits of lane `src`; kind/site must agree
uint64_t warp_exchange(unsigned mask, uint64_t bits, int src, int kind, const char* file, int line);
unsigned warp_ballot(unsigned mask, int pred, const char* file, int line);
void warp_sync(unsigned mask, const char* file, int line);
unsigned active_mask();
void atomic_point();
void fence();
int lane();
void run(const char* name, dim3 g, dim3 b, size_t smem, void (*fn)(void*), void* ctx);
cudaError_t take_error();
long errors();  // emulator-detected misuse so far
void reset_errors();
unsigned long long threads_run();

// Where set, launches go there instead: tests/ptx hands them to its interpreter.
struct Argument {
  const void* bytes;
  size_t size;
};
inline std::function<void(const void* kernel, dim3, dim3, size_t, const Argument*, size_t)> elsewhere;

template <class... P, class... A>
void launch(const char* name, dim3 g, dim3 b, size_t smem, cudaStream_t, void (*kern)(P...), A... args) {
  if (elsewhere) {
    [&](P... values) {
      const Argument list[] = {{&values, sizeof(values)}...};
      elsewhere(reinterpret_cast<const void*>(kern), g, b, smem, list, sizeof...(P));
    }(args...);
    return;
  }
  auto f = [&] { kern(args...); };
  run(name, g, b, smem, [](void* p) { (*static_cast<decltype(f)*>(p))(); }, &f);
}
template <class T>
inline T exchange(unsigned m, T v, int src, int kind, const char* file, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "shuffle type");
  uint64_t b = 0;
  __builtin_memcpy(&b, &v, sizeof(T));
  b = warp_exchange(m, b, src, kind, file, line);
  __builtin_memcpy(&v, &b, sizeof(T));
  return v;
}
template <class T>
inline T shfl(unsigned m, T v, int src, const char* f, int l, int w = 32) {
  int ln = lane(), base = ln & ~(w - 1);
  return exchange(m, v, base + (src & (w - 1)), 1, f, l);
}
template <class T>
inline T shfl_down(unsigned m, T v, unsigned d, const char* f, int l, int w = 32) {
  int ln = lane(), s = ln + int(d);
  return exchange(m, v, (s & ~(w - 1)) == (ln & ~(w - 1)) ? s : ln, 2, f, l);
}
template <class T>
inline T shfl_up(unsigned m, T v, unsigned d, const char* f, int l, int w = 32) {
  int ln = lane(), s = ln - int(d);
  return exchange(m, v, s >= (ln & ~(w - 1)) ? s : ln, 3, f, l);
}
template <class T>
inline T shfl_xor(unsigned m, T v, int x, const char* f, int l, int w = 32) {
  int ln = lane(), s = ln ^ x;
  return exchange(m, v, s < (ln & ~(w - 1)) + w ? s : ln, 4, f, l);
}
}  // namespace emulator

#define threadIdx (emulator::cur->tid)
#define blockIdx (emulator::cur->bid)
#define blockDim (emulator::g_block)
#define gridDim (emulator::g_grid)
#define warpSize 32
#define __syncthreads() emulator::sync_block(__FILE__, __LINE__)
#define __syncthreads_count(p) emulator::sync_block_reduce((p), 0, __FILE__, __LINE__)
#define __syncthreads_and(p) emulator::sync_block_reduce((p), 1, __FILE__, __LINE__)
#define __syncthreads_or(p) emulator::sync_block_reduce((p), 2, __FILE__, __LINE__)
#define __shfl_sync(m, v, s, ...) emulator::shfl(m, v, s, __FILE__, __LINE__, ##__VA_ARGS__)
#define __shfl_down_sync(m, v, s, ...) emulator::shfl_down(m, v, s, __FILE__, __LINE__, ##__VA_ARGS__)
#define __shfl_up_sync(m, v, s, ...) emulator::shfl_up(m, v, s, __FILE__, __LINE__, ##__VA_ARGS__)
#define __shfl_xor_sync(m, v, s, ...) emulator::shfl_xor(m, v, s, __FILE__, __LINE__, ##__VA_ARGS__)
#define __ballot_sync(m, p) emulator::warp_ballot(m, p, __FILE__, __LINE__)
#define __any_sync(m, p) (emulator::warp_ballot(m, p, __FILE__, __LINE__) != 0)
#define __all_sync(m, p) (emulator::warp_ballot(m, !(p), __FILE__, __LINE__) == 0)
#define __activemask() emulator::active_mask()
#define __syncwarp(...) emulator::warp_sync(0xffffffffu __VA_OPT__(&(__VA_ARGS__)), __FILE__, __LINE__)
#define __threadfence() emulator::fence()
#define __threadfence_block() emulator::fence()

template <class T>
inline T __ldg(const T* p) {
  return *p;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
template <class T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T max(T a, T b) {
  return a < b ? b : a;
}

template <class T>
inline T atomicAdd(T* p, std::common_type_t<T> v) {
  emulator::atomic_point();
  if constexpr (std::is_integral<T>::value) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
  } else {
    using U = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    U* q = reinterpret_cast<U*>(p);
    U old = __atomic_load_n(q, __ATOMIC_RELAXED), next;
    T o, n;
    do {
      __builtin_memcpy(&o, &old, sizeof(T));
      n = o + v;
      __builtin_memcpy(&next, &n, sizeof(T));
    } while (!__atomic_compare_exchange_n(q, &old, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return o;
  }
}
template <class T>
inline T atomicExch(T* p, std::common_type_t<T> v) {
  emulator::atomic_point();
  return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <class T>
inline T atomicCAS(T* p, std::common_type_t<T> c, std::common_type_t<T> v) {
  emulator::atomic_point();
  __atomic_compare_exchange_n(p, &c, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return c;
}
template <class T>
inline T atomicMax(T* p, std::common_type_t<T> v) {
  emulator::atomic_point();
  T o = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (o < v && !__atomic_compare_exchange_n(p, &o, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return o;
}

// the little of the host API that launchers need; memory is plain (so ASan sees its bounds)
template <class T>
inline cudaError_t cudaMalloc(T** p, size_t n) {
  *p = static_cast<T*>(std::aligned_alloc(256, (n + 255) / 256 * 256));
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* p) {
  std::free(p);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind, cudaStream_t = nullptr) {
  std::memcpy(d, s, n);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* d, const void* s, size_t n, cudaMemcpyKind k) {
  return cudaMemcpyAsync(d, s, n, k);
}
inline cudaError_t cudaMemsetAsync(void* d, int v, size_t n, cudaStream_t = nullptr) {
  std::memset(d, v, n);
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* d, int v, size_t n) { return cudaMemsetAsync(d, v, n); }
inline cudaError_t cudaDeviceSynchronize() { return emulator::take_error(); }
inline cudaError_t cudaGetLastError() { return emulator::take_error(); }
inline const char* cudaGetErrorString(cudaError_t e) { return e ? "emulated CUDA error" : "no error"; }
