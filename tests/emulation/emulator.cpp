// Fiber scheduler of the CPU emulation. Compile WITHOUT -fsanitize=..., but with the same
// -DEMULATOR_ASAN / -DEMULATOR_TSAN as the kernels were built for, so that the annotations are in.
#include "emulator.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <vector>

#include "fibers.hpp"

namespace emulator {
#if defined(EMULATOR_TSAN)
constexpr size_t SETS = 3;
#else
constexpr size_t SETS = 1;
#endif
Thread* cur;
dim3 g_block, g_grid;
static Config cfg;
static std::vector<Fiber*>& pool = *new std::vector<Fiber*>;  // stacks live across launches
static std::vector<Fiber*> th;                                // threads of the running block, by linear index
static Fiber sched;
static void (*k_fn)(void*);
static void* k_ctx;
static const char* k_name;
struct SharedVar {
  void *tag, *p;
};
static SharedVar shared_[64];
static int n_shared;
static size_t shared_bytes, dyn_bytes;
static void* dyn_;
static int alive, at_block, red_[2], bar_parity;
static char bar_tags[8192], *bar_sync = bar_tags, launch_begin, launch_end, fence_tag;
static long n_err;
static cudaError_t last_err;
static unsigned long long n_threads;
static std::mt19937 rng;
static size_t stack_size;
[[maybe_unused]] static const void* main_bottom;
[[maybe_unused]] static size_t main_size;

Config& config() { return cfg; }
long errors() { return n_err; }
void reset_errors() { n_err = 0; }
unsigned long long threads_run() { return n_threads; }
cudaError_t take_error() {
  auto e = last_err;
  last_err = 0;
  return e;
}
static void err(const char* what, const char* f, int l) {
  Fiber* t = static_cast<Fiber*>(cur);
  if (++n_err <= 8) {
    fprintf(stderr, "emulator: %s: %s at %s:%d", k_name, what, f ? f : "?", l);
    if (t)
      fprintf(stderr, " block (%u,%u,%u) thread (%u,%u,%u)", t->bid.x, t->bid.y, t->bid.z, t->tid.x, t->tid.y,
              t->tid.z);
    fputc('\n', stderr);
  }
  if (cfg.abort_on_error) abort();
}

static void switch_to(Fiber& from, Fiber& to, bool dying = false) {
  cur = &to == &sched ? nullptr : &to;
#if defined(EMULATOR_ASAN)
  __sanitizer_start_switch_fiber(dying ? nullptr : &from.fake, &to == &sched ? main_bottom : to.stack,
                                 &to == &sched ? main_size : stack_size);
#endif
#if defined(EMULATOR_TSAN)
  __tsan_switch_to_fiber(to.tsan, 1);
#endif
#ifdef EMULATOR_UCONTEXT
  swapcontext(&from.uc, &to.uc);
#else
  emulator_switch(&from.sp, to.sp);
#endif
#if defined(EMULATOR_ASAN)
  const void* b;
  size_t s;
  __sanitizer_finish_switch_fiber(from.fake, &b, &s);
  if (&from == &sched && !main_bottom) {
    main_bottom = b;
    main_size = s;
  }
#endif
  (void)dying;
}
static void yield() { switch_to(*static_cast<Fiber*>(cur), sched); }
static void entry() {
#if defined(EMULATOR_ASAN)
  const void* b;
  size_t s;
  __sanitizer_finish_switch_fiber(nullptr, &b, &s);
  main_bottom = b;
  main_size = s;
#endif
  for (;;) {
    Fiber* me = static_cast<Fiber*>(cur);
    __tsan_acquire(&launch_begin);
    k_fn(k_ctx);
    __tsan_release(&launch_end);
    me = static_cast<Fiber*>(cur);
    me->st = DONE;
    --alive;
    switch_to(*me, sched);
  }
}
static Fiber* new_fiber() {
  Fiber* f = new Fiber;
  size_t pg = sysconf(_SC_PAGESIZE);
  char* m = static_cast<char*>(mmap(nullptr, stack_size + pg, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (m == MAP_FAILED) {
    perror("mmap");
    abort();
  }
  mprotect(m, pg, PROT_NONE);
  f->stack = m + pg;
#if defined(EMULATOR_TSAN)
  f->tsan = __tsan_create_fiber(0);
#endif
#ifdef EMULATOR_UCONTEXT
  getcontext(&f->uc);
  f->uc.uc_stack.ss_sp = f->stack;
  f->uc.uc_stack.ss_size = stack_size;
  f->uc.uc_link = nullptr;
  makecontext(&f->uc, entry, 0);
#else
  void** s = reinterpret_cast<void**>(f->stack + stack_size);
  *--s = nullptr;  // keep the ABI's 16-byte alignment at entry
  *--s = reinterpret_cast<void*>(&entry);
  s -= 6;
  memset(s, 0, 6 * sizeof(void*));
  f->sp = s;
#endif
  return f;
}

// exact size: ASan sees overruns; NaN pattern: reads of shared memory nobody wrote become NaN
static void* poisoned(size_t n) {
  void* p = nullptr;
  TSAN_IGNORE_BEGIN;  // a fresh block: no owner, no history
  if (posix_memalign(&p, 16, n ? n : 1)) abort();
  memset(p, 0xff, n);
  TSAN_IGNORE_END;
  return p;
}
static void unpoison(void* p) {
  TSAN_IGNORE_BEGIN;
  free(p);
  TSAN_IGNORE_END;
}
void* shared_alloc(void* tag, size_t bytes) {
  for (int i = 0; i < n_shared; ++i)
    if (shared_[i].tag == tag) return shared_[i].p;
  if (n_shared == 64) abort();
  shared_bytes += bytes;
  if (shared_bytes + dyn_bytes > cfg.max_smem) err("shared memory over the limit", "", 0);
  shared_[n_shared] = {tag, poisoned(bytes)};
  return shared_[n_shared++].p;
}
void* dynamic_shared() { return dyn_; }
int lane() { return static_cast<Fiber*>(cur)->lin & 31; }

static void release_block() {
  const char* f0 = nullptr;
  int l0 = 0;
  for (Fiber* t : th)
    if (t->st == AT_BLOCK) {
      if (!f0) {
        f0 = t->file;
        l0 = t->line;
      } else if (t->line != l0 || strcmp(t->file, f0)) {
        cur = t;
        err("threads of a block wait at different __syncthreads", t->file, t->line);
        cur = nullptr;
        break;
      }
    }
  red_[1] = red_[0];
  for (Fiber* t : th)
    if (t->st == AT_BLOCK) t->st = READY;
  at_block = 0;
  red_[0] = 0;
  bar_parity ^= 1;
}
void sync_block(const char* f, int l, bool) {
  Fiber* t = static_cast<Fiber*>(cur);
  if (alive != int(th.size())) err("__syncthreads after some threads of the block have returned", f, l);
  t->file = f;
  t->line = l;
  t->st = AT_BLOCK;
  ++at_block;
  int par = bar_parity;
  __tsan_release(&bar_sync[par]);
  yield();
  __tsan_acquire(&bar_sync[par]);
}
int sync_block_reduce(int pred, int op, const char* f, int l) {
  red_[0] += pred != 0;
  int n = int(th.size());
  sync_block(f, l);
  return op == 0 ? red_[1] : op == 1 ? red_[1] == n : red_[1] != 0;
}
// ---- warp collectives: the last lane of the mask to arrive completes it for all
static uint64_t collective(unsigned mask, uint64_t bits, int src, int kind, int pred, const char* f, int l) {
  Fiber* t = static_cast<Fiber*>(cur);
  int w0 = t->lin & ~31, n = std::min<int>(32, int(th.size()) - w0);
  if (!(mask >> (t->lin & 31) & 1)) {
    err("caller is not in its own warp mask", f, l);
    return bits;
  }
  t->in = bits;
  t->src = src;
  t->kind = kind;
  t->pred = pred;
  t->wmask = mask;
  t->file = f;
  t->line = l;
  t->st = AT_WARP;
  bool all = true, bad = false;
  for (int i = 0; i < n; ++i)
    if (mask >> i & 1) {
      Fiber* o = th[w0 + i];
      if (o->st == DONE) continue;  // exited lanes count as arrived
      if (o->st != AT_WARP) {
        all = false;
        continue;
      }
      if (o->wmask != mask || o->kind != kind) bad = true;
    }
  if (all && bad) err("lanes of one warp mask are in different collectives or masks", f, l);
  if (all) {
    unsigned ballot = 0;
    for (int i = 0; i < n; ++i)
      if ((mask >> i & 1) && th[w0 + i]->st == AT_WARP && th[w0 + i]->pred) ballot |= 1u << i;
    for (int i = 0; i < n; ++i)
      if ((mask >> i & 1) && th[w0 + i]->st == AT_WARP) {
        Fiber* o = th[w0 + i];
        if (kind >= 1 && kind <= 4) {
          int s = o->src;
          if (s >= n || !(mask >> s & 1) || th[w0 + s]->st != AT_WARP) {
            o->out = ~0ull;
            err("shuffle reads a lane that is not in the mask or has exited", f, l);
          } else
            o->out = th[w0 + s]->in;
        } else
          o->out = ballot;
        if (kind == 6)
          for (int j = 0; j < n; ++j)
            if ((mask >> j & 1) && th[w0 + j]->st != DONE)
              o->acq[o->n_acq++] = &th[w0 + j]->wtag[th[w0 + j]->wpar];
      }
    for (int i = 0; i < n; ++i)
      if ((mask >> i & 1) && th[w0 + i]->st == AT_WARP) th[w0 + i]->st = READY;
  } else {
    yield();
  }
  return t->out;
}
uint64_t warp_exchange(unsigned m, uint64_t b, int src, int kind, const char* f, int l) {
  return collective(m, b, src, kind, 0, f, l);
}
unsigned warp_ballot(unsigned m, int p, const char* f, int l) {
  return unsigned(collective(m, 0, 0, 5, p, f, l));
}
void warp_sync(unsigned m, const char* f, int l) {  // only __syncwarp orders memory; shuffles do not
  Fiber* t = static_cast<Fiber*>(cur);
  __tsan_release(&t->wtag[t->wpar]);
  collective(m, 0, 0, 6, 0, f, l);
  for (int i = 0; i < t->n_acq; ++i) __tsan_acquire(t->acq[i]);
  t->n_acq = 0;
  t->wpar ^= 1;
}
void fence() {
  __tsan_acquire(&fence_tag);
  __tsan_release(&fence_tag);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
unsigned active_mask() {
  Fiber* t = static_cast<Fiber*>(cur);
  return 1u << (t->lin & 31);  // the weakest legal answer: code must not rely on more
}
void atomic_point() {
  if (cfg.preempt && rng() % cfg.preempt == 0) yield();
}

static void run_block(uint3 bid) {
  int n = int(th.size());
  static unsigned long nb;
  bar_sync = bar_tags + 2 * (nb++ % 4096);
  bar_parity = 0;
  alive = n;
  at_block = 0;
  red_[0] = 0;
  n_threads += n;
  for (int i = 0; i < n; ++i) {
    Fiber* f = th[i];
    f->bid = bid;
    f->lin = i;
    f->st = READY;
#if defined(EMULATOR_TSAN)
    char nm[64];
    snprintf(nm, sizeof nm, "block %u,%u,%u thread %d", bid.x, bid.y, bid.z, i);
    __tsan_set_fiber_name(f->tsan, nm);
#endif
    f->tid = {unsigned(i) % g_block.x, unsigned(i) / g_block.x % g_block.y,
              unsigned(i) / (g_block.x * g_block.y)};
  }
  static std::vector<int> ord;
  ord.resize(n);
  for (int i = 0; i < n; ++i) ord[i] = cfg.order == REVERSE ? n - 1 - i : i;
  dyn_ = poisoned(dyn_bytes);
  while (alive) {
    if (cfg.order == RANDOM) std::shuffle(ord.begin(), ord.end(), rng);
    bool moved = false;
    for (int i : ord)
      if (th[i]->st == READY) {
        moved = true;
        switch_to(sched, *th[i]);
      }
    if (alive && at_block == alive) {
      release_block();
      moved = true;
    }
    if (!moved) {  // nobody can go on
      for (Fiber* t : th)
        if (t->st == AT_WARP || t->st == AT_BLOCK) {
          cur = t;
          err(t->st == AT_WARP ? "deadlock: waits in a warp collective" : "deadlock: waits in __syncthreads",
              t->file, t->line);
          cur = nullptr;
          break;
        }
      last_err = cudaErrorLaunchFailure;
      for (Fiber*& p : pool) p = nullptr;  // abandon these stacks
      pool.clear();
      break;
    }
  }
  while (n_shared) unpoison(shared_[--n_shared].p);
  shared_bytes = 0;
  unpoison(dyn_);
  dyn_ = nullptr;
}
void run(const char* name, dim3 g, dim3 b, size_t smem, void (*fn)(void*), void* ctx) {
  k_name = name;
  k_fn = fn;
  k_ctx = ctx;
  size_t n = size_t(b.x) * b.y * b.z, ng = size_t(g.x) * g.y * g.z;
  if (!n || !ng || n > 1024 || b.x > 1024 || b.y > 1024 || b.z > 64 || g.x > 2147483647u || g.y > 65535 ||
      g.z > 65535) {
    last_err = cudaErrorInvalidConfiguration;
    return;
  }
  if (smem > cfg.max_smem) {
    last_err = cudaErrorInvalidValue;
    return;
  }
  if (!stack_size) stack_size = cfg.stack;
  rng.seed(cfg.seed);
  dyn_bytes = smem;
  g_block = b;
  g_grid = g;
#if defined(EMULATOR_TSAN)
  sched.tsan = __tsan_get_current_fiber();
#endif
  std::vector<size_t> order(ng);
  for (size_t i = 0; i < ng; ++i) order[i] = cfg.order == REVERSE ? ng - 1 - i : i;
  if (cfg.order == RANDOM) std::shuffle(order.begin(), order.end(), rng);
  __tsan_release(&launch_begin);
  th.resize(n);
  size_t rot = cfg.seed;
  for (size_t i : order) {
    // TSan: blocks take turns among SETS disjoint sets of fibers, which never synchronise with each
    // other, so races between blocks of different sets are seen
    size_t set = rot++ % SETS * n;
    while (pool.size() < set + n) pool.push_back(new_fiber());
    for (size_t k = 0; k < n; ++k) th[k] = pool[set + k];
    run_block({unsigned(i % g.x), unsigned(i / g.x % g.y), unsigned(i / (size_t(g.x) * g.y))});
    if (last_err) break;
  }
  __tsan_acquire(&launch_end);
}
}  // namespace emulator
