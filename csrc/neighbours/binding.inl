// Included by bindings.cpp, inside its anonymous namespace.

struct EdgeArrays {
  explicit EdgeArrays(int64_t n) : sender(n), receiver(n), unit_shifts({n, int64_t(3)}), pair(n) {}
  Edges edges() {
    return {sender.mutable_data(), receiver.mutable_data(), unit_shifts.mutable_data(), pair.mutable_data()};
  }
  py::array_t<int64_t> sender, receiver;
  py::array_t<double> unit_shifts;
  py::array_t<int64_t> pair;
};

// (sender, receiver, unit_shifts, pair, (i, j, distance) of the closest pair or None); None where images are
// near
py::object call_edges_of_molecule(const Array<double>& positions, const Array<double>& cell,
                                  const Array<bool>& pbc, double r_max) {
  const double *from = positions.data(), *vectors = cell.data();
  const bool* periodic = pbc.data();
  const int64_t n_atoms = positions.shape(0);
  Pairs pairs;
  {
    py::gil_scoped_release release;
    if (n_atoms && is_apart_from_images(from, n_atoms, vectors, periodic, r_max))
      pairs = pairs_of_molecule(from, n_atoms, r_max);
    else
      pairs.closest = -2;
  }
  if (pairs.closest < -1) return py::none();
  EdgeArrays found(2 * int64_t(pairs.i.size()));
  fill_molecule(pairs, n_atoms, found.edges());
  py::object closest = py::none();
  if (pairs.closest >= 0) {
    const size_t p = size_t(pairs.closest);
    closest = py::make_tuple(pairs.i[p], pairs.j[p], std::sqrt(pairs.closest_A2));
  }
  return py::make_tuple(found.sender, found.receiver, found.unit_shifts, found.pair, closest);
}

// (sender, receiver, unit_shifts, pair)
py::tuple call_edges_of_pairs(const Array<int64_t>& i, const Array<int64_t>& j, const Array<int64_t>& shift,
                              int64_t n_atoms) {
  EdgeArrays found(2 * i.size());
  const Edges edges = found.edges();
  const int64_t *from = i.data(), *to = j.data(), *cells = shift.data(), n_pairs = i.size();
  {
    py::gil_scoped_release release;
    fill_edges(from, to, cells, n_pairs, n_atoms, edges);
  }
  return py::make_tuple(found.sender, found.receiver, found.unit_shifts, found.pair);
}

void bind_neighbours(py::module_& m) {
  m.def("edges_of_molecule", &call_edges_of_molecule);
  m.def("edges_of_pairs", &call_edges_of_pairs);
}
