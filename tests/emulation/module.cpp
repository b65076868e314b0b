// The emulated CUDA kernels as a Python module: the bindings of a CUDA build, and the emulator's switches.
#include <dlfcn.h>
#include <pybind11/pybind11.h>

#include "cuda.hpp"
#include "emulator.hpp"

namespace py = pybind11;

PYBIND11_MODULE(PATHTUNE_EMULATED, m) {
  pathtune::bind_cuda(m);
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
  // launcher(kernel's offset in this file, grid, block, bytes of dynamic shared memory, bytes of each
  // argument)
  m.def("set_launcher", [](py::object launcher) {
    emulator::elsewhere = nullptr;
    if (launcher.is_none()) return;
    emulator::elsewhere = [launcher](const void* kernel, dim3 g, dim3 b, size_t shared_bytes,
                                     const emulator::Argument* arguments, size_t n) {
      py::gil_scoped_acquire python;
      Dl_info file;
      dladdr(kernel, &file);
      py::list bytes;
      for (size_t i = 0; i < n; ++i)
        bytes.append(py::bytes(static_cast<const char*>(arguments[i].bytes), arguments[i].size));
      launcher(reinterpret_cast<uintptr_t>(kernel) - reinterpret_cast<uintptr_t>(file.dli_fbase),
               py::make_tuple(g.x, g.y, g.z), py::make_tuple(b.x, b.y, b.z), shared_bytes, bytes);
    };
  });
}
