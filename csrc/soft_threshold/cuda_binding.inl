// Included by cuda_bindings.cpp, inside its anonymous namespace, after sampled_gradient's.

// n_candidates, values, thresholds, segment, indices, base, effective, delta (0 where the header says null)
using ThresholdedLayerFields = std::array<int64_t, 8>;

template <class T>
void bind_soft_threshold(const std::vector<ThresholdedLayerFields>& fields, uintptr_t counts,
                         uintptr_t stream) {
  std::vector<ThresholdedLayer<T>> layers;
  for (const auto& f : fields)
    layers.push_back({f[0], address<const T>(f[1]), address<const T>(f[2]), address<const int64_t>(f[3]),
                      address<const int64_t>(f[4]), address<const T>(f[5]), address<T>(f[6]),
                      address<T>(f[7]), 0, 0});
  py::gil_scoped_release release;
  cuda::soft_threshold(layers.data(), int64_t(layers.size()), at<int64_t>(counts), at<void>(stream));
}

void define_soft_threshold(py::module_& m) {
  m.def("soft_threshold_f32", &bind_soft_threshold<float>);
  m.def("soft_threshold_f64", &bind_soft_threshold<double>);
}
