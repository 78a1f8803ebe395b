R"SM(
// Executor, part 2: rendezvous of a SIMD group, barriers, and the matrix log.
namespace {
bool accessMatrix(Worker *w, const uint8_t *p, uint32_t bytes, bool store, bool deviceSpace, uint32_t site,
                  uint32_t code);
uint32_t accessMatrixRow(Worker *w, const uint8_t *p, uint32_t row, uint32_t n, bool transpose, bool store,
                         bool deviceSpace, uint32_t site);
inline uint32_t elementSize(uint32_t e) { return e == SM_FLOAT ? 4 : 2; }

// Apple's lane order: lane -> (row, first of two neighbouring columns), as an offset into 8x8 row-major values.
inline uint32_t laneOffset(uint32_t l) { return ((l / 16) * 4 + (l / 2) % 4) * 8 + ((l / 4) & 2) * 2 + (l % 2) * 2; }

inline uint32_t laneOf(uint32_t row, uint32_t column) {
  return row / 4 * 16 + column / 4 * 8 + row % 4 * 2 + column / 2 % 2;
}

inline float bfloatToFloat(uint16_t b) {
  uint32_t u = uint32_t(b) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline uint16_t floatToBfloat(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return uint16_t(u >> 16 | 64);
  return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

uint32_t newSlot(Worker *w, Simd *s, uint32_t element) {
  uint32_t id;
  if (s->freeCount) id = s->freeList[--s->freeCount];
  else if (s->used + 1 < MAX_SLOTS) id = ++s->used;
  else
    fail(w, F_LIMIT, -1, w->cur->lane.site, "more than %u SIMD-group matrices are alive in one SIMD group",
         MAX_SLOTS - 1);
  s->slots[id] = SmSlot{s->live, 0, 0, (unsigned char)element};
  return id;
}
inline void retain(Simd *s, uint32_t id) {
  if (id) ++s->slots[id].refs;
}
inline void release(Simd *s, uint32_t id) {
  if (id && --s->slots[id].refs == 0) s->freeList[s->freeCount++] = (unsigned short)id;
}

void roundTo(float *v, uint32_t element) {
  if (element == SM_HALF)
    for (int i = 0; i < 64; i += 8)
      _mm256_storeu_ps(v + i, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(v + i), 0)));
  else if (element == SM_BFLOAT)
    for (int i = 0; i < 64; ++i) v[i] = bfloatToFloat(floatToBfloat(v[i]));
}
// D = A B + C with FP32 fused multiply-adds in the order of k.
void multiply(const float *A, const float *B, const float *C, float *D) {
  __m256 b[8];
  for (int k = 0; k < 8; ++k) b[k] = _mm256_loadu_ps(B + 8 * k);
  for (int i = 0; i < 8; i += 4) {
    __m256 r[4];
    for (int j = 0; j < 4; ++j) r[j] = C ? _mm256_loadu_ps(C + 8 * (i + j)) : _mm256_setzero_ps();
    for (int k = 0; k < 8; ++k)
      for (int j = 0; j < 4; ++j) r[j] = _mm256_fmadd_ps(_mm256_broadcast_ss(A + 8 * (i + j) + k), b[k], r[j]);
    for (int j = 0; j < 4; ++j) _mm256_storeu_ps(D + 8 * (i + j), r[j]);
  }
}
// A bit for each element, in memory's order, that may be accessed.
uint64_t checkMatrixAccess(Worker *w, const uint8_t *p, uint64_t stride, bool transpose, uint32_t element, bool store,
                           bool deviceSpace, uint32_t site) {
  uint32_t n = elementSize(element);
  if (reinterpret_cast<uintptr_t>(p) % n)
    fail(w, F_MISALIGNED, -1, site, "simdgroup_%s of %u-byte elements from a misaligned address",
         store ? "store" : "load", n);
  uint64_t may = 0;
  for (uint32_t i = 0; i < 8; ++i)
    may |= uint64_t(accessMatrixRow(w, p + i * stride * n, i, n, transpose, store, deviceSpace, site)) << 8 * i;
  return may;
}
void loadMatrix(const uint8_t *p, uint64_t stride, bool transpose, uint32_t element, float *v, uint64_t may) {
  float t[64];
  float *o = transpose ? t : v;
  if (may != ~0ull) { // what may not be read is zero
    alignas(16) uint8_t copy[256] = {};
    uint32_t n = elementSize(element);
    for (int i = 0; i < 64; ++i)
      if (may >> i & 1) memcpy(copy + i * n, p + (i / 8 * stride + i % 8) * n, n);
    loadMatrix(copy, 8, transpose, element, v, ~0ull);
    return;
  }
  for (int i = 0; i < 8; ++i) {
    if (element == SM_FLOAT) memcpy(o + 8 * i, p + i * stride * 4, 32);
    else if (element == SM_HALF) {
      __m128i h;
      memcpy(&h, p + i * stride * 2, 16);
      _mm256_storeu_ps(o + 8 * i, _mm256_cvtph_ps(h));
    } else {
      __m128i h;
      memcpy(&h, p + i * stride * 2, 16);
      __m256i x = _mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16);
      memcpy(o + 8 * i, &x, 32);
    }
  }
  if (transpose)
    for (int i = 0; i < 8; ++i)
      for (int j = 0; j < 8; ++j) v[8 * i + j] = t[8 * j + i];
}
void storeMatrix(uint8_t *p, uint64_t stride, bool transpose, uint32_t element, const float *v, uint64_t may) {
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) {
      if (!(may >> (8 * i + j) & 1)) continue;
      float x = transpose ? v[8 * j + i] : v[8 * i + j];
      uint8_t *o = p + (i * stride + j) * elementSize(element);
      if (element == SM_FLOAT) memcpy(o, &x, 4);
      else {
        uint16_t h = element == SM_HALF ? (uint16_t)_cvtss_sh(x, 0) : floatToBfloat(x);
        memcpy(o, &h, 2);
      }
    }
}
inline bool isReady(Simd *s, const Pending &p) {
  return (!p.a || s->slots[p.a].ready) && (!p.b || s->slots[p.b].ready) && (!p.c || s->slots[p.c].ready);
}
void execute(Worker *w, Simd *s, const Pending &p) {
  if (p.kind == SM_MMA) {
    float *d = s->values + 64ul * p.result;
    multiply(s->values + 64ul * p.a, s->values + 64ul * p.b, p.c ? s->values + 64ul * p.c : nullptr, d);
    roundTo(d, s->slots[p.result].element);
    s->slots[p.result].ready = 1;
    ++w->counters.matrixMultiplies;
  } else if (p.kind == SM_LOAD) {
    uint64_t may = ~0ull;
    if (w->d->checked) may = checkMatrixAccess(w, p.ptr, p.stride, p.transpose, p.element, false, p.device, p.site);
    loadMatrix(p.ptr, p.stride, p.transpose, p.element, s->values + 64ul * p.result, may);
    s->slots[p.result].ready = 1;
    ++w->counters.matrixLoads;
    w->counters.cost[p.space] += 64 * elementSize(p.element);
  } else {
    uint64_t may = ~0ull;
    if (w->d->checked) may = checkMatrixAccess(w, p.ptr, p.stride, p.transpose, p.element, true, p.device, p.site);
    storeMatrix(p.ptr, p.stride, p.transpose, p.element, s->values + 64ul * p.a, may);
    ++w->counters.matrixStores;
    w->counters.cost[p.device ? SM_DEVICE_WRITE : SM_TG_WRITE] += 64 * elementSize(p.element);
  }
}
// Products wait for their factors alone. Loads and stores stay in order.
void submit(Worker *w, Simd *s, const Pending &p) {
  if (isReady(s, p) && (p.kind == SM_MMA || s->pending.empty())) {
    execute(w, s, p);
    return;
  }
  retain(s, p.a);
  retain(s, p.b);
  retain(s, p.c);
  retain(s, p.result);
  s->pending.push_back(p);
}
void drain(Worker *w, Simd *s) {
  while (s->pendingHead < s->pending.size() && isReady(s, s->pending[s->pendingHead])) {
    Pending p = s->pending[s->pendingHead++];
    execute(w, s, p);
    release(s, p.a);
    release(s, p.b);
    release(s, p.c);
    release(s, p.result);
  }
  if (s->pendingHead == s->pending.size()) {
    s->pending.clear();
    s->pendingHead = 0;
  }
}

