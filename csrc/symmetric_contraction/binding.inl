// Included by bindings.cpp, inside its anonymous namespace.

ContractionTable contraction_table(const record::ContractionSizes& sizes,
                                   const record::ContractionIndex& index) {
  return {.branches = at<const ContractionBranch>(index.branches),
          .last = at<const int32_t>(index.last),
          .runs = at<const ContractionRun>(index.runs),
          .term_monomial = at<const int32_t>(index.term_monomial),
          .first_use = at<const int32_t>(index.first_use),
          .uses = at<const ContractionUse>(index.uses),
          .n_ell = sizes.n_ell,
          .n_out = sizes.n_out,
          .n_monomials = sizes.n_monomials,
          .n_inner = sizes.n_inner,
          .n_terms = sizes.n_terms,
          .n_branches = sizes.n_branches,
          .n_runs = sizes.n_runs};
}

template <class T>
void call_contraction(const record::ContractionSizes& sizes, const record::ContractionIndex& index, int64_t a,
                      int64_t coefficients, int64_t out, int n_threads) {
  const ContractionShape shape = shape_of(sizes, n_threads);
  const ContractionTable table = contraction_table(sizes, index);
  py::gil_scoped_release release;
  PATHTUNE_CALL(symmetric_contraction<T>, shape, groups_of(index), table, at<const T>(a),
                at<const T>(coefficients), at<T>(out));
}

template <class T>
void call_contraction_backward(const record::ContractionSizes& sizes, const record::ContractionIndex& index,
                               int64_t grad_out, int64_t a, int64_t coefficients, int64_t grad_a,
                               int64_t grad_coefficients, int n_threads) {
  const ContractionShape shape = shape_of(sizes, n_threads);
  const ContractionTable table = contraction_table(sizes, index);
  py::gil_scoped_release release;
  PATHTUNE_CALL(symmetric_contraction_backward<T>, shape, groups_of(index), table, at<const T>(grad_out),
                at<const T>(a), at<const T>(coefficients), at<T>(grad_a), at<T>(grad_coefficients));
}

template <class T>
void call_contraction_double_backward(const record::ContractionSizes& sizes,
                                      const record::ContractionIndex& index, int64_t adjoint_a,
                                      int64_t adjoint_coefficients, int64_t grad_out, int64_t a,
                                      int64_t coefficients, int64_t grad_grad_out, int64_t grad_a,
                                      int64_t grad_coefficients, int n_threads) {
  const ContractionShape shape = shape_of(sizes, n_threads);
  const ContractionTable table = contraction_table(sizes, index);
  py::gil_scoped_release release;
  PATHTUNE_CALL(symmetric_contraction_double_backward<T>, shape, groups_of(index), table,
                at<const T>(adjoint_a), at<const T>(adjoint_coefficients), at<const T>(grad_out),
                at<const T>(a), at<const T>(coefficients), at<T>(grad_grad_out), at<T>(grad_a),
                at<T>(grad_coefficients));
}

void bind_symmetric_contraction(py::module_& m) {
  bind_records<record::ContractionSizes, record::ContractionIndex>(m);
  m.def("symmetric_contraction_f32", &call_contraction<float>);
  m.def("symmetric_contraction_f64", &call_contraction<double>);
  m.def("symmetric_contraction_backward_f32", &call_contraction_backward<float>);
  m.def("symmetric_contraction_backward_f64", &call_contraction_backward<double>);
  m.def("symmetric_contraction_double_backward_f32", &call_contraction_double_backward<float>);
  m.def("symmetric_contraction_double_backward_f64", &call_contraction_double_backward<double>);
}
