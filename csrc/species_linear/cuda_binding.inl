// Included by cuda_bindings.cpp, inside its anonymous namespace.

// mode: 0 forward (x, weights -> y), 1 grad_x (grad_y, weights -> grad_x), 2 grad_weights (x, grad_y -> ...)
template <class T, int mode>
void launch_species_linear(py::tuple sizes, uintptr_t order, uintptr_t ptr, uintptr_t present,
                           uintptr_t paths, uintptr_t coefficients, uintptr_t a, uintptr_t b, uintptr_t out,
                           uintptr_t stream) {
  const auto n = sizes.cast<std::array<int64_t, 6>>();
  const SpeciesLinearShape shape{n[0], n[1], n[2], n[3], n[4], n[5], 0};
  const SpeciesGroups groups{at<const int64_t>(order), at<const int64_t>(ptr), at<const int64_t>(present)};
  const auto* p = at<const SpeciesLinearPath>(paths);
  const auto* c = at<const double>(coefficients);
  py::gil_scoped_release release;
  if constexpr (mode == 0)
    cuda::species_linear<T>(shape, groups, p, c, at<const T>(a), at<const T>(b), at<T>(out),
                            at<void>(stream));
  else if constexpr (mode == 1)
    cuda::species_linear_grad_x<T>(shape, groups, p, c, at<const T>(a), at<const T>(b), at<T>(out),
                                   at<void>(stream));
  else
    cuda::species_linear_grad_weights<T>(shape, groups, p, c, at<const T>(a), at<const T>(b), at<T>(out),
                                         at<void>(stream));
}

void define_species_linear(py::module_& m) {
  m.def("species_linear_f32", &launch_species_linear<float, 0>);
  m.def("species_linear_f64", &launch_species_linear<double, 0>);
  m.def("species_linear_grad_x_f32", &launch_species_linear<float, 1>);
  m.def("species_linear_grad_x_f64", &launch_species_linear<double, 1>);
  m.def("species_linear_grad_weights_f32", &launch_species_linear<float, 2>);
  m.def("species_linear_grad_weights_f64", &launch_species_linear<double, 2>);
}
