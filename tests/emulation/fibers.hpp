// What a fiber of emulator.cpp is, how one is switched to, and what the sanitizers are told of it.
#pragma once
#include "emulator.hpp"

#if defined(EMULATOR_ASAN)
extern "C" void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void* fake, const void** bottom, size_t* size);
#endif
#if defined(EMULATOR_TSAN)
extern "C" void* __tsan_create_fiber(unsigned);

extern "C" void* __tsan_get_current_fiber();
extern "C" void __tsan_switch_to_fiber(void*, unsigned);  // flag 1: no happens-before edge
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_set_fiber_name(void*, const char*);
extern "C" void __tsan_release(void*);
extern "C" void AnnotateIgnoreWritesBegin(const char*, int);
extern "C" void AnnotateIgnoreWritesEnd(const char*, int);
#define TSAN_IGNORE_BEGIN AnnotateIgnoreWritesBegin(__FILE__, __LINE__)
#define TSAN_IGNORE_END AnnotateIgnoreWritesEnd(__FILE__, __LINE__)
#else
#define TSAN_IGNORE_BEGIN
#define TSAN_IGNORE_END
static inline void __tsan_acquire(void*) {}
static inline void __tsan_release(void*) {}
#endif
#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
extern "C" void emulator_switch(void** save, void* to);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size emulator_switch,.-emulator_switch
)");
#else
#define EMULATOR_UCONTEXT 1
#include <ucontext.h>
#endif

namespace emulator {
enum State { READY, AT_BLOCK, AT_WARP, DONE };
struct Fiber : Thread {
  State st = DONE;
  int lin = 0;  // linear thread index
  const char* file = nullptr;
  int line = 0, kind = 0, src = 0, pred = 0;
  unsigned wmask = 0;
  uint64_t in = 0, out = 0;
  char* stack = nullptr;
  void* tsan = nullptr;
  void* fake = nullptr;
  char wtag[2] = {0, 0};
  int wpar = 0, n_acq = 0;
  void* acq[32];  // TSan: __syncwarp orders memory
#ifdef EMULATOR_UCONTEXT
  ucontext_t uc;
#else
  void* sp = nullptr;
#endif
};
}  // namespace emulator
