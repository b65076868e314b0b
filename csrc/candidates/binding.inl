// Included by bindings.cpp, inside its anonymous namespace.

template <class T>
py::array_t<T> array_of(const std::vector<T>& values, int64_t n_columns = 0) {
  if (!n_columns) return py::array_t<T>(int64_t(values.size()), values.data());
  return py::array_t<T>({int64_t(values.size()) / n_columns, n_columns}, values.data());
}

// (blocks, runs, u_tiles, v_tiles, v_row, place)
py::tuple call_group_candidates(const Array<int64_t>& indices,
                                const std::vector<std::array<int64_t, 3>>& shapes) {
  std::vector<PathShape> paths;
  for (const auto& [mul_in, n_species, mul_out] : shapes) paths.push_back({mul_in, n_species, mul_out});
  const int64_t *from = indices.data(), n = indices.size();
  GroupedCandidates found;
  {
    py::gil_scoped_release release;
    found = group_candidates(from, n, paths);
  }
  return py::make_tuple(array_of(found.blocks, 10), array_of(found.runs, 2), array_of(found.u_tiles),
                        array_of(found.v_tiles), array_of(found.v_row), array_of(found.place));
}

void bind_candidates(py::module_& m) { m.def("group_candidates", &call_group_candidates); }
