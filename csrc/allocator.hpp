// How this process's malloc treats large blocks.
#pragma once
#if defined(__GLIBC__) || defined(__gnu_linux__)
#include <malloc.h>
#endif

namespace pathtune {

// Keep freed blocks of any size for the next allocation instead of returning them to the system, so that a
// training step does not pay a page fault for every 4 kB of its buffers again. False where malloc is not
// glibc's.
inline bool keep_large_blocks() {
#if defined(M_MMAP_MAX) && defined(M_TRIM_THRESHOLD)
  return mallopt(M_MMAP_MAX, 0) && mallopt(M_TRIM_THRESHOLD, 0x7fffffff) && mallopt(M_TOP_PAD, 64 << 20);
#else
  return false;
#endif
}

}  // namespace pathtune
