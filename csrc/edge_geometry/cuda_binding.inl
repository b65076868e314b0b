// Included by cuda_bindings.cpp, inside its anonymous namespace.

// Tensors are addresses in the header's order.
template <class T>
void call_edge_geometry(const record::EdgeGeometrySizes& sizes, const record::EdgeGeometryIndex& index,
                        int64_t vectors, int64_t lengths, int64_t y, uintptr_t stream) {
  const EdgeGeometryShape shape = shape_of(sizes, 0);
  const EdgeGeometryRows<T> rows = rows_of<T>(index);
  py::gil_scoped_release release;
  cuda::edge_geometry(shape, rows, at<const T>(vectors), at<T>(lengths), at<T>(y), at<void>(stream));
}

template <class T>
void call_edge_geometry_backward(const record::EdgeGeometrySizes& sizes,
                                 const record::EdgeGeometryIndex& index, int64_t vectors, int64_t g_lengths,
                                 int64_t gy, int64_t gv, uintptr_t stream) {
  const EdgeGeometryShape shape = shape_of(sizes, 0);
  const EdgeGeometryRows<T> rows = rows_of<T>(index);
  py::gil_scoped_release release;
  cuda::edge_geometry_backward(shape, rows, at<const T>(vectors), at<const T>(g_lengths), at<const T>(gy),
                               at<T>(gv), at<void>(stream));
}

template <class T>
void call_edge_geometry_double_backward(const record::EdgeGeometrySizes& sizes,
                                        const record::EdgeGeometryIndex& index, int64_t vectors,
                                        int64_t g_lengths, int64_t gy, int64_t av, int64_t a_lengths,
                                        int64_t ay, int64_t gv, uintptr_t stream) {
  const EdgeGeometryShape shape = shape_of(sizes, 0);
  const EdgeGeometryRows<T> rows = rows_of<T>(index);
  py::gil_scoped_release release;
  cuda::edge_geometry_double_backward(shape, rows, at<const T>(vectors), at<const T>(g_lengths),
                                      at<const T>(gy), at<const T>(av), at<T>(a_lengths), at<T>(ay),
                                      at<T>(gv), at<void>(stream));
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
