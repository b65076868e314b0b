// Included by bindings.cpp, inside its anonymous namespace. Tensors are addresses, 0 where the header says
// null.

// rows: row_ptr, row_edges, sign, c. tensors: those of the function of this order (0 forward, 1 backward, 2
// double backward) in the header's order.
template <class T, int order>
void call_edge_geometry(py::tuple sizes, py::tuple rows, py::tuple tensors, int n_threads) {
  const EdgeGeometryShape shape{sizes[0].cast<int64_t>(), sizes[1].cast<int>(), n_threads};
  auto address = [](py::tuple from, int i) { return from[i].cast<uintptr_t>(); };
  const EdgeGeometryRows<T> r{at<const int64_t>(address(rows, 0)), at<const int64_t>(address(rows, 1)),
                              at<const T>(address(rows, 2)), at<const double>(address(rows, 3))};
  auto in = [&](int i) { return at<const T>(address(tensors, i)); };
  auto out = [&](int i) { return at<T>(address(tensors, i)); };
  if constexpr (order == 0)
    PATHTUNE_CALL(edge_geometry<T>, shape, r, in(0), out(1), out(2));
  else if constexpr (order == 1)
    PATHTUNE_CALL(edge_geometry_backward<T>, shape, r, in(0), in(1), in(2), out(3));
  else
    PATHTUNE_CALL(edge_geometry_double_backward<T>, shape, r, in(0), in(1), in(2), in(3), out(4), out(5),
                  out(6));
}

void bind_edge_geometry(py::module_& m) {
  m.def("edge_geometry_f32", &call_edge_geometry<float, 0>);
  m.def("edge_geometry_f64", &call_edge_geometry<double, 0>);
  m.def("edge_geometry_backward_f32", &call_edge_geometry<float, 1>);
  m.def("edge_geometry_backward_f64", &call_edge_geometry<double, 1>);
  m.def("edge_geometry_double_backward_f32", &call_edge_geometry<float, 2>);
  m.def("edge_geometry_double_backward_f64", &call_edge_geometry<double, 2>);
}
