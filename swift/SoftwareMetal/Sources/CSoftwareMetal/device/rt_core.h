R"SM(
// Executor, part 1: fibers. Each thread of a threadgroup is a fiber; a worker (an OS thread) runs one threadgroup at a
// time.
#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>
#include <immintrin.h>
#include <sys/mman.h>
#define SM_EXPORT extern "C" __attribute__((visibility("default")))

// The kernel reaches its lane with one load: initial-exec, read by inline assembly in the stand-in library.
SM_EXPORT thread_local SmLane *sm_tls_lane __attribute__((tls_model("initial-exec"))) = nullptr;
SM_EXPORT thread_local uint64_t *sm_tls_counts __attribute__((tls_model("initial-exec"))) = nullptr;

asm(R"(
.text
.globl sm_switch
.hidden sm_switch
.type sm_switch,@function
sm_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sm_switch,.-sm_switch
)");
extern "C" void sm_switch(void **save, void *to);

namespace {
enum State : uint8_t { READY, AT_SIMD, AT_GROUP, AT_SLOT, AT_LOG, DONE };
constexpr size_t STACK = 256 << 10;
constexpr uint32_t MAX_SLOTS = 65536;
enum FindingKind : uint32_t {
  F_NONE,
  F_BOUNDS,
  F_UNINITIALIZED,
  F_RACE,
  F_DIVERGENCE,
  F_MISALIGNED,
  F_UNBOUND,
  F_DEADLOCK,
  F_LIMIT,
  F_ASYNC,
  F_NULL
};

struct Fiber {
  SmLane lane; // first: sm_tls_lane is a Fiber
  void *sp;
  char *stack;
  State state;
  uint32_t gen;
  uint32_t slot;
  uint64_t deviceHorizon, tgHorizon; // accesses of the own SIMD group before this clock are ordered
};
struct AsyncCopy {
  uint64_t id, element;
  uint8_t *dst;
  const uint8_t *src;
  uint64_t dstRow, srcRow, dx, dy, sx, sy;
  int clamp;
  bool toGroup;
  uint32_t site;
};
struct Pending {
  uint32_t kind, result, a, b, c, site, space;
  uint8_t *ptr;
  uint64_t stride;
  bool transpose, device;
  uint32_t element;
};

struct Simd : SmSimd {
  uint32_t limit, gen, kind, barrierFlags, firstLane, lanes;
  uint32_t used; // slots ever handed out in this threadgroup
  std::vector<Pending> pending;
  size_t pendingHead;
  std::vector<AsyncCopy> copies;
  uint64_t copyResult;
  AsyncCopy copyArgs;
};

struct Block {
  uint32_t offset, length;
  int32_t index;
}; // index >= 0: threadgroup(n); otherwise a static array

struct Worker {
  void *mainSp = nullptr;
  Fiber *cur = nullptr;
  SmDispatch *d = nullptr;
  std::vector<Fiber> fibers;
  std::vector<Simd *> simds;
  std::vector<uint32_t> order;
  std::vector<char *> stacks;
  uint32_t threads = 0, simdCount = 0, live = 0, arrived = 0, gen = 0, groupFlags = 0, barrierLine = 0;
  uint8_t *tg = nullptr;
  size_t tgUsed = 0;
  uint8_t *tgDynamic[SM_MAX_BUFFERS];
  uint8_t *buffers[SM_MAX_BUFFERS];
  std::vector<Block> blocks;
  SmCell *tgWords = nullptr, *tgBytes = nullptr;
  uint64_t serial = 0, clock = 1, deviceHorizon = 1, tgHorizon = 1; // of the whole threadgroup
  uint64_t nextCopy = 1;
  SmCounters counters;
  std::vector<uint64_t> blockCounts;
  std::vector<uint8_t> siteBinding;
  alignas(128) uint8_t zeros[1 << 16] = {}, sink[1 << 16]; // what faults read and write, as Apple's GPUs have it
  SmFinding finding;
  bool failed = false;
  ~Worker();
};
thread_local Worker *W = nullptr;

constexpr size_t TG_CAPACITY = 256 << 10;
void *reserve(size_t n) {
  void *p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}
Worker::~Worker() {
  for (char *s : stacks) munmap(s, STACK);
  for (Simd *s : simds) {
    munmap(s->slots, MAX_SLOTS * sizeof(SmSlot));
    munmap(s->values, MAX_SLOTS * 256ul);
    munmap(s->freeList, MAX_SLOTS * 2ul);
    delete s;
  }
  if (tg) munmap(tg, TG_CAPACITY);
  if (tgWords) munmap(tgWords, TG_CAPACITY * 4);
  if (tgBytes) munmap(tgBytes, TG_CAPACITY * 16);
}

bool runnable(Worker *w, Fiber &f) {
  switch (f.state) {
  case READY: return true;
  case AT_SIMD: return w->simds[f.lane.simdIndex]->gen != f.gen;
  case AT_GROUP: return w->gen != f.gen;
  case AT_SLOT: return f.lane.simd->slots[f.slot].ready;
  case AT_LOG: {
    Simd *s = w->simds[f.lane.simdIndex];
    if (f.lane.pos != s->head) return true; // it can follow what another lane has logged
    uint32_t low = s->head;
    for (uint32_t i = 0; i < s->lanes; ++i) {
      Fiber &g = w->fibers[s->firstLane + i];
      if (g.state != DONE) low = std::min(low, g.lane.pos);
    }
    return s->head - low < SM_LOG - 1;
  }
  case DONE: return false;
  }
  return false;
}

inline void go(Worker *w, Fiber *to) {
  Fiber *from = w->cur;
  w->cur = to;
  sm_tls_lane = &to->lane;
  sm_switch(&from->sp, to->sp);
}
[[noreturn]] void leave(Worker *w) {
  void *ignored;
  sm_switch(&ignored, w->mainSp);
  __builtin_trap();
}

Fiber *next(Worker *w, Fiber *f) {
  Simd *s = w->simds[f->lane.simdIndex];
  Fiber *base = &w->fibers[s->firstLane];
  uint32_t n = s->lanes, at = f->lane.lane;
  for (uint32_t i = 1; i < n; ++i) {
    Fiber *g = base + (at + i < n ? at + i : at + i - n);
    if (runnable(w, *g)) return g;
  }
  uint32_t k = 0;
  while (w->order[k] != f->lane.simdIndex) ++k;
  for (uint32_t j = 1; j < w->simdCount; ++j) {
    Simd *o = w->simds[w->order[(k + j) % w->simdCount]];
    for (uint32_t i = 0; i < o->lanes; ++i) {
      Fiber &g = w->fibers[o->firstLane + i];
      if (runnable(w, g)) return &g;
    }
  }
  return runnable(w, *f) ? f : nullptr;
}

const char *kindName(uint32_t k) {
  static const char *names[] = {"none",
                                "matrix elements",
                                "simdgroup_multiply",
                                "simdgroup_load",
                                "simdgroup_store",
                                "make_filled_simdgroup_matrix",
                                "diagonal simdgroup_matrix",
                                "simd shuffle",
                                "simd reduction",
                                "simd ballot",
                                "simdgroup_barrier",
                                "simdgroup async copy",
                                "simdgroup event wait"};
  return k < sizeof names / sizeof *names ? names[k] : "unknown";
}

void describe(Worker *w, SmFinding &g, uint32_t kind, int buffer, uint32_t line, const char *format, va_list a) {
  Fiber *f = w->cur;
  memset(&g, 0, sizeof g);
  g.kind = kind;
  g.buffer = buffer;
  g.line = line;
  g.simdgroup = f->lane.simdIndex;
  g.lane = f->lane.lane;
  for (int i = 0; i < 3; ++i) {
    g.threadgroup[i] = f->lane.groupInGrid[i];
    g.thread[i] = f->lane.threadInGroup[i];
  }
  vsnprintf(g.message, sizeof g.message, format, a);
}
uint32_t lineOf(Worker *w, uint32_t site) {
  return site && w->d->siteLines && site <= w->d->sites ? w->d->siteLines[site - 1] : 0;
}
// Records the first finding of the threadgroup, and abandons the threadgroup.
[[noreturn]] void fail(Worker *w, uint32_t kind, int buffer, uint32_t site, const char *format, ...) {
  if (!w->failed) {
    w->failed = true;
    va_list a;
    va_start(a, format);
    describe(w, w->finding, kind, buffer, lineOf(w, site), format, a);
    va_end(a);
  }
  leave(w);
}
std::mutex noteLock;
// A finding that a GPU would pass over. As Apple's, the device does too, and notes it, once for each place.
void report(Worker *w, uint32_t kind, int buffer, uint32_t site, const char *format, ...) {
  SmDispatch *d = w->d;
  const uint32_t line = lineOf(w, site);
  va_list a;
  va_start(a, format);
  if (d->asApple) {
    std::lock_guard<std::mutex> guard(noteLock);
    bool known = d->noted == SM_MAX_NOTES;
    for (uint32_t i = 0; i < d->noted; ++i)
      known = known || (d->notes[i].kind == kind && d->notes[i].line == line && d->notes[i].buffer == buffer);
    if (!known) describe(w, d->notes[d->noted++], kind, buffer, line, format, a);
    va_end(a);
    return;
  }
  if (!w->failed) {
    w->failed = true;
    describe(w, w->finding, kind, buffer, line, format, a);
  }
  va_end(a);
  leave(w);
}

// Waits in `state` until runnable. The loop runs other fibers of the SIMD group first.
void waitHere(Worker *w, Fiber *f, State state) {
  f->state = state;
  for (;;) {
    Fiber *n = next(w, f);
    if (!n) {
      Simd *s = w->simds[f->lane.simdIndex];
      if (state == AT_GROUP) {
        for (auto &g : w->fibers)
          if (g.lane.index < w->threads && g.state == AT_SIMD)
            fail(w, F_DIVERGENCE, -1, f->lane.site,
                 "threadgroup_barrier was reached by only a part of the threadgroup: thread %u waits in %s",
                 g.lane.threadIndex, kindName(w->simds[g.lane.simdIndex]->kind));
        fail(w, F_DIVERGENCE, -1, f->lane.site,
             "threadgroup_barrier was reached by %u of %u threads of the threadgroup", w->arrived, w->live);
      }
      fail(w, F_DIVERGENCE, -1, f->lane.site,
           "%s was reached by %u of %u lanes of the SIMD group (divergent control flow)",
           state == AT_SIMD ? kindName(s->kind) : "a SIMD-group matrix operation", state == AT_SIMD ? s->arrived : 1u,
           s->live);
    }
    if (n == f) break;
    go(w, n);
    if (runnable(w, *f)) break;
  }
  f->state = READY;
}
} // namespace
)SM"
