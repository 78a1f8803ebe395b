R"SM(
// Executor, part 5: threadgroups and dispatches.
namespace {
void finish(Worker *w, Fiber *f) {
  Simd *s = w->simds[f->lane.simdIndex];
  f->state = DONE;
  if (f->lane.pos != s->head && s->live == 1)
    fail(w, F_DIVERGENCE, -1, f->lane.site, "a lane returned after fewer SIMD-group matrix operations than the others");
  --s->live;
  --w->live;
  Fiber *waiting = nullptr; // a lane that this one leaves behind
  for (uint32_t i = 0; i < s->lanes; ++i) {
    Fiber &g = w->fibers[s->firstLane + i];
    if ((g.state == AT_SIMD && g.gen == s->gen) || (g.state == AT_GROUP && g.gen == w->gen)) waiting = &g;
  }
  if (waiting && waiting->state == AT_GROUP)
    fail(w, F_DIVERGENCE, -1, waiting->lane.site,
         "a lane returned while others of its SIMD group wait in threadgroup_barrier");
  if (s->arrived)
    fail(w, F_DIVERGENCE, -1, waiting ? waiting->lane.site : f->lane.site,
         "a lane returned while %u lanes of its SIMD group wait in %s", s->arrived, kindName(s->kind));
  if (s->live == 0) finishAllCopies(w, s);
  if (w->live && w->arrived == w->live) { // whole SIMD groups may leave before a barrier
    w->arrived = 0;
    ++w->gen;
    ++w->clock;
    ++w->counters.threadgroupBarriers;
    if (w->groupFlags & 1) w->deviceHorizon = w->clock;
    if (w->groupFlags & 2) w->tgHorizon = w->clock;
    for (auto &g : w->fibers) {
      if (w->groupFlags & 1) g.deviceHorizon = w->clock;
      if (w->groupFlags & 2) g.tgHorizon = w->clock;
    }
  }
}
extern "C" void sm_fiber_main() {
  Worker *w = W;
  Fiber *f = w->cur;
  w->d->entry(&f->lane);
  finish(w, f);
  if (!w->live) leave(w);
  Fiber *n = next(w, f);
  if (!n)
    fail(w, F_DIVERGENCE, -1, f->lane.site,
         "the remaining threads of the threadgroup wait for each other: a barrier or a SIMD-group operation is not "
         "reached by all");
  go(w, n);
  __builtin_trap();
}
bool grow(Worker *w, uint32_t threads) {
  uint32_t simds = (threads + 31) / 32;
  while (w->stacks.size() < threads) {
    char *s = static_cast<char *>(reserve(STACK));
    if (!s) return false;
    mprotect(s, 4096, PROT_NONE);
    w->stacks.push_back(s);
  }
  while (w->simds.size() < simds) {
    auto *s = new Simd();
    s->slots = static_cast<SmSlot *>(reserve(MAX_SLOTS * sizeof(SmSlot)));
    s->values = static_cast<float *>(reserve(MAX_SLOTS * 256ul));
    s->freeList = static_cast<unsigned short *>(reserve(MAX_SLOTS * 2ul));
    w->simds.push_back(s);
    if (!s->slots || !s->values || !s->freeList) return false;
  }
  if (w->fibers.size() < threads) w->fibers.resize(threads);
  return true;
}
// Places threadgroup(n) arguments and static arrays, with red zones between them in checked mode.
void layOut(Worker *w, SmDispatch *d, std::vector<uint32_t> &offsets) {
  w->blocks.clear();
  uint32_t at = 256, gap = d->checked ? 256 : 0;
  auto place = [&](uint32_t n, int index) {
    w->blocks.push_back({at, n, index});
    uint32_t o = at;
    at = (at + n + 15) / 16 * 16 + gap;
    return o;
  };
  for (int i = 0; i < SM_MAX_BUFFERS; ++i)
    w->tgDynamic[i] = d->dynamicLength[i] ? w->tg + place(d->dynamicLength[i], i) : nullptr;
  offsets.assign(d->tgStatics, 0);
  for (uint32_t i = 0; i < d->tgStatics; ++i)
    if (d->tgSizes[i]) offsets[i] = place(d->tgSizes[i], -1);
  w->tgUsed = at;
  if (!d->checked) return;
  for (uint32_t i = 0; i < (at + 1024) / 4; ++i) w->tgWords[i] = {REDZONE, 0};
  for (auto &b : w->blocks) {
    for (uint32_t i = 0; i < b.length / 4; ++i) w->tgWords[b.offset / 4 + i] = {0, 0};
    if (b.length % 4) {
      uint32_t k = b.offset / 4 + b.length / 4;
      w->tgWords[k].w = SPLIT;
      for (uint32_t i = 0; i < 4; ++i) w->tgBytes[4 * k + i] = {i < b.length % 4 ? 0 : REDZONE, 0};
    }
  }
}
void runGroup(Worker *w, const uint32_t g[3], uint64_t serial, const std::vector<uint32_t> &offsets) {
  SmDispatch *d = w->d;
  uint32_t size[3];
  for (int i = 0; i < 3; ++i) size[i] = std::min(d->groupSize[i], d->threads[i] - g[i] * d->groupSize[i]);
  w->threads = w->live = size[0] * size[1] * size[2];
  w->simdCount = (w->threads + 31) / 32;
  w->arrived = 0;
  w->serial = serial;
  w->clock = w->deviceHorizon = w->tgHorizon = 1;
  memset(w->tg + 256, 0xff, w->tgUsed - 256); // threadgroup memory starts as NaN
  w->order.resize(w->simdCount);
  for (uint32_t i = 0; i < w->simdCount; ++i) {
    w->order[i] = i;
    Simd *s = w->simds[i];
    s->firstLane = 32 * i;
    s->lanes = s->live = std::min(32u, w->threads - 32 * i);
    s->head = 0;
    s->limit = SM_LOG - 1;
    s->arrived = 0;
    s->freeCount = 0;
    s->used = 0;
    s->pending.clear();
    s->pendingHead = 0;
    s->copies.clear();
  }
  uint64_t rng = d->seed * 0x9e3779b97f4a7c15ull + serial - d->firstSerial + 1;
  if (d->order == 1) std::reverse(w->order.begin(), w->order.end());
  if (d->order == 2)
    for (uint32_t i = w->simdCount; i > 1; --i) {
      rng = rng * 6364136223846793005ull + 1442695040888963407ull;
      std::swap(w->order[i - 1], w->order[(rng >> 33) % i]);
    }
  uint32_t nominal = d->groupSize[0] * d->groupSize[1] * d->groupSize[2];
  for (uint32_t t = 0; t < w->threads; ++t) {
    Fiber &f = w->fibers[t];
    SmLane &l = f.lane;
    f.state = READY;
    f.deviceHorizon = f.tgHorizon = 1;
    f.stack = w->stacks[t];
    l.simd = w->simds[t / 32];
    l.pos = l.parity = l.site = 0;
    l.lane = t % 32;
    l.buffers = w->buffers;
    l.tgDynamic = w->tgDynamic;
    l.tgStatic = w->tg;
    l.tgOffsets = offsets.data();
    uint32_t in[3] = {t % size[0], t / size[0] % size[1], t / size[0] / size[1]};
    for (int i = 0; i < 3; ++i) {
      l.threadInGroup[i] = in[i];
      l.groupInGrid[i] = g[i];
      l.threadInGrid[i] = g[i] * d->groupSize[i] + in[i];
      l.groupSize[i] = size[i];
      l.nominalSize[i] = d->groupSize[i];
      l.groups[i] = d->groups[i];
      l.gridSize[i] = d->threads[i];
    }
    l.threadIndex = l.index = t;
    l.simdIndex = t / 32;
    l.simdCount = w->simdCount;
    l.nominalSimdCount = (nominal + 31) / 32;
    // Stacks a power of two apart would share one set of the first-level cache: stagger them.
    auto *sp = reinterpret_cast<uint64_t *>(reinterpret_cast<uintptr_t>(f.stack + STACK - t * 1088 % 65536) & ~15ull);
    *--sp = 0;
    *--sp = reinterpret_cast<uint64_t>(&sm_fiber_main);
    sp -= 6;
    memset(sp, 0, 48);
    f.sp = sp;
  }
  w->cur = &w->fibers[32 * w->order[0]];
  sm_tls_lane = &w->cur->lane;
  sm_switch(&w->mainSp, w->cur->sp);
  ++w->counters.threadgroups;
  w->counters.threads += w->threads;
}
std::mutex poolLock;
std::vector<std::unique_ptr<Worker>> &pool() {
  static auto *p = new std::vector<std::unique_ptr<Worker>>();
  return *p;
}
std::unique_ptr<Worker> take() {
  std::lock_guard<std::mutex> g(poolLock);
  if (pool().empty()) return std::make_unique<Worker>();
  auto w = std::move(pool().back());
  pool().pop_back();
  return w;
}
} // namespace

