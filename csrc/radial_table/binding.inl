// Included by bindings.cpp, inside its anonymous namespace. Addresses; that of slot and other are 0 where the
// header says null.

// other: a of expand, g of contract
template <class T, bool contracts>
void call_radial_table(const record::RadialTableSizes& sizes, const record::RadialTableIndex& index,
                       int64_t r, int64_t other, int64_t out, int n_threads) {
  const RadialTableShape shape = shape_of(sizes, n_threads);
  const RadialTableSlots slots = slots_of(index);
  const auto* coefficients = at<const T>(index.coefficients);
  const auto* slot = at<const int64_t>(index.slot);
  py::gil_scoped_release release;
  if constexpr (contracts)
    PATHTUNE_CALL(radial_contract<T>, shape, slots, coefficients, slot, at<const T>(r), at<const T>(other),
                  at<T>(out));
  else
    PATHTUNE_CALL(radial_expand<T>, shape, slots, coefficients, slot, at<const T>(r), at<const T>(other),
                  at<T>(out));
}

void bind_radial_table(py::module_& m) {
  bind_records<record::RadialTableSizes, record::RadialTableIndex>(m);
  m.def("radial_expand_f32", &call_radial_table<float, false>);
  m.def("radial_expand_f64", &call_radial_table<double, false>);
  m.def("radial_contract_f32", &call_radial_table<float, true>);
  m.def("radial_contract_f64", &call_radial_table<double, true>);
}
