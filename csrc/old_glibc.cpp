// Of the published wheel only (PATHTUNE_PORTABLE): what libstdc++ asks of glibc 2.32 and newer. glibc sets
// its
// __libc_single_threaded while a process has one thread, so that reference counts need no atomics; this one,
// seen by the extension alone, says that there may always be more, as every glibc before 2.32 does by lacking
// it.
extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
