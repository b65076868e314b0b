// Included by cuda_bindings.cpp, inside its anonymous namespace.

// mode: 0 forward (x, weights -> y), 1 grad_x (grad_y, weights -> grad_x), 2 grad_weights (x, grad_y -> ...)
template <class T, int mode>
void call_species_linear(const record::SpeciesLinearSizes& sizes, const record::SpeciesLinearIndex& index,
                         int64_t a, int64_t b, int64_t out, uintptr_t stream) {
  const SpeciesLinearShape shape = shape_of(sizes, 0);
  const SpeciesGroups groups = groups_of(index);
  const auto* paths = at<const SpeciesLinearPath>(index.paths);
  const auto* coefficients = at<const double>(index.coefficients);
  py::gil_scoped_release release;
  if constexpr (mode == 0)
    cuda::species_linear<T>(shape, groups, paths, coefficients, at<const T>(a), at<const T>(b), at<T>(out),
                            at<void>(stream));
  else if constexpr (mode == 1)
    cuda::species_linear_grad_x<T>(shape, groups, paths, coefficients, at<const T>(a), at<const T>(b),
                                   at<T>(out), at<void>(stream));
  else
    cuda::species_linear_grad_weights<T>(shape, groups, paths, coefficients, at<const T>(a), at<const T>(b),
                                         at<T>(out), at<void>(stream));
}

void bind_species_linear(py::module_& m) {
  bind_records<record::SpeciesLinearSizes, record::SpeciesLinearIndex>(m);
  m.def("species_linear_f32", &call_species_linear<float, 0>);
  m.def("species_linear_f64", &call_species_linear<double, 0>);
  m.def("species_linear_grad_x_f32", &call_species_linear<float, 1>);
  m.def("species_linear_grad_x_f64", &call_species_linear<double, 1>);
  m.def("species_linear_grad_weights_f32", &call_species_linear<float, 2>);
  m.def("species_linear_grad_weights_f64", &call_species_linear<double, 2>);
}
