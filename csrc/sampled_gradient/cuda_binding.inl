// Included by cuda_bindings.cpp, inside its anonymous namespace.

template <class T>
cuda::SampledDeviceLayer<T> device_layer(const record::SampledDeviceLayer& given,
                                         const SampledTerm<T>* terms) {
  return {.items = at<const cuda::SampledItem>(given.items),
          .channels = at<const cuda::SampledChannels>(given.channels),
          .place = at<const int32_t>(given.place),
          .n_items = given.n_items,
          .n_candidates = given.n_candidates,
          .dim_in = given.dim_in,
          .dim_out = given.dim_out,
          .terms = terms + given.first_term,
          .n_terms = given.end_term - given.first_term,
          .n_chunks = given.n_chunks,
          .partial = at<T>(given.partial),
          .other = at<const T>(given.other),
          .delta = at<const T>(given.delta),
          .segment = at<const int64_t>(given.segment),
          .n_thresholds = given.n_thresholds,
          .block_sums = at<double>(given.block_sums),
          .grad_values = at<T>(given.grad_values),
          .grad_thresholds = at<T>(given.grad_thresholds)};
}

template <class T>
void call_sampled_gradient(const std::vector<record::SampledDeviceLayer>& layer_records,
                           const std::vector<record::SampledTerm>& term_records, uintptr_t stream) {
  const std::vector<SampledTerm<T>> terms = sampled_terms<T>(term_records);
  std::vector<cuda::SampledDeviceLayer<T>> layers;
  for (const auto& given : layer_records) layers.push_back(device_layer<T>(given, terms.data()));
  py::gil_scoped_release release;
  cuda::sampled_gradient(layers.data(), int64_t(layers.size()), at<void>(stream));
}

void bind_sampled_gradient(py::module_& m) {
  bind_records<record::SampledDeviceLayer, record::SampledTerm>(m);
  m.def("sampled_gradient_f32", &call_sampled_gradient<float>);
  m.def("sampled_gradient_f64", &call_sampled_gradient<double>);
}
