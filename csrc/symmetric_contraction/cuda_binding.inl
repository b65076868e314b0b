// Included by cuda_bindings.cpp, inside its anonymous namespace.

struct ContractionLaunch {
  ContractionShape shape;
  SpeciesGroups groups;
  cuda::ContractionSegments table;
};

// sizes: n_nodes, mul, n_present, n_ell, n_out, n_terms, n_segments, n_more
// index: order, ptr, present, segments, more
ContractionLaunch contraction_launch(py::handle sizes, py::handle index) {
  const auto n = sizes.cast<std::array<int64_t, 8>>();
  const auto p = index.cast<std::array<uintptr_t, 5>>();
  return {{n[0], n[1], n[2], 0},
          {at<const int64_t>(p[0]), at<const int64_t>(p[1]), at<const int64_t>(p[2])},
          {at<const cuda::ContractionSegment>(p[3]), at<const int32_t>(p[4]), n[6], n[7], n[3], n[4], n[5]}};
}

template <class T>
void launch_contraction(py::tuple sizes, py::tuple index, uintptr_t a, uintptr_t coefficients, uintptr_t out,
                        uintptr_t stream) {
  const auto [shape, groups, table] = contraction_launch(sizes, index);
  py::gil_scoped_release release;
  cuda::symmetric_contraction<T>(shape, groups, table, at<const T>(a), at<const T>(coefficients), at<T>(out),
                                 at<void>(stream));
}

template <class T>
void launch_contraction_backward(py::tuple sizes, py::tuple index, uintptr_t grad_out, uintptr_t a,
                                 uintptr_t coefficients, uintptr_t grad_a, uintptr_t grad_coefficients,
                                 uintptr_t stream) {
  const auto [shape, groups, table] = contraction_launch(sizes, index);
  py::gil_scoped_release release;
  cuda::symmetric_contraction_backward<T>(shape, groups, table, at<const T>(grad_out), at<const T>(a),
                                          at<const T>(coefficients), at<T>(grad_a), at<T>(grad_coefficients),
                                          at<void>(stream));
}

template <class T>
void launch_contraction_double_backward(py::tuple sizes, py::tuple index, uintptr_t adjoint_a,
                                        uintptr_t adjoint_coefficients, uintptr_t grad_out, uintptr_t a,
                                        uintptr_t coefficients, uintptr_t grad_grad_out, uintptr_t grad_a,
                                        uintptr_t grad_coefficients, uintptr_t stream) {
  const auto [shape, groups, table] = contraction_launch(sizes, index);
  py::gil_scoped_release release;
  cuda::symmetric_contraction_double_backward<T>(
      shape, groups, table, at<const T>(adjoint_a), at<const T>(adjoint_coefficients), at<const T>(grad_out),
      at<const T>(a), at<const T>(coefficients), at<T>(grad_grad_out), at<T>(grad_a),
      at<T>(grad_coefficients), at<void>(stream));
}

void define_symmetric_contraction(py::module_& m) {
  m.def("symmetric_contraction_f32", &launch_contraction<float>);
  m.def("symmetric_contraction_f64", &launch_contraction<double>);
  m.def("symmetric_contraction_backward_f32", &launch_contraction_backward<float>);
  m.def("symmetric_contraction_backward_f64", &launch_contraction_backward<double>);
  m.def("symmetric_contraction_double_backward_f32", &launch_contraction_double_backward<float>);
  m.def("symmetric_contraction_double_backward_f64", &launch_contraction_double_backward<double>);
}