// Appends an operation for the first lane that reaches it; false: another lane logged it while this one waited for
// room.
bool beginEntry(Worker *w, Fiber *f, Simd *s, uint64_t key) {
  if (s->live != SM_LANES)
    fail(w, F_DIVERGENCE, -1, f->lane.site, "%s executed with %u of 32 lanes active", kindName(key & 15), s->live);
  while (f->lane.pos == s->head && s->head == s->limit) {
    uint32_t low = s->head;
    for (uint32_t i = 0; i < s->lanes; ++i) low = std::min(low, w->fibers[s->firstLane + i].lane.pos);
    if (s->head - low < SM_LOG - 1) {
      s->limit = low + SM_LOG - 1;
      break;
    }
    waitHere(w, f, AT_LOG);
  }
  return f->lane.pos == s->head;
}
inline uint32_t append(Fiber *f, Simd *s, uint64_t key, uint32_t id, uint32_t value) {
  s->log[s->head % SM_LOG] = SmLogEntry{key, id, value};
  ++s->head;
  ++f->lane.pos;
  return id;
}
uint32_t follow(Worker *w, Fiber *f, Simd *s, uint64_t key) {
  SmLogEntry &e = s->log[f->lane.pos++ % SM_LOG];
  if (e.key != key)
    fail(w, F_DIVERGENCE, -1, f->lane.site, "lanes of a SIMD group disagree: %s%s here, %s in another lane",
         kindName(key & 15), (key & 15) == (e.key & 15) ? " with other operands" : "", kindName(e.key & 15));
  return e.id;
}

