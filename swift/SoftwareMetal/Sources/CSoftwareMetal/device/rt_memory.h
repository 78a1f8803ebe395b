R"SM(
// Executor, part 3: checked mode. Every access of the kernel to device, constant and threadgroup memory comes here.
//
// A cell records the last write and the last read: serial of the threadgroup (28 bits), logical clock (24), who (12).
// The clock advances at every barrier, so an access is ordered before the present one if its clock is below the
// horizon that the last barrier with the right memory flag set: per SIMD group, or for the whole threadgroup.
// Serials are unique over dispatches: nothing is ever cleared.
//
// Who: a thread, a lane of a matrix operation (IN_MATRIX + its thread), or several lanes of a SIMD group (SEVERAL + its
// index). A matrix operation is an access of each lane to its own elements: only a barrier orders it with another
// lane's. It runs for all lanes when the first arrives, so what a thread does itself is ordered with it by a barrier
// only, too.
namespace {
constexpr uint32_t WHO = 12, SEVERAL = SM_MAX_THREADS, IN_MATRIX = 2048, ATOMIC = 4094, MANY = 4095;
constexpr uint64_t CLOCK = (1u << 24) - 1, ANYONE = (1u << WHO) - 1;
constexpr uint64_t SPLIT = ~0ull, REDZONE = ~0ull - 1, ALL_GROUPS = (1ull << 28) - 2;
inline uint32_t simdOf(uint32_t who) {
  return who >= IN_MATRIX ? (who - IN_MATRIX) / 32 : who < SEVERAL ? who / 32 : who - SEVERAL;
}
inline uint64_t everyGroup(uint64_t firstSerial) { return ALL_GROUPS << 36 | (firstSerial & CLOCK) << WHO | MANY; }
enum Access : uint32_t { LOAD, STORE, ATOMIC_UPDATE, ATOMIC_LOAD, ATOMIC_STORE };
const char *accessName(uint32_t a) {
  static const char *n[] = {"load", "store", "atomic update", "atomic load", "atomic store"};
  return n[a];
}
inline uint64_t get(const uint64_t &x) { return __atomic_load_n(&x, __ATOMIC_RELAXED); }
inline void put(uint64_t &x, uint64_t v) { __atomic_store_n(&x, v, __ATOMIC_RELAXED); }

struct Region {
  SmCell *words, *bytes;
  bool device;
  uint64_t groupHorizon, simdHorizon;
  int buffer;
  uint64_t offset; // for messages: buffer index or -1, and the byte that is being touched
};
void race(Worker *w, const Region &r, uint64_t record, bool recordStores, uint32_t access, uint32_t by, uint32_t site) {
  char who[96];
  uint32_t code = record & ANYONE;
  uint64_t serial = record >> 36;
  if (serial == ALL_GROUPS) snprintf(who, sizeof who, "several threadgroups");
  else if (serial != w->serial)
    snprintf(who, sizeof who, "a thread of another threadgroup (%u)", uint32_t(serial - w->d->firstSerial));
  else if (code < SEVERAL) snprintf(who, sizeof who, "thread %u", code);
  else if (code == ATOMIC) snprintf(who, sizeof who, "an atomic operation");
  else if (code == MANY) snprintf(who, sizeof who, "several SIMD groups");
  else if (code >= IN_MATRIX)
    snprintf(who, sizeof who, "a matrix operation of thread %u (lane %u)", code - IN_MATRIX, (code - IN_MATRIX) % 32);
  else snprintf(who, sizeof who, "several lanes of SIMD group %u", code - SEVERAL);
  const bool inMatrix = by >= IN_MATRIX && by < ATOMIC;
  const uint32_t thread = inMatrix ? by - IN_MATRIX : w->cur->lane.threadIndex;
  report(
      w, F_RACE, r.buffer, site,
      "race in %s memory at byte %llu: %s by %s, then %s by %sthread %u, with no barrier between that orders %s memory",
      r.device ? "device" : "threadgroup", (unsigned long long)r.offset, recordStores ? "store" : "load", who,
      accessName(access), inMatrix ? "a matrix operation of " : "", thread, r.device ? "device" : "threadgroup");
}
// Tests whether `record` is unordered with an access by `code` of the current thread.
inline bool unordered(Worker *w, Fiber *f, const Region &r, uint64_t record, uint32_t code) {
  uint64_t serial = record >> 36, clock = record >> WHO & CLOCK;
  uint32_t who = record & ANYONE;
  if (serial == w->serial) {
    if (who == code) return false;
    if (who >= ATOMIC || code >= ATOMIC) return clock >= r.groupHorizon;
    return clock >= (simdOf(who) == f->lane.simdIndex ? r.simdHorizon : r.groupHorizon);
  }
  if (!r.device) return false;
  if (serial == ALL_GROUPS) return clock == (w->d->firstSerial & CLOCK);
  uint64_t n = uint64_t(w->d->groups[0]) * w->d->groups[1] * w->d->groups[2];
  return serial >= w->d->firstSerial && serial < w->d->firstSerial + n && !(who == ATOMIC && code == ATOMIC);
}
// Each returns whether the access may be made.
inline bool touch(Worker *w, Fiber *f, SmCell &c, const Region &r, uint32_t access, uint32_t code, uint32_t site) {
  const uint64_t written = get(c.w), mine = w->serial << 36 | w->clock << WHO | code;
  const bool store = access == STORE || access == ATOMIC_UPDATE || access == ATOMIC_STORE;
  if (written == REDZONE) {
    report(w, F_BOUNDS, r.buffer, site, "threadgroup %s out of bounds at byte %llu of threadgroup memory",
           accessName(access), (unsigned long long)r.offset);
    return false;
  }
  if (!r.device && access != STORE && access != ATOMIC_STORE && written >> 36 != w->serial)
    report(w, F_UNINITIALIZED, r.buffer, site, "%s of threadgroup memory that no thread has written, at byte %llu",
           accessName(access), (unsigned long long)r.offset);
  if (written != mine && written && unordered(w, f, r, written, code)) race(w, r, written, true, access, code, site);
  const uint64_t read = get(c.r);
  if (store) {
    if (read && read != mine && unordered(w, f, r, read, code)) race(w, r, read, false, access, code, site);
    put(c.w, mine);
  } else if (read != mine) {
    uint64_t now = mine;
    if (read && unordered(w, f, r, read, code)) {
      uint64_t serial = read >> 36;
      if (serial != w->serial) now = everyGroup(w->d->firstSerial);
      else {
        uint32_t who = read & ANYONE, simd = simdOf(who);
        now = (mine & ~ANYONE) | (who < ATOMIC && simd == f->lane.simdIndex ? SEVERAL + simd : MANY);
      }
    }
    if (now != read) put(c.r, now);
  }
  return true;
}
bool touchRange(Worker *w, Fiber *f, Region r, uint64_t cell, uint64_t n, uint32_t access, uint32_t code,
                uint32_t site) {
  // The common loads in a few comparisons: nothing unordered was written, and this read adds nothing to the record.
  const uint64_t group = w->serial << 36, mine = group | w->clock << WHO | code, first = w->d->firstSerial << 36;
  const uint64_t everyone = everyGroup(w->d->firstSerial), several = (mine & ~ANYONE) | (SEVERAL + f->lane.simdIndex);
  const uint64_t base = r.device ? 0 : group, below = r.device ? first : r.groupHorizon << WHO;
  bool may = true;
  while (n) {
    SmCell &word = r.words[cell / 4];
    bool whole = cell % 4 == 0 && n >= 4;
    if (whole && access == LOAD && get(word.w) - base < below) {
      uint64_t read = get(word.r);
      if (read == mine || read == several || (r.device && read == everyone)) {
        cell += 4;
        r.offset += 4;
        n -= 4;
        continue;
      }
    }
    if (whole && get(word.w) != SPLIT) {
      may = touch(w, f, word, r, access, code, site) && may;
      cell += 4;
      r.offset += 4;
      n -= 4;
      continue;
    }
    SmCell *b = r.bytes + cell / 4 * 4;
    if (get(word.w) != SPLIT) {
      SmCell c{get(word.w), get(word.r)};
      for (int i = 0; i < 4; ++i) b[i] = c;
      put(word.w, SPLIT);
    }
    uint64_t k = std::min<uint64_t>(n, 4 - cell % 4);
    for (uint64_t i = 0; i < k; ++i, ++r.offset) may = touch(w, f, b[cell % 4 + i], r, access, code, site) && may;
    if (whole && access == STORE && b[0].r == b[1].r && b[0].r == b[2].r && b[0].r == b[3].r) {
      put(word.r, b[0].r);
      put(word.w, get(b[0].w));
    }
    cell += k;
    n -= k;
  }
  return may;
}
inline bool checkGroup(Worker *w, Fiber *f, const uint8_t *p, uint32_t n, uint32_t access, uint32_t code,
                       uint32_t site) {
  uint64_t o = uint64_t(p - w->tg);
  if (__builtin_expect(o >= TG_CAPACITY - n, 0)) {
    report(w, F_BOUNDS, -1, site, "threadgroup %s of %u bytes outside of threadgroup memory", accessName(access), n);
    return false;
  }
  return touchRange(w, f, Region{w->tgWords, w->tgBytes, false, w->tgHorizon, f->tgHorizon, -1, o}, o, n, access, code,
                    site);
}
void outOfBounds(Worker *w, const uint8_t *p, uint32_t n, uint32_t access, uint32_t site) {
  SmDispatch *d = w->d;
  if (p >= d->unbound && p < d->unbound + d->unboundStride * SM_MAX_BUFFERS) {
    int i = int((p - d->unbound) / d->unboundStride);
    return report(w, F_UNBOUND, i, site, "%s through buffer(%d), which is not bound", accessName(access), i);
  }
  int best = -1;
  int64_t off = 0;
  for (int i = 0; i < SM_MAX_BUFFERS; ++i)
    if (d->bindings[i].base) {
      int64_t o = p - d->bindings[i].base, len = int64_t(d->bindings[i].length);
      int64_t dist = o < 0 ? -o : o - len, bestDist = best < 0  ? INT64_MAX
                                                      : off < 0 ? -off
                                                                : off - int64_t(d->bindings[best].length);
      if (dist < bestDist) {
        best = i;
        off = o;
      }
    }
  if (best < 0)
    return report(w, F_BOUNDS, -1, site, "%s of %u bytes outside of every buffer (none is bound)", accessName(access),
                  n);
  report(w, F_BOUNDS, best, site,
         "%s of %u bytes at offset %lld of buffer(%d), which has %llu bytes after its binding offset",
         accessName(access), n, (long long)off, best, (unsigned long long)d->bindings[best].length);
}
// Index of the binding that holds [p, p+n), or -1. Sites keep their last answer.
inline int findBinding(Worker *w, const uint8_t *p, uint32_t n, uint32_t site) {
  SmDispatch *d = w->d;
  uint8_t &hint = w->siteBinding[site < w->siteBinding.size() ? site : 0];
  const SmBinding &b = d->bindings[hint];
  if (__builtin_expect(uint64_t(p - b.base) < b.length && uint64_t(p - b.base) + n <= b.length, 1)) return hint;
  for (int i = 0; i < SM_MAX_BUFFERS; ++i) {
    const SmBinding &c = d->bindings[i];
    if (c.base && uint64_t(p - c.base) < c.length && uint64_t(p - c.base) + n <= c.length) {
      hint = uint8_t(i);
      return i;
    }
  }
  return -1;
}
inline bool checkDevice(Worker *w, Fiber *f, const uint8_t *p, uint32_t n, uint32_t access, uint32_t code,
                        uint32_t site) {
  int i = findBinding(w, p, n, site);
  if (__builtin_expect(i < 0, 0)) {
    if ((access == LOAD) && p >= w->d->imageBegin && p + n <= w->d->imageEnd) return true; // program-scope constants
    outOfBounds(w, p, n, access, site);
    return false;
  }
  const SmBinding &b = w->d->bindings[i];
  if (b.words)
    return touchRange(w, f, Region{b.words, b.bytes, true, w->deviceHorizon, f->deviceHorizon, i, uint64_t(p - b.base)},
                      uint64_t(p - b.allocation), n, access, code, site);
  return true;
}
bool accessMatrix(Worker *w, const uint8_t *p, uint32_t bytes, bool store, bool deviceSpace, uint32_t site,
                  uint32_t code) {
  if (deviceSpace) return checkDevice(w, w->cur, p, bytes, store ? STORE : LOAD, code, site);
  return checkGroup(w, w->cur, p, bytes, store ? STORE : LOAD, code, site);
}
// One row of an 8x8 matrix in memory, of `n`-byte elements: each is an access of the lane that holds it. Returns a bit
// for each element that may be accessed.
uint32_t accessMatrixRow(Worker *w, const uint8_t *p, uint32_t row, uint32_t n, bool transpose, bool store,
                         bool deviceSpace, uint32_t site) {
  const uint32_t first = IN_MATRIX + 32 * w->cur->lane.simdIndex;
  uint32_t may = 0;
  // Neighbouring columns of a row are in one lane.
  for (uint32_t j = 0; j < 8; j += transpose ? 1 : 2) {
    uint32_t lane = transpose ? laneOf(j, row) : laneOf(row, j);
    if (accessMatrix(w, p + j * n, transpose ? n : 2 * n, store, deviceSpace, site, first + lane))
      may |= (transpose ? 1u : 3u) << j;
  }
  return may;
}
inline void checkAlignment(Worker *w, const uint8_t *p, uint32_t packed, uint32_t site) {
  uint32_t align = packed >> 20 & 255;
  if (__builtin_expect(reinterpret_cast<uintptr_t>(p) & (align - 1), 0))
    fail(w, F_MISALIGNED, -1, site, "%s of %u bytes from an address that is not a multiple of %u",
         accessName(packed >> 16 & 7), packed & 0xffff, align);
}
inline uint32_t codeOf(Fiber *f, uint32_t access) { return access >= ATOMIC_UPDATE ? ATOMIC : f->lane.threadIndex; }
} // namespace

