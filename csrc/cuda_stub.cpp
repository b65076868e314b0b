// Stands where the CUDA kernels will be, so that CPU-only and CUDA builds differ by this one file.
#include "cuda.hpp"

namespace pathtune {
std::string cuda_status() { return "built without CUDA"; }
}  // namespace pathtune
