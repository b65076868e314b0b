// The little of the CUDA runtime that is not a kernel.
#include <stdexcept>
#include <string>

#include "cuda.hpp"
#include "portability.hpp"

namespace pathtune {

std::string cuda_status() {
#if defined(__CUDACC__)
  int n_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&n_devices);
  if (error != cudaSuccess) return std::string("no usable CUDA device: ") + cudaGetErrorString(error);
  return n_devices > 0 ? "" : "no usable CUDA device: the driver sees none";
#else
  return "";
#endif
}

namespace cuda {

void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(op) + ": CUDA refused the launch: " + cudaGetErrorString(error));
}

}  // namespace cuda
}  // namespace pathtune