// packed: size in bytes (16 bits), kind of access (4), alignment the type asks for (8). Each returns the address to use
// in the stead of `p`: one of nothing but zeros, or one where nothing is kept, for a fault that is passed over.
SM_EXPORT uint8_t *sm_redirect_device(uint8_t *p, uint32_t packed, uint32_t site) {
  Worker *w = W;
  Fiber *f = w->cur;
  uint32_t a = packed >> 16 & 7;
  checkAlignment(w, p, packed, site);
  if (a == ATOMIC_UPDATE || a == ATOMIC_STORE) ++w->counters.atomics;
  if (checkDevice(w, f, p, packed & 0xffff, a, codeOf(f, a), site)) return p;
  return a == LOAD || a == ATOMIC_LOAD ? w->zeros : w->sink;
}
SM_EXPORT uint8_t *sm_redirect_threadgroup(uint8_t *p, uint32_t packed, uint32_t site) {
  Worker *w = W;
  Fiber *f = w->cur;
  uint32_t a = packed >> 16 & 7;
  checkAlignment(w, p, packed, site);
  if (a == ATOMIC_UPDATE || a == ATOMIC_STORE) ++w->counters.atomics;
  if (checkGroup(w, f, p, packed & 0xffff, a, codeOf(f, a), site)) return p;
  return a == LOAD || a == ATOMIC_LOAD ? w->zeros : w->sink;
}
SM_EXPORT uint8_t *sm_redirect_generic(uint8_t *p, uint32_t packed, uint32_t site) {
  Worker *w = W;
  Fiber *f = w->cur;
  if (reinterpret_cast<char *>(p) >= f->stack && reinterpret_cast<char *>(p) < f->stack + STACK) return p;
  return p >= w->tg && p < w->tg + TG_CAPACITY ? sm_redirect_threadgroup(p, packed, site)
                                               : sm_redirect_device(p, packed, site);
}
// A block copy or fill; size known only now.
SM_EXPORT uint8_t *sm_redirect_range(uint8_t *p, uint64_t n, uint32_t access, uint32_t site) {
  uint8_t *to = p;
  for (uint64_t i = 0; i < n; i += 4096) {
    uint8_t *here =
        sm_redirect_generic(p + i, uint32_t(std::min<uint64_t>(n - i, 4096)) | access << 16 | 1 << 20, site);
    if (here != p + i) to = here;
  }
  if (to != p && n > sizeof W->zeros)
    fail(W, F_BOUNDS, -1, site, "a copy of %llu bytes out of bounds", (unsigned long long)n);
  return to;
}
SM_EXPORT void sm_check_device(uint8_t *p, uint32_t packed, uint32_t site) { sm_redirect_device(p, packed, site); }
SM_EXPORT void sm_check_threadgroup(uint8_t *p, uint32_t packed, uint32_t site) {
  sm_redirect_threadgroup(p, packed, site);
}
SM_EXPORT void sm_check_generic(uint8_t *p, uint32_t packed, uint32_t site) { sm_redirect_generic(p, packed, site); }
SM_EXPORT void sm_check_range(uint8_t *p, uint64_t n, uint32_t access, uint32_t site) {
  sm_redirect_range(p, n, access, site);
}
)SM"
