// Bindings of the CPU kernels: only this file, cuda_bindings.cpp and what they share include pybind11.
// Tensors arrive as addresses (data_ptr()), so that one build serves every torch version; python/pathtune/ops
// has checked dtype, shape and contiguity before. Only neighbours and candidates, which return
// as much as they find, take numpy's arrays.
#include "bindings.hpp"

#include <pybind11/numpy.h>

#include <array>
#include <cmath>

#include "allocator.hpp"
#include "candidates/candidates.hpp"
#include "cuda.hpp"
#include "edge_conv/records.hpp"
#include "edge_geometry/records.hpp"
#include "isa.hpp"
#include "neighbours/neighbours.hpp"
#include "radial_table/records.hpp"
#include "sampled_gradient/records.hpp"
#include "soft_threshold/records.hpp"
#include "species_linear/records.hpp"
#include "symmetric_contraction/records.hpp"

namespace py = pybind11;
using namespace pathtune;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

#include "candidates/binding.inl"
#include "edge_conv/binding.inl"
#include "edge_geometry/binding.inl"
#include "neighbours/binding.inl"
#include "radial_table/binding.inl"
#include "sampled_gradient/binding.inl"
#include "soft_threshold/binding.inl"
#include "species_linear/binding.inl"
#include "symmetric_contraction/binding.inl"

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Kernels of pathtune; called by pathtune.ops only";
  py::module_ cuda = m.def_submodule("cuda", "the CUDA kernels; empty where they were not built");
  bind_cuda(cuda);
  m.def("cuda_status", &cuda_status);
  m.def("keep_large_blocks", &keep_large_blocks);
  m.def("best_isa", [] { return int(best_isa()); });
  m.def("active_isa", [] { return int(active_isa()); });
  m.def("set_active_isa", [](int isa) { set_active_isa(Isa(isa)); });

  bind_edge_conv(m);
  bind_edge_geometry(m);
  bind_neighbours(m);
  bind_candidates(m);
  bind_radial_table(m);
  bind_sampled_gradient(m);
  bind_soft_threshold(m);
  bind_species_linear(m);
  bind_symmetric_contraction(m);
}
