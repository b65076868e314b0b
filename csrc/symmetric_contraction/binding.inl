// Included by bindings.cpp, inside its anonymous namespace.

struct ContractionArguments {
  ContractionShape shape;
  SpeciesGroups groups;
  ContractionTable table;
};

// sizes: n_nodes, mul, n_present, then the sizes of the table in the order of its fields
// index: order, ptr, present, then branches, last, runs, term_monomial, first_use, uses
ContractionArguments contraction_arguments(py::handle sizes, int n_threads, py::handle index) {
  const auto n = sizes.cast<std::array<int64_t, 10>>();
  const auto p = index.cast<std::array<uintptr_t, 9>>();
  return {{n[0], n[1], n[2], n_threads},
          {at<const int64_t>(p[0]), at<const int64_t>(p[1]), at<const int64_t>(p[2])},
          {at<const ContractionBranch>(p[3]), at<const int32_t>(p[4]), at<const ContractionRun>(p[5]),
           at<const int32_t>(p[6]), at<const int32_t>(p[7]), at<const ContractionUse>(p[8]), n[3], n[4], n[5],
           n[6], n[7], n[8], n[9]}};
}

template <class T>
void bind_contraction(py::tuple sizes, py::tuple index, uintptr_t a, uintptr_t coefficients, uintptr_t out,
                      int n_threads) {
  const auto [shape, groups, table] = contraction_arguments(sizes, n_threads, index);
  py::gil_scoped_release release;
  PATHTUNE_CALL(symmetric_contraction<T>, shape, groups, table, at<const T>(a), at<const T>(coefficients),
                at<T>(out));
}

template <class T>
void bind_contraction_backward(py::tuple sizes, py::tuple index, uintptr_t grad_out, uintptr_t a,
                               uintptr_t coefficients, uintptr_t grad_a, uintptr_t grad_coefficients,
                               int n_threads) {
  const auto [shape, groups, table] = contraction_arguments(sizes, n_threads, index);
  py::gil_scoped_release release;
  PATHTUNE_CALL(symmetric_contraction_backward<T>, shape, groups, table, at<const T>(grad_out),
                at<const T>(a), at<const T>(coefficients), at<T>(grad_a), at<T>(grad_coefficients));
}

template <class T>
void bind_contraction_double_backward(py::tuple sizes, py::tuple index, uintptr_t adjoint_a,
                                      uintptr_t adjoint_coefficients, uintptr_t grad_out, uintptr_t a,
                                      uintptr_t coefficients, uintptr_t grad_grad_out, uintptr_t grad_a,
                                      uintptr_t grad_coefficients, int n_threads) {
  const auto [shape, groups, table] = contraction_arguments(sizes, n_threads, index);
  py::gil_scoped_release release;
  PATHTUNE_CALL(symmetric_contraction_double_backward<T>, shape, groups, table, at<const T>(adjoint_a),
                at<const T>(adjoint_coefficients), at<const T>(grad_out), at<const T>(a),
                at<const T>(coefficients), at<T>(grad_grad_out), at<T>(grad_a), at<T>(grad_coefficients));
}

void bind_symmetric_contraction(py::module_& m) {
  m.def("symmetric_contraction_f32", &bind_contraction<float>);
  m.def("symmetric_contraction_f64", &bind_contraction<double>);
  m.def("symmetric_contraction_backward_f32", &bind_contraction_backward<float>);
  m.def("symmetric_contraction_backward_f64", &bind_contraction_backward<double>);
  m.def("symmetric_contraction_double_backward_f32", &bind_contraction_double_backward<float>);
  m.def("symmetric_contraction_double_backward_f64", &bind_contraction_double_backward<double>);
}