// One lane arrives at a rendezvous of its SIMD group. True: it is the last, and must call release.
bool arrive(Worker *w, Fiber *f, Simd *s, uint32_t kind) {
  if (s->arrived == 0) s->kind = kind;
  else if (s->kind != kind)
    fail(w, F_DIVERGENCE, -1, f->lane.site, "divergent SIMD-group operations: %s here, %s in another lane",
         kindName(kind), kindName(s->kind));
  if (s->live != s->lanes && w->d->checked)
    fail(w, F_DIVERGENCE, -1, f->lane.site, "%s executed with %u of %u lanes active", kindName(kind), s->live,
         s->lanes);
  if (++s->arrived == s->live) return true;
  f->gen = s->gen;
  waitHere(w, f, AT_SIMD);
  return false;
}
void releaseGroup(Worker *w, Simd *s) {
  if (w->d->checked)
    for (uint32_t i = 0; i < s->lanes; ++i) {
      Fiber &g = w->fibers[s->firstLane + i];
      if (g.state != DONE && g.lane.pos != s->head)
        fail(w, F_DIVERGENCE, -1, g.lane.site,
             "lane %u reached %s with fewer SIMD-group matrix operations than the others", i, kindName(s->kind));
    }
  s->arrived = 0;
  ++s->gen;
}
} // namespace

