// Included by cuda_bindings.cpp, inside its anonymous namespace.

// Addresses and sizes of a layer, in the order of SampledDeviceLayer (0 where the header says null), with its
// first term and one past its last in the place of the terms.
using SampledLayerFields = std::array<int64_t, 18>;
// x, g, order, ptr, present, n_present
using SampledTermFields = std::array<int64_t, 6>;

template <class P>
P* address(int64_t field) {
  return at<P>(uintptr_t(field));
}

template <class T>
void bind_sampled_gradient(const std::vector<SampledLayerFields>& layers,
                           const std::vector<SampledTermFields>& terms, uintptr_t stream) {
  std::vector<SampledTerm<T>> term_list;
  for (const auto& f : terms)
    term_list.push_back({address<const T>(f[0]), address<const T>(f[1]),
                         SpeciesGroups{address<const int64_t>(f[2]), address<const int64_t>(f[3]),
                                       address<const int64_t>(f[4])},
                         f[5]});
  std::vector<cuda::SampledDeviceLayer<T>> layer_list;
  for (const auto& f : layers)
    layer_list.push_back({address<const cuda::SampledItem>(f[0]), address<const cuda::SampledChannels>(f[1]),
                          address<const int32_t>(f[2]), f[3], f[4], f[5], f[6], term_list.data() + f[7],
                          f[8] - f[7], f[9], address<T>(f[10]), address<const T>(f[11]),
                          address<const T>(f[12]), address<const int64_t>(f[13]), f[14],
                          address<double>(f[15]), address<T>(f[16]), address<T>(f[17])});
  py::gil_scoped_release release;
  cuda::sampled_gradient(layer_list.data(), int64_t(layer_list.size()), at<void>(stream));
}

void define_sampled_gradient(py::module_& m) {
  m.def("sampled_gradient_f32", &bind_sampled_gradient<float>);
  m.def("sampled_gradient_f64", &bind_sampled_gradient<double>);
}
