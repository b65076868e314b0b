// Bindings of edge_conv, included by bindings.cpp.

EdgeConvShape edge_conv_shape(py::tuple sizes, int n_threads) {
  auto size = [&](int i) { return sizes[i].cast<int64_t>(); };
  return {size(0), size(1), size(2), size(3), size(4), size(5), size(6), size(7), n_threads};
}

// Tensors are addresses, 0 where absent. index: the seven of EdgeConvGraph, paths, coefficients.
// order: 0 forward, 1 backward, 2 double backward.
template <class T, int order>
void bind_edge_conv(py::tuple sizes, py::tuple index, py::tuple inputs, py::tuple adjoints, py::tuple outputs,
                    int n_threads) {
  const EdgeConvShape shape = edge_conv_shape(sizes, n_threads);
  auto ints = [&](int i) { return at<const int64_t>(index[i].cast<uintptr_t>()); };
  const EdgeConvGraph graph{ints(0), ints(1), ints(2), ints(3), ints(4), ints(5), ints(6)};
  const auto* paths = at<const EdgeConvPath>(index[7].cast<uintptr_t>());
  const auto* coefficients = at<const double>(index[8].cast<uintptr_t>());
  auto read = [](py::tuple from, int i) { return at<const T>(from[i].cast<uintptr_t>()); };
  auto write = [&](int i) { return at<T>(outputs[i].cast<uintptr_t>()); };
  const EdgeConvInputs<T> in{read(inputs, 0), read(inputs, 1), read(inputs, 2), read(inputs, 3)};
  const EdgeConvAdjoints<T> a{read(adjoints, 0), read(adjoints, 1), read(adjoints, 2)};
  const EdgeConvOutputs<T> to{write(0), write(1), write(2), write(3)};
  py::gil_scoped_release release;
  if constexpr (order == 0)
    PATHTUNE_CALL(edge_conv<T>, shape, graph, paths, coefficients, in, to);
  else if constexpr (order == 1)
    PATHTUNE_CALL(edge_conv_backward<T>, shape, graph, paths, coefficients, in, to);
  else
    PATHTUNE_CALL(edge_conv_double_backward<T>, shape, graph, paths, coefficients, in, a, to);
}

void define_edge_conv(py::module_& m) {
  m.def("edge_conv_f32", &bind_edge_conv<float, 0>);
  m.def("edge_conv_f64", &bind_edge_conv<double, 0>);
  m.def("edge_conv_backward_f32", &bind_edge_conv<float, 1>);
  m.def("edge_conv_backward_f64", &bind_edge_conv<double, 1>);
  m.def("edge_conv_double_backward_f32", &bind_edge_conv<float, 2>);
  m.def("edge_conv_double_backward_f64", &bind_edge_conv<double, 2>);
}