SM_EXPORT uint32_t sm_mma_first(uint64_t key, uint32_t element) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  if (!beginEntry(w, f, s, key)) return follow(w, f, s, key);
  Pending p{};
  p.kind = SM_MMA;
  p.a = key >> 8 & 0xffff;
  p.b = key >> 24 & 0xffff;
  p.c = key >> 40 & 0xffff;
  p.site = f->lane.site;
  p.result = append(f, s, key, newSlot(w, s, element), 0);
  submit(w, s, p);
  return p.result;
}
SM_EXPORT uint32_t sm_deposit_first(uint64_t key, uint32_t element) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  if (!beginEntry(w, f, s, key)) return follow(w, f, s, key);
  return append(f, s, key, newSlot(w, s, element), 0);
}
SM_EXPORT void sm_deposited(uint32_t id) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  s->slots[id].ready = 1;
  if (!s->pending.empty()) drain(w, s);
}
SM_EXPORT uint32_t sm_fill_first(uint64_t key, uint32_t element, float value) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  if (!beginEntry(w, f, s, key)) return follow(w, f, s, key);
  uint32_t id = append(f, s, key, newSlot(w, s, element), 0);
  float *v = s->values + 64ul * id;
  bool diagonal = (key & 15) == SM_DIAGONAL;
  for (int i = 0; i < 64; ++i) v[i] = !diagonal || i % 9 == 0 ? value : 0;
  s->slots[id].ready = 1;
  return id;
}
SM_EXPORT uint32_t sm_load_first(uint64_t key, const uint8_t *p, uint64_t stride, uint32_t transpose, uint32_t element,
                                 uint32_t deviceSpace) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  if (!beginEntry(w, f, s, key)) return follow(w, f, s, key);
  Pending l{};
  l.kind = SM_LOAD;
  l.ptr = const_cast<uint8_t *>(p);
  l.stride = stride;
  l.transpose = transpose != 0;
  l.element = element;
  l.device = deviceSpace != 0;
  l.space = deviceSpace == 0 ? SM_TG_READ : deviceSpace == 1 ? SM_DEVICE_READ : SM_CONSTANT_READ;
  l.site = f->lane.site;
  l.result = append(f, s, key, newSlot(w, s, element), 0);
  submit(w, s, l);
  return l.result;
}
SM_EXPORT void sm_store_first(uint64_t key, uint32_t a, uint8_t *ptr, uint64_t stride, uint32_t transpose,
                              uint32_t element, uint32_t deviceSpace) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  if (!beginEntry(w, f, s, key)) {
    follow(w, f, s, key);
    return;
  }
  append(f, s, key, 0, 0);
  Pending p{};
  p.kind = SM_STORE;
  p.a = a;
  p.ptr = ptr;
  p.stride = stride;
  p.transpose = transpose != 0;
  p.element = element;
  p.device = deviceSpace != 0;
  p.site = f->lane.site;
  submit(w, s, p);
}
SM_EXPORT void sm_await(uint32_t id) {
  Worker *w = W;
  Fiber *f = w->cur;
  f->slot = id;
  waitHere(w, f, AT_SLOT);
}
SM_EXPORT void sm_diverged(uint64_t key, uint64_t other) {
  Worker *w = W;
  Fiber *f = w->cur;
  fail(w, F_DIVERGENCE, -1, f->lane.site, "lanes of a SIMD group disagree: %s%s here, %s in another lane",
       kindName(key & 15), (key & 15) == (other & 15) ? " with other operands" : "", kindName(other & 15));
}
SM_EXPORT int sm_arrive(uint32_t kind) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  return arrive(w, f, s, kind);
}
SM_EXPORT void sm_release() {
  Worker *w = W;
  ++w->counters.simdOperations;
  releaseGroup(w, w->simds[w->cur->lane.simdIndex]);
}
SM_EXPORT uint32_t sm_live_lanes() { // mask of the lanes that have not returned
  Worker *w = W;
  Simd *s = w->simds[w->cur->lane.simdIndex];
  uint32_t m = 0;
  for (uint32_t i = 0; i < s->lanes; ++i)
    if (w->fibers[s->firstLane + i].state != DONE) m |= 1u << i;
  return m;
}
// flags: 1 device, 2 threadgroup
SM_EXPORT void sm_simd_barrier(uint32_t flags) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  if (arrive(w, f, s, SM_BARRIER)) {
    ++w->counters.simdgroupBarriers;
    releaseGroup(w, s);
    ++w->clock;
    s->barrierFlags = flags;
    for (uint32_t i = 0; i < s->lanes; ++i) {
      Fiber &g = w->fibers[s->firstLane + i];
      if (flags & 1) g.deviceHorizon = w->clock;
      if (flags & 2) g.tgHorizon = w->clock;
    }
  }
}
SM_EXPORT void sm_group_barrier(uint32_t flags) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  if (s->live != s->lanes)
    fail(w, F_DIVERGENCE, -1, f->lane.site,
         "threadgroup_barrier in a SIMD group of which only %u of %u lanes are active", s->live, s->lanes);
  if (w->arrived == 0) w->groupFlags = flags;
  else if (w->groupFlags != flags)
    fail(w, F_DIVERGENCE, -1, f->lane.site, "threadgroup_barrier with memory flags that differ between threads");
  if (w->d->siteLines && f->lane.site) { // a barrier on another line is another barrier
    uint32_t line = w->d->siteLines[f->lane.site - 1];
    if (w->arrived == 0) w->barrierLine = line;
    else if (w->barrierLine != line)
      fail(w, F_DIVERGENCE, -1, f->lane.site,
           "threads of one threadgroup wait in different barriers, at lines %u and %u", w->barrierLine, line);
  }
  if (++w->arrived < w->live) {
    f->gen = w->gen;
    waitHere(w, f, AT_GROUP);
    return;
  }
  w->arrived = 0;
  ++w->gen;
  ++w->counters.threadgroupBarriers;
  ++w->clock;
  if (flags & 1) w->deviceHorizon = w->clock;
  if (flags & 2) w->tgHorizon = w->clock;
  for (uint32_t t = 0; t < w->threads; ++t) {
    if (flags & 1) w->fibers[t].deviceHorizon = w->clock;
    if (flags & 2) w->fibers[t].tgHorizon = w->clock;
  }
}
)SM"
