R"SM(
// Executor, part 4: the asynchronous copies that older kernels declare by their AIR names.
namespace {
void finishCopy(Worker *w, const AsyncCopy &c) {
  if (w->d->checked) {
    uint32_t code = SM_MAX_THREADS + w->cur->lane.simdIndex;
    for (uint64_t y = 0; y < c.dy; ++y) {
      bool may =
          accessMatrix(w, c.dst + y * c.dstRow * c.element, uint32_t(c.dx * c.element), true, !c.toGroup, c.site, code);
      if (y < c.sy)
        may = accessMatrix(w, c.src + y * c.srcRow * c.element, uint32_t(std::min(c.dx, c.sx) * c.element), false,
                           c.toGroup, c.site, code) &&
              may;
      if (!may) fail(w, F_BOUNDS, -1, c.site, "simdgroup async copy out of bounds");
    }
  }
  for (uint64_t y = 0; y < c.dy; ++y)
    for (uint64_t x = 0; x < c.dx; ++x) {
      uint8_t *o = c.dst + (y * c.dstRow + x) * c.element;
      if (x < c.sx && y < c.sy) memcpy(o, c.src + (y * c.srcRow + x) * c.element, c.element);
      else if (c.clamp == 0 || !c.sx || !c.sy) memset(o, 0, c.element);
      else memcpy(o, c.src + (std::min(y, c.sy - 1) * c.srcRow + std::min(x, c.sx - 1)) * c.element, c.element);
    }
  uint64_t n = std::min(c.dx, c.sx) * std::min(c.dy, c.sy) * c.element;
  w->counters.cost[SM_DEVICE_READ] += c.toGroup ? n : 0;
  w->counters.cost[SM_TG_WRITE] += c.toGroup ? n : 0;
  w->counters.cost[SM_DEVICE_WRITE] += c.toGroup ? 0 : n;
  w->counters.cost[SM_TG_READ] += c.toGroup ? 0 : n;
}
bool same(const AsyncCopy &a, const AsyncCopy &b) {
  return a.dst == b.dst && a.src == b.src && a.dx == b.dx && a.dy == b.dy && a.sx == b.sx && a.sy == b.sy &&
         a.dstRow == b.dstRow && a.srcRow == b.srcRow && a.element == b.element;
}
uint64_t startCopy(AsyncCopy c) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  c.site = f->lane.site;
  if (s->live != SM_LANES)
    fail(w, F_DIVERGENCE, -1, c.site, "simdgroup async copy executed with %u of 32 lanes active", s->live);
  if (s->arrived == 0) s->copyArgs = c;
  else if (s->kind == SM_COPY && !same(s->copyArgs, c))
    fail(w, F_DIVERGENCE, -1, c.site, "simdgroup async copy with arguments that differ between lanes");
  if (arrive(w, f, s, SM_COPY)) {
    c.id = s->copyResult = w->nextCopy++;
    ++w->counters.asyncCopies;
    // Until the wait, the destination holds nothing usable: poison it, so that a forgotten wait is found.
    if (c.toGroup)
      for (uint64_t y = 0; y < c.dy; ++y) {
        uint8_t *row = c.dst + y * c.dstRow * c.element;
        if (row < w->tg || row + c.dx * c.element > w->tg + TG_CAPACITY)
          fail(w, F_BOUNDS, -1, c.site, "async copy to outside of threadgroup memory");
        memset(row, 0xff, c.dx * c.element);
      }
    s->copies.push_back(c);
    releaseGroup(w, s);
    return c.id;
  }
  return s->copyResult; // the next copy cannot begin before all lanes have left this one: it is a rendezvous too
}
void finishAllCopies(Worker *w, Simd *s) {
  for (auto &c : s->copies) finishCopy(w, c);
  s->copies.clear();
}
typedef uint64_t ulong2_t __attribute__((ext_vector_type(2)));
typedef int64_t long2_t __attribute__((ext_vector_type(2)));
} // namespace

SM_EXPORT uint64_t sm_copy1_tg(uint64_t sz, uint64_t, uint8_t *d, const uint8_t *s,
                               uint64_t n) __asm("air.simdgroup_async_copy_1d.p3i8.p1i8");
SM_EXPORT uint64_t sm_copy1_tg(uint64_t sz, uint64_t, uint8_t *d, const uint8_t *s, uint64_t n) {
  return startCopy({0, sz, d, s, n, n, n, 1, n, 1, 0, true, 0});
}
SM_EXPORT uint64_t sm_copy1_dev(uint64_t sz, uint64_t, uint8_t *d, const uint8_t *s,
                                uint64_t n) __asm("air.simdgroup_async_copy_1d.p1i8.p3i8");
SM_EXPORT uint64_t sm_copy1_dev(uint64_t sz, uint64_t, uint8_t *d, const uint8_t *s, uint64_t n) {
  return startCopy({0, sz, d, s, n, n, n, 1, n, 1, 0, false, 0});
}
SM_EXPORT uint64_t sm_copy2_tg(uint64_t sz, uint64_t, uint8_t *d, uint64_t dr, uint64_t, ulong2_t dt, const uint8_t *s,
                               uint64_t sr, uint64_t, ulong2_t st, long2_t,
                               int m) __asm("air.simdgroup_async_copy_2d.p3i8.p1i8");
SM_EXPORT uint64_t sm_copy2_tg(uint64_t sz, uint64_t, uint8_t *d, uint64_t dr, uint64_t, ulong2_t dt, const uint8_t *s,
                               uint64_t sr, uint64_t, ulong2_t st, long2_t, int m) {
  return startCopy({0, sz, d, s, dr, sr, dt[0], dt[1], st[0], st[1], m, true, 0});
}
SM_EXPORT uint64_t sm_copy2_dev(uint64_t sz, uint64_t, uint8_t *d, uint64_t dr, uint64_t, ulong2_t dt, const uint8_t *s,
                                uint64_t sr, uint64_t, ulong2_t st, long2_t,
                                int m) __asm("air.simdgroup_async_copy_2d.p1i8.p3i8");
SM_EXPORT uint64_t sm_copy2_dev(uint64_t sz, uint64_t, uint8_t *d, uint64_t dr, uint64_t, ulong2_t dt, const uint8_t *s,
                                uint64_t sr, uint64_t, ulong2_t st, long2_t, int m) {
  return startCopy({0, sz, d, s, dr, sr, dt[0], dt[1], st[0], st[1], m, false, 0});
}
SM_EXPORT void sm_wait(int n, const uint64_t *events) __asm("air.wait_simdgroup_events");
SM_EXPORT void sm_wait(int n, const uint64_t *events) {
  Worker *w = W;
  Fiber *f = w->cur;
  Simd *s = w->simds[f->lane.simdIndex];
  if (!arrive(w, f, s, SM_WAIT)) return;
  for (int i = 0; i < n; ++i) {
    auto c = std::find_if(s->copies.begin(), s->copies.end(), [&](const AsyncCopy &c) { return c.id == events[i]; });
    if (c == s->copies.end())
      fail(w, F_ASYNC, -1, f->lane.site, "simdgroup event wait on an event that is not pending");
    finishCopy(w, *c);
    s->copies.erase(c);
  }
  ++w->clock; // the wait orders the copy before what the SIMD group does next
  for (uint32_t i = 0; i < s->lanes; ++i) {
    Fiber &g = w->fibers[s->firstLane + i];
    g.tgHorizon = g.deviceHorizon = w->clock;
  }
  releaseGroup(w, s);
}
)SM"
