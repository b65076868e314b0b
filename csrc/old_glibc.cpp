// Of the published wheel only (PATHTUNE_PORTABLE): what libstdc++ asks of glibc 2.32 and newer. glibc sets
// its
// __libc_single_threaded while a process has one thread, so that reference counts need no atomics; this one,
// seen by the extension alone, says that there may always be more, as every glibc before 2.32 does by lacking
// it.
//
// pthread_once is versioned anew in 2.34, when libpthread became a part of libc; std::call_once, which
// pybind11's numpy.h uses, asks for it. This one is the same for what goes through std::call_once.
#include <sched.h>

extern "C" {
__attribute__((visibility("hidden"))) int pthread_once(int* control, void (*routine)()) {
  enum { begun = 1, done = 2 };
  for (;;) {
    int found = 0;
    if (__atomic_load_n(control, __ATOMIC_ACQUIRE) == done) return 0;
    if (__atomic_compare_exchange_n(control, &found, begun, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) break;
    if (found == done) return 0;
    sched_yield();
  }
  try {
    routine();
  } catch (...) {
    __atomic_store_n(control, 0, __ATOMIC_RELEASE);
    throw;
  }
  __atomic_store_n(control, int(done), __ATOMIC_RELEASE);
  return 0;
}
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
