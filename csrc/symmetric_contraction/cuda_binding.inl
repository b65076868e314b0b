// Included by cuda_bindings.cpp, inside its anonymous namespace.

cuda::ContractionSegments contraction_segments(const record::ContractionSizes& sizes,
                                               const record::ContractionIndex& index) {
  return {.segments = at<const cuda::ContractionSegment>(index.segments),
          .more = at<const int32_t>(index.more),
          .n_segments = sizes.n_segments,
          .n_more = sizes.n_more,
          .n_ell = sizes.n_ell,
          .n_out = sizes.n_out,
          .n_terms = sizes.n_terms};
}

template <class T>
void call_contraction(const record::ContractionSizes& sizes, const record::ContractionIndex& index, int64_t a,
                      int64_t coefficients, int64_t out, uintptr_t stream) {
  const cuda::ContractionSegments table = contraction_segments(sizes, index);
  py::gil_scoped_release release;
  cuda::symmetric_contraction<T>(shape_of(sizes, 0), groups_of(index), table, at<const T>(a),
                                 at<const T>(coefficients), at<T>(out), at<void>(stream));
}

template <class T>
void call_contraction_backward(const record::ContractionSizes& sizes, const record::ContractionIndex& index,
                               int64_t grad_out, int64_t a, int64_t coefficients, int64_t grad_a,
                               int64_t grad_coefficients, uintptr_t stream) {
  const cuda::ContractionSegments table = contraction_segments(sizes, index);
  py::gil_scoped_release release;
  cuda::symmetric_contraction_backward<T>(shape_of(sizes, 0), groups_of(index), table, at<const T>(grad_out),
                                          at<const T>(a), at<const T>(coefficients), at<T>(grad_a),
                                          at<T>(grad_coefficients), at<void>(stream));
}

template <class T>
void call_contraction_double_backward(const record::ContractionSizes& sizes,
                                      const record::ContractionIndex& index, int64_t adjoint_a,
                                      int64_t adjoint_coefficients, int64_t grad_out, int64_t a,
                                      int64_t coefficients, int64_t grad_grad_out, int64_t grad_a,
                                      int64_t grad_coefficients, uintptr_t stream) {
  const cuda::ContractionSegments table = contraction_segments(sizes, index);
  py::gil_scoped_release release;
  cuda::symmetric_contraction_double_backward<T>(
      shape_of(sizes, 0), groups_of(index), table, at<const T>(adjoint_a), at<const T>(adjoint_coefficients),
      at<const T>(grad_out), at<const T>(a), at<const T>(coefficients), at<T>(grad_grad_out), at<T>(grad_a),
      at<T>(grad_coefficients), at<void>(stream));
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
