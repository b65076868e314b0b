// Included by bindings.cpp, inside its anonymous namespace.

// Addresses and sizes of a layer, in this order (0 where the header says null):
// blocks, runs, u_tiles, v_tiles, v_row, place, n_blocks, n_candidates, paths, coefficients, dim_in, dim_out,
// first term, one past its last, other, delta, segment, n_thresholds, grad_values,
// grad_thresholds
using SampledLayerFields = std::array<int64_t, 20>;
// x, g, order, ptr, present, n_present
using SampledTermFields = std::array<int64_t, 6>;

template <class P>
P* address(int64_t field) {
  return at<P>(uintptr_t(field));
}

template <class T>
void bind_sampled_gradient(const std::vector<SampledLayerFields>& layers,
                           const std::vector<SampledTermFields>& terms, int n_threads) {
  std::vector<SampledTerm<T>> term_list;
  for (const auto& f : terms)
    term_list.push_back({address<const T>(f[0]), address<const T>(f[1]),
                         SpeciesGroups{address<const int64_t>(f[2]), address<const int64_t>(f[3]),
                                       address<const int64_t>(f[4])},
                         f[5]});
  std::vector<SampledLayer<T>> layer_list;
  for (const auto& f : layers) {
    const SampledIndex candidates{address<const SampledBlock>(f[0]),
                                  address<const SampledRun>(f[1]),
                                  address<const int32_t>(f[2]),
                                  address<const int32_t>(f[3]),
                                  address<const int32_t>(f[4]),
                                  address<const int32_t>(f[5]),
                                  f[6],
                                  f[7]};
    layer_list.push_back({candidates, address<const SpeciesLinearPath>(f[8]), address<const double>(f[9]),
                          f[10], f[11], term_list.data() + f[12], f[13] - f[12], address<const T>(f[14]),
                          address<const T>(f[15]), address<const int64_t>(f[16]), f[17], address<T>(f[18]),
                          address<T>(f[19])});
  }
  py::gil_scoped_release release;
  PATHTUNE_CALL(sampled_gradient<T>, layer_list.data(), int64_t(layer_list.size()), n_threads);
}

void define_sampled_gradient(py::module_& m) {
  m.def("sampled_gradient_f32", &bind_sampled_gradient<float>);
  m.def("sampled_gradient_f64", &bind_sampled_gradient<double>);
}
