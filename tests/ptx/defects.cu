// Kernels with a planted defect each, for test_interpreter.py. All but the sums reverse what each block of 96
// threads reads.
constexpr unsigned all_lanes = 0xffffffffu;

enum Defect { none, unwritten, beyond, unsynchronised };

template <Defect defect>
__device__ void reverse(const float* x, float* out) {
  __shared__ float shared[96];
  const int t = threadIdx.x, first = blockIdx.x * 96;
  if (defect != unwritten || t != 5) shared[t] = x[first + t];
  if (defect != unsynchronised) __syncthreads();
  out[first + t] = shared[95 - t + (defect == beyond)];
}

template <int length>
__device__ void column(const float* x, float* out) {
  __shared__ float tile[32 * length];
  const int t = threadIdx.x;
  tile[t * length] = x[t];
  __syncwarp();
  out[t] = tile[t * length];
}

extern "C" {
__global__ void right(const float* x, float* out, int) { reverse<none>(x, out); }
__global__ void unwritten_shared(const float* x, float* out, int) { reverse<unwritten>(x, out); }
__global__ void beyond_shared(const float* x, float* out, int) { reverse<beyond>(x, out); }
__global__ void no_barrier(const float* x, float* out, int) { reverse<unsynchronised>(x, out); }

__global__ void one_too_far(const float* x, float* out, int) {
  const int i = blockIdx.x * 96 + threadIdx.x;
  out[i] = x[i + 1];
}
__global__ void misaligned(const float* x, float* out, int n) {
  const int i = 4 * threadIdx.x + 1;
  if (i + 4 > n) return;
  const float4 v = *reinterpret_cast<const float4*>(x + i);
  out[i] = v.x + v.y + v.z + v.w;
}
__global__ void exited_lanes(const float* x, float* out, int) {
  const int i = threadIdx.x;
  if (i % 32 >= 20) return;
  out[i] = __shfl_down_sync(all_lanes, x[i], 8);
}
__global__ void half_a_warp(const float* x, float* out, int) {
  float v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) v += __shfl_xor_sync(all_lanes, v, 1);
  __syncthreads();
  out[threadIdx.x] = v;
}
// a column of a tile: 32 words of one bank, or of as many banks with a word more in each line
__global__ void columns(const float* x, float* out, int) { column<32>(x, out); }
__global__ void padded_columns(const float* x, float* out, int) { column<33>(x, out); }
__global__ void strided(const float* x, float* out, int) { out[threadIdx.x] = x[8 * threadIdx.x]; }
__global__ void sum(const float* x, float* out, int) { atomicAdd(out, x[threadIdx.x]); }
__global__ void sum_without_atomics(const float* x, float* out, int) { *out += x[threadIdx.x]; }
}
