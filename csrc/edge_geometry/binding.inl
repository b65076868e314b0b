// Included by bindings.cpp, inside its anonymous namespace.

// Tensors are addresses in the header's order.
template <class T>
void call_edge_geometry(const record::EdgeGeometrySizes& sizes, const record::EdgeGeometryIndex& index,
                        int64_t vectors, int64_t lengths, int64_t y, int n_threads) {
  const EdgeGeometryShape shape = shape_of(sizes, n_threads);
  const EdgeGeometryRows<T> rows = rows_of<T>(index);
  py::gil_scoped_release release;
  PATHTUNE_CALL(edge_geometry<T>, shape, rows, at<const T>(vectors), at<T>(lengths), at<T>(y));
}

template <class T>
void call_edge_geometry_backward(const record::EdgeGeometrySizes& sizes,
                                 const record::EdgeGeometryIndex& index, int64_t vectors, int64_t g_lengths,
                                 int64_t gy, int64_t gv, int n_threads) {
  const EdgeGeometryShape shape = shape_of(sizes, n_threads);
  const EdgeGeometryRows<T> rows = rows_of<T>(index);
  py::gil_scoped_release release;
  PATHTUNE_CALL(edge_geometry_backward<T>, shape, rows, at<const T>(vectors), at<const T>(g_lengths),
                at<const T>(gy), at<T>(gv));
}

template <class T>
void call_edge_geometry_double_backward(const record::EdgeGeometrySizes& sizes,
                                        const record::EdgeGeometryIndex& index, int64_t vectors,
                                        int64_t g_lengths, int64_t gy, int64_t av, int64_t a_lengths,
                                        int64_t ay, int64_t gv, int n_threads) {
  const EdgeGeometryShape shape = shape_of(sizes, n_threads);
  const EdgeGeometryRows<T> rows = rows_of<T>(index);
  py::gil_scoped_release release;
  PATHTUNE_CALL(edge_geometry_double_backward<T>, shape, rows, at<const T>(vectors), at<const T>(g_lengths),
                at<const T>(gy), at<const T>(av), at<T>(a_lengths), at<T>(ay), at<T>(gv));
}

void bind_edge_geometry(py::module_& m) {
  bind_records<record::EdgeGeometrySizes, record::EdgeGeometryIndex>(m);
  m.def("edge_geometry_f32", &call_edge_geometry<float>);
  m.def("edge_geometry_f64", &call_edge_geometry<double>);
  m.def("edge_geometry_backward_f32", &call_edge_geometry_backward<float>);
  m.def("edge_geometry_backward_f64", &call_edge_geometry_backward<double>);
  m.def("edge_geometry_double_backward_f32", &call_edge_geometry_double_backward<float>);
  m.def("edge_geometry_double_backward_f64", &call_edge_geometry_double_backward<double>);
}
