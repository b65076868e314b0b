// What bindings.cpp and cuda_bindings.cpp share: how a record and an address come from Python.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "record.hpp"

namespace pathtune {

template <class R, class = void>
struct IsRecord : std::false_type {};
template <class R>
struct IsRecord<R, std::void_t<decltype(R::fields)>> : std::true_type {};

}  // namespace pathtune

namespace pybind11::detail {

// A NamedTuple of the record's own name; any other object is a TypeError.
template <class R>
class type_caster<R, std::enable_if_t<pathtune::IsRecord<R>::value>> {
 public:
  PYBIND11_TYPE_CASTER(R, const_name("record"));

  bool load(handle from, bool) {
    constexpr size_t size = sizeof(R) / sizeof(int64_t);
    PyObject* tuple = from.ptr();
    const char* found = Py_TYPE(tuple)->tp_name;
    if (!PyTuple_Check(tuple) || size_t(PyTuple_GET_SIZE(tuple)) != size || std::strcmp(found, R::name) != 0)
      throw type_error(std::string("found a ") + found + ", expected a " + R::name + " of " + R::fields);
    std::array<int64_t, size> integers;
    for (size_t i = 0; i < size; ++i) integers[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, ssize_t(i)));
    if (PyErr_Occurred()) throw error_already_set();
    std::memcpy(&value, integers.data(), sizeof(R));
    return true;
  }
};

}  // namespace pybind11::detail

namespace pathtune {

// Enters the fields of each record into the module's dictionary `records`.
template <class... Records>
void bind_records(pybind11::module_& m) {
  if (!pybind11::hasattr(m, "records")) m.attr("records") = pybind11::dict();
  ((m.attr("records")[Records::name] = Records::fields), ...);
}

}  // namespace pathtune
