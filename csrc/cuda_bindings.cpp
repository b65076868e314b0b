// Bindings of the CUDA kernels: part of _core in a CUDA build, and of the tests' emulation module elsewhere.
// The names are those of the CPU kernels; the last argument is a stream instead of a number of threads.
// Nothing here allocates, synchronises or reads device memory: what a launch has to know of the tables, it
// gets from the host.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda.hpp"
#include "edge_conv/cuda.hpp"
#include "sampled_gradient/cuda.hpp"
#include "soft_threshold/cuda.hpp"
#include "species_linear/cuda.hpp"
#include "symmetric_contraction/cuda.hpp"

namespace py = pybind11;
using namespace pathtune;

namespace {

template <class P>
P* at(uintptr_t address) {
  return reinterpret_cast<P*>(address);
}

#include "edge_conv/cuda_binding.inl"
#include "sampled_gradient/cuda_binding.inl"
#include "soft_threshold/cuda_binding.inl"
#include "species_linear/cuda_binding.inl"
#include "symmetric_contraction/cuda_binding.inl"

}  // namespace

namespace pathtune {

void define_cuda(py::module_& m) {
  define_edge_conv(m);
  define_species_linear(m);
  define_symmetric_contraction(m);
  define_sampled_gradient(m);
  define_soft_threshold(m);
}

}  // namespace pathtune
