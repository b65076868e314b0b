// Included by bindings.cpp, inside its anonymous namespace.

// order: 0 forward, 1 backward, 2 double backward.
template <class T, int order>
void call_edge_conv(const record::EdgeConvSizes& sizes, const record::EdgeConvIndex& index,
                    const record::EdgeConvInputs& inputs, const record::EdgeConvAdjoints& adjoints,
                    const record::EdgeConvOutputs& outputs, int n_threads) {
  const EdgeConvShape shape = shape_of(sizes, n_threads);
  const EdgeConvGraph graph = graph_of(index);
  const auto* paths = at<const EdgeConvPath>(index.paths);
  const auto* coefficients = at<const double>(index.coefficients);
  const EdgeConvInputs<T> in = inputs_of<T>(inputs);
  const EdgeConvAdjoints<T> a = adjoints_of<T>(adjoints);
  const EdgeConvOutputs<T> to = outputs_of<T>(outputs);
  py::gil_scoped_release release;
  if constexpr (order == 0)
    PATHTUNE_CALL(edge_conv<T>, shape, graph, paths, coefficients, in, to);
  else if constexpr (order == 1)
    PATHTUNE_CALL(edge_conv_backward<T>, shape, graph, paths, coefficients, in, to);
  else
    PATHTUNE_CALL(edge_conv_double_backward<T>, shape, graph, paths, coefficients, in, a, to);
}

void bind_edge_conv(py::module_& m) {
  bind_records<record::EdgeConvSizes, record::EdgeConvIndex, record::EdgeConvInputs, record::EdgeConvAdjoints,
               record::EdgeConvOutputs>(m);
  bind_records<record::ConvSizes, record::ConvTable, record::ConvCut, record::ConvWants>(m);
  m.def("edge_conv_f32", &call_edge_conv<float, 0>);
  m.def("edge_conv_f64", &call_edge_conv<double, 0>);
  m.def("edge_conv_backward_f32", &call_edge_conv<float, 1>);
  m.def("edge_conv_backward_f64", &call_edge_conv<double, 1>);
  m.def("edge_conv_double_backward_f32", &call_edge_conv<float, 2>);
  m.def("edge_conv_double_backward_f64", &call_edge_conv<double, 2>);
}
