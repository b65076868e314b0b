// Instruction sets: every CPU kernel exists once per set, in a namespace of that name, and is chosen at
// run time. This header is the whole contract; vector.hpp is what a kernel is written with.
#pragma once
#include <utility>

namespace pathtune {

enum class Isa : int { plain = 0, avx2 = 1, avx512 = 2 };

Isa best_isa();            // the best set that both this build and this processor have
Isa active_isa();          // best_isa(), unless a test asked for less
void set_active_isa(Isa);  // throws std::invalid_argument above best_isa()

}  // namespace pathtune

// Declares the same functions in every instruction set's namespace.
#define PATHTUNE_DECLARE_PER_ISA(...) \
  namespace plain {                   \
  __VA_ARGS__                         \
  }                                   \
  namespace avx2 {                    \
  __VA_ARGS__                         \
  }                                   \
  namespace avx512 {                  \
  __VA_ARGS__                         \
  }

// Calls `function(...)` of the active instruction set.
#if PATHTUNE_N_ISAS == 3
#define PATHTUNE_CALL(function, ...)               \
  do {                                             \
    switch (::pathtune::active_isa()) {            \
      case ::pathtune::Isa::avx512:                \
        ::pathtune::avx512::function(__VA_ARGS__); \
        break;                                     \
      case ::pathtune::Isa::avx2:                  \
        ::pathtune::avx2::function(__VA_ARGS__);   \
        break;                                     \
      default:                                     \
        ::pathtune::plain::function(__VA_ARGS__);  \
    }                                              \
  } while (false)
#else
#define PATHTUNE_CALL(function, ...) ::pathtune::plain::function(__VA_ARGS__)
#endif
