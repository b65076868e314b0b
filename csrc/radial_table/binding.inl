// Included by bindings.cpp, inside its anonymous namespace. Addresses; slot and a are 0 where the header says
// null.

template <class T, bool contracts>
void call_radial_table(py::tuple sizes, py::tuple slots, uintptr_t coefficients, uintptr_t slot, uintptr_t r,
                       uintptr_t other, uintptr_t out, int n_threads) {
  const RadialTableShape shape{sizes[0].cast<int64_t>(), sizes[1].cast<int64_t>(), sizes[2].cast<int>(),
                               n_threads};
  auto address = [&](int i) { return slots[i].cast<uintptr_t>(); };
  const RadialTableSlots tables{at<const int64_t>(address(0)), at<const int64_t>(address(1)),
                                at<const double>(address(2)), at<const double>(address(3))};
  py::gil_scoped_release release;
  if constexpr (contracts)
    PATHTUNE_CALL(radial_contract<T>, shape, tables, at<const T>(coefficients), at<const int64_t>(slot),
                  at<const T>(r), at<const T>(other), at<T>(out));
  else
    PATHTUNE_CALL(radial_expand<T>, shape, tables, at<const T>(coefficients), at<const int64_t>(slot),
                  at<const T>(r), at<const T>(other), at<T>(out));
}

void bind_radial_table(py::module_& m) {
  m.def("radial_expand_f32", &call_radial_table<float, false>);
  m.def("radial_expand_f64", &call_radial_table<double, false>);
  m.def("radial_contract_f32", &call_radial_table<float, true>);
  m.def("radial_contract_f64", &call_radial_table<double, true>);
}
