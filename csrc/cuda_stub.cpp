// Stands where the CUDA kernels would be, so that CPU-only and CUDA builds differ by this one file.
#include "cuda.hpp"

namespace pathtune {
std::string cuda_status() { return "pathtune was built without CUDA"; }
void bind_cuda(pybind11::module_&) {}
}  // namespace pathtune
