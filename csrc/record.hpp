// Records: the integers that Python hands to a binding together, each by its name.
//
// PATHTUNE_RECORD(Sizes, n_nodes, dim_in) is a struct of two int64_t and the list of their names. Python
// passes a NamedTuple of the same name; python/pathtune/ops/_records.py refuses to be imported where its
// fields are others, or in another order. A field is a size, or the address of a tensor, 0 where there is
// none.
#pragma once
#include <cstdint>

#define PATHTUNE_RECORD(Name, ...)                      \
  struct Name {                                         \
    int64_t __VA_ARGS__;                                \
    static constexpr const char* name = #Name;          \
    static constexpr const char* fields = #__VA_ARGS__; \
  };

namespace pathtune {

template <class P>
P* at(int64_t address) {
  return reinterpret_cast<P*>(uintptr_t(address));
}

}  // namespace pathtune
