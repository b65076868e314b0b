// Bindings of the CUDA kernels: part of _core in a CUDA build, and of the tests' emulation module elsewhere.
// The names are those of the CPU kernels; the last argument is a stream instead of a number of threads.
// Nothing here allocates, synchronises or reads device memory: what a launch has to know of the tables, it
// gets from the host.
#include "bindings.hpp"
#include "cuda.hpp"
#include "edge_conv/cuda.hpp"
#include "edge_conv/records.hpp"
#include "edge_geometry/cuda.hpp"
#include "edge_geometry/records.hpp"
#include "radial_table/cuda.hpp"
#include "radial_table/records.hpp"
#include "sampled_gradient/cuda.hpp"
#include "sampled_gradient/records.hpp"
#include "soft_threshold/cuda.hpp"
#include "soft_threshold/records.hpp"
#include "species_linear/cuda.hpp"
#include "species_linear/records.hpp"
#include "symmetric_contraction/cuda.hpp"
#include "symmetric_contraction/records.hpp"

namespace py = pybind11;
using namespace pathtune;

namespace {

#include "edge_conv/cuda_binding.inl"
#include "edge_geometry/cuda_binding.inl"
#include "radial_table/cuda_binding.inl"
#include "sampled_gradient/cuda_binding.inl"
#include "soft_threshold/cuda_binding.inl"
#include "species_linear/cuda_binding.inl"
#include "symmetric_contraction/cuda_binding.inl"

}  // namespace

namespace pathtune {

void bind_cuda(py::module_& m) {
  bind_edge_conv(m);
  bind_edge_geometry(m);
  bind_radial_table(m);
  bind_sampled_gradient(m);
  bind_soft_threshold(m);
  bind_species_linear(m);
  bind_symmetric_contraction(m);
}

}  // namespace pathtune
