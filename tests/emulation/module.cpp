// The emulated CUDA kernels as a Python module: the bindings of a CUDA build, and the emulator's switches.
#include <pybind11/pybind11.h>

#include "cuda.hpp"
#include "emulator.hpp"

namespace py = pybind11;

PYBIND11_MODULE(PATHTUNE_EMULATED, m) {
  pathtune::define_cuda(m);
  m.def("set_order", [](int order, unsigned seed) {  // 0 forward, 1 reverse, 2 random
    emulator::config().order = emulator::Order(order);
    emulator::config().seed = seed;
    emulator::config().preempt = order == 2 ? 5 : 0;
  });
  m.def("errors", [] { return emulator::errors(); });
  m.def("reset", [] {
    emulator::reset_errors();
    emulator::bytes_loaded = emulator::bytes_stored = 0;
  });
  m.def("bytes_moved", [] { return py::make_tuple(emulator::bytes_loaded, emulator::bytes_stored); });
}
