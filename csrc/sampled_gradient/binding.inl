// Included by bindings.cpp, inside its anonymous namespace.

template <class T>
void call_sampled_gradient(const std::vector<record::SampledLayer>& layer_records,
                           const std::vector<record::SampledTerm>& term_records, int n_threads) {
  const std::vector<SampledTerm<T>> terms = sampled_terms<T>(term_records);
  std::vector<SampledLayer<T>> layers;
  for (const auto& given : layer_records) layers.push_back(sampled_layer<T>(given, terms.data()));
  py::gil_scoped_release release;
  PATHTUNE_CALL(sampled_gradient<T>, layers.data(), int64_t(layers.size()), n_threads);
}

void bind_sampled_gradient(py::module_& m) {
  bind_records<record::SampledLayer, record::SampledDeviceLayer, record::SampledTerm>(m);
  m.def("sampled_gradient_f32", &call_sampled_gradient<float>);
  m.def("sampled_gradient_f64", &call_sampled_gradient<double>);
}
