// Included by bindings.cpp, inside its anonymous namespace.

// sizes: as species_linear, then n_blocks, n_candidates
// index: order, ptr, present, paths, coefficients, then blocks, runs, u_tiles, v_tiles, v_row, place
template <class T>
void bind_sampled_gradient(py::tuple sizes, int n_threads, py::tuple index, uintptr_t x, uintptr_t g,
                           uintptr_t out) {
  const auto n = sizes.cast<std::array<int64_t, 8>>();
  const auto p = index.cast<std::array<uintptr_t, 11>>();
  const SpeciesLinearShape shape{n[0], n[1], n[2], n[3], n[4], n[5], n_threads};
  const SpeciesGroups groups{at<const int64_t>(p[0]), at<const int64_t>(p[1]), at<const int64_t>(p[2])};
  const SampledIndex candidates{at<const SampledBlock>(p[5]),
                                at<const SampledRun>(p[6]),
                                at<const int32_t>(p[7]),
                                at<const int32_t>(p[8]),
                                at<const int32_t>(p[9]),
                                at<const int32_t>(p[10]),
                                n[6],
                                n[7]};
  py::gil_scoped_release release;
  PATHTUNE_CALL(sampled_gradient<T>, shape, groups, candidates, at<const SpeciesLinearPath>(p[3]),
                at<const double>(p[4]), at<const T>(x), at<const T>(g), at<T>(out));
}

void define_sampled_gradient(py::module_& m) {
  m.def("sampled_gradient_f32", &bind_sampled_gradient<float>);
  m.def("sampled_gradient_f64", &bind_sampled_gradient<double>);
}
