// What the bindings may ask of the CUDA side: answered by cuda_stub.cpp, or by cuda_runtime.cu and
// cuda_bindings.cpp in a CUDA build.
#pragma once
#include <string>

namespace pybind11 {
class module_;
}

namespace pathtune {
// Empty when a device can be used, else the reason.
std::string cuda_status();
// The operators' bindings: the CPU's names, with a stream in the place of n_threads.
void bind_cuda(pybind11::module_& m);
}  // namespace pathtune
