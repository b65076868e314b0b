// Included by bindings.cpp, inside its anonymous namespace.

// (n_active, n_changed) of each layer
template <class T>
std::vector<std::pair<int64_t, int64_t>> call_soft_threshold(
    const std::vector<record::ThresholdRecord>& records, int n_threads) {
  std::vector<ThresholdedLayer<T>> layers = thresholded_layers<T>(records);
  {
    py::gil_scoped_release release;
    PATHTUNE_CALL(soft_threshold<T>, layers.data(), int64_t(layers.size()), n_threads);
  }
  std::vector<std::pair<int64_t, int64_t>> counts;
  for (const auto& layer : layers) counts.push_back({layer.n_active, layer.n_changed});
  return counts;
}

void bind_soft_threshold(py::module_& m) {
  bind_records<record::ThresholdRecord>(m);
  m.def("soft_threshold_f32", &call_soft_threshold<float>);
  m.def("soft_threshold_f64", &call_soft_threshold<double>);
}
