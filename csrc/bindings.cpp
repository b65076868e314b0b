// The only file that includes pybind11. Tensors arrive as addresses (data_ptr()), so that one build
// serves every torch version; python/pathtune/ops has checked dtype, shape and contiguity before.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "allocator.hpp"
#include "cuda.hpp"
#include "edge_conv/edge_conv.hpp"
#include "edge_geometry/edge_geometry.hpp"
#include "isa.hpp"
#include "radial_table/radial_table.hpp"
#include "sampled_gradient/sampled_gradient.hpp"
#include "soft_threshold/soft_threshold.hpp"
#include "species_linear/species_linear.hpp"
#include "symmetric_contraction/symmetric_contraction.hpp"

namespace py = pybind11;
using namespace pathtune;

namespace {

template <class P>
P* at(uintptr_t address) {
  return reinterpret_cast<P*>(address);
}

SpeciesLinearShape species_linear_shape(py::handle sizes, int n_threads) {
  auto [n_nodes, dim_in, dim_out, n_species, n_present, n_paths] =
      sizes.cast<std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>>();
  return {n_nodes, dim_in, dim_out, n_species, n_present, n_paths, n_threads};
}

// mode: 0 forward (x, weights -> y), 1 grad_x (grad_y, weights -> grad_x), 2 grad_weights (x, grad_y -> ...)
template <class T, int mode>
void bind_species_linear(py::tuple sizes, uintptr_t order, uintptr_t ptr, uintptr_t present, uintptr_t paths,
                         uintptr_t coefficients, uintptr_t a, uintptr_t b, uintptr_t out, int n_threads) {
  const SpeciesLinearShape shape = species_linear_shape(sizes, n_threads);
  const SpeciesGroups groups{at<const int64_t>(order), at<const int64_t>(ptr), at<const int64_t>(present)};
  const auto* p = at<const SpeciesLinearPath>(paths);
  const auto* c = at<const double>(coefficients);
  py::gil_scoped_release release;
  if constexpr (mode == 0)
    PATHTUNE_CALL(species_linear<T>, shape, groups, p, c, at<const T>(a), at<const T>(b), at<T>(out));
  else if constexpr (mode == 1)
    PATHTUNE_CALL(species_linear_grad_x<T>, shape, groups, p, c, at<const T>(a), at<const T>(b), at<T>(out));
  else
    PATHTUNE_CALL(species_linear_grad_weights<T>, shape, groups, p, c, at<const T>(a), at<const T>(b),
                  at<T>(out));
}

#include "edge_conv/binding.inl"
#include "edge_geometry/binding.inl"
#include "radial_table/binding.inl"
#include "sampled_gradient/binding.inl"
#include "soft_threshold/binding.inl"
#include "symmetric_contraction/binding.inl"

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Kernels of pathtune; called by pathtune.ops only";
  py::module_ cuda = m.def_submodule("cuda", "the CUDA kernels; empty where they were not built");
  define_cuda(cuda);
  m.def("cuda_status", &cuda_status);
  m.def("keep_large_blocks", &keep_large_blocks);
  m.def("best_isa", [] { return int(best_isa()); });
  m.def("active_isa", [] { return int(active_isa()); });
  m.def("set_active_isa", [](int isa) { set_active_isa(Isa(isa)); });

  m.def("species_linear_f32", &bind_species_linear<float, 0>);
  m.def("species_linear_f64", &bind_species_linear<double, 0>);
  m.def("species_linear_grad_x_f32", &bind_species_linear<float, 1>);
  m.def("species_linear_grad_x_f64", &bind_species_linear<double, 1>);
  m.def("species_linear_grad_weights_f32", &bind_species_linear<float, 2>);
  m.def("species_linear_grad_weights_f64", &bind_species_linear<double, 2>);

  define_edge_conv(m);
  define_edge_geometry(m);
  define_radial_table(m);
  define_sampled_gradient(m);
  define_soft_threshold(m);
  bind_symmetric_contraction(m);
}
