#include "isa.hpp"

#include <atomic>
#include <stdexcept>

namespace pathtune {

Isa best_isa() {
#if PATHTUNE_N_ISAS == 3
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::plain;
}

namespace {
std::atomic<Isa>& active() {
  static std::atomic<Isa> isa{best_isa()};
  return isa;
}
}  // namespace

Isa active_isa() { return active().load(std::memory_order_relaxed); }

void set_active_isa(Isa isa) {
  if (isa > best_isa()) throw std::invalid_argument("this build or processor lacks the instruction set");
  active().store(isa);
}

}  // namespace pathtune