// Runs a dispatch on `d->workers` OS threads. 0: done; 1: a finding is in `d->finding`; 2: out of memory.
SM_EXPORT int sm_run(SmDispatch *d) {
  const uint64_t total = uint64_t(d->groups[0]) * d->groups[1] * d->groups[2];
  const uint32_t nominal = d->groupSize[0] * d->groupSize[1] * d->groupSize[2];
  std::atomic<uint64_t> at{0};
  std::atomic<int> status{0};
  std::mutex lock;
  auto work = [&] {
    auto owned = take();
    Worker *w = owned.get();
    W = w;
    w->d = d;
    w->failed = false;
    // Single precision, and with it bfloat, flushes subnormal operands and results; half is computed in numbers that
    // are normal there, and its conversions flush nothing.
    const unsigned control = _mm_getcsr();
    if (d->flush) _mm_setcsr(control | 0x8040);
    w->counters = SmCounters{};
    bool ok = grow(w, nominal);
    if (!w->tg) w->tg = static_cast<uint8_t *>(reserve(TG_CAPACITY));
    if (d->checked && !w->tgWords) {
      w->tgWords = static_cast<SmCell *>(reserve(TG_CAPACITY * 4));
      w->tgBytes = static_cast<SmCell *>(reserve(TG_CAPACITY * 16));
    }
    ok = ok && w->tg && (!d->checked || (w->tgWords && w->tgBytes));
    if (ok) {
      for (int i = 0; i < SM_MAX_BUFFERS; ++i)
        w->buffers[i] = d->bindings[i].base ? d->bindings[i].base : d->unbound + d->unboundStride * i;
      w->blockCounts.assign(d->blocks + 1, 0);
      sm_tls_counts = w->blockCounts.data();
      w->siteBinding.assign(d->sites + 1, 0);
      std::vector<uint32_t> offsets;
      layOut(w, d, offsets);
      for (uint64_t k; status == 0 && (k = at.fetch_add(1)) < total;) {
        uint64_t i = d->order == 0 ? k : total - 1 - k;
        uint32_t g[3] = {uint32_t(i % d->groups[0]), uint32_t(i / d->groups[0] % d->groups[1]),
                         uint32_t(i / d->groups[0] / d->groups[1])};
        runGroup(w, g, d->firstSerial + i, offsets);
        if (w->failed) {
          std::lock_guard<std::mutex> h(lock);
          if (status == 0) {
            d->finding = w->finding;
            status = 1;
          }
        }
      }
    } else status = 2;
    for (uint32_t b = 0; ok && d->blockCosts && b < d->blocks; ++b)
      if (w->blockCounts[b])
        for (int c = 0; c < SM_COSTS; ++c) w->counters.cost[c] += w->blockCounts[b] * d->blockCosts[b * SM_COSTS + c];
    _mm_setcsr(control);
    W = nullptr;
    sm_tls_lane = nullptr;
    sm_tls_counts = nullptr;
    std::lock_guard<std::mutex> g(poolLock);
    auto *to = reinterpret_cast<uint64_t *>(&d->counters);
    auto *from = reinterpret_cast<uint64_t *>(&w->counters);
    for (size_t i = 0; i < sizeof(SmCounters) / 8; ++i) to[i] += from[i];
    if (ok) pool().push_back(std::move(owned));
  };
  uint32_t n = uint32_t(std::min<uint64_t>(std::max(1u, d->workers), total));
  std::vector<std::thread> others;
  for (uint32_t i = 1; i < n; ++i) others.emplace_back(work);
  work();
  for (auto &t : others) t.join();
  return d->failed = status;
}
)SM"
