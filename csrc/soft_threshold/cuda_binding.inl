// Included by cuda_bindings.cpp, inside its anonymous namespace.

// counts: (n_active, n_changed) of each layer, on the device
template <class T>
void call_soft_threshold(const std::vector<record::ThresholdRecord>& records, int64_t counts,
                         uintptr_t stream) {
  std::vector<ThresholdedLayer<T>> layers = thresholded_layers<T>(records);
  py::gil_scoped_release release;
  cuda::soft_threshold(layers.data(), int64_t(layers.size()), at<int64_t>(counts), at<void>(stream));
}

void bind_soft_threshold(py::module_& m) {
  bind_records<record::ThresholdRecord>(m);
  m.def("soft_threshold_f32", &call_soft_threshold<float>);
  m.def("soft_threshold_f64", &call_soft_threshold<double>);
}
