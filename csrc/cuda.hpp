// What the bindings may ask of the CUDA side: answered by cuda_stub.cpp or by the CUDA build.
#pragma once
#include <string>

namespace pathtune {
std::string cuda_status();  // empty when a device can be used, else the reason
}  // namespace pathtune
