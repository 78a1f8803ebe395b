R"SM(
// Barriers, SIMD-group functions and SIMD-group matrices, over the executor.
extern "C" {
unsigned sm_mma_first(ulong key, unsigned element);
unsigned sm_deposit_first(ulong key, unsigned element);
void sm_deposited(unsigned id);
unsigned sm_fill_first(ulong key, unsigned element, float value);
unsigned sm_load_first(ulong key, const __generic void *p, ulong stride, unsigned transpose, unsigned element,
                       unsigned space);
void sm_store_first(ulong key, unsigned a, __generic void *p, ulong stride, unsigned transpose, unsigned element,
                    unsigned space);
void sm_await(unsigned id);
__attribute__((noreturn)) void sm_diverged(ulong key, ulong other);
int sm_arrive(unsigned kind);
void sm_release();
unsigned sm_live_lanes();
void sm_simd_barrier(unsigned flags);
void sm_group_barrier(unsigned flags);
unsigned sm_constant(unsigned index, unsigned size, __private void *out);
void sm_register_static(unsigned id, unsigned size);
}
SM_INLINE __private SmLane *sm_lane() {
  __private SmLane *l;
  __asm("movq sm_tls_lane@gottpoff(%%rip), %0\n\tmovq %%fs:(%0), %0" : "=r"(l));
  return l;
}
template <class T> SM_INLINE T sm_function_constant(unsigned i) {
  T t{};
  sm_constant(i, sizeof(T), &t);
  return t;
}
SM_INLINE bool sm_constant_defined(unsigned i) { return sm_constant(i, 0, nullptr) != 0; }
template <int Id, class T> struct sm_static {
  static __global const unsigned registered;
};
SM_INLINE unsigned sm_register(unsigned id, unsigned size) {
  sm_register_static(id, size);
  return size;
}
template <int Id, class T> __global const unsigned sm_static<Id, T>::registered = sm_register(Id, sizeof(T));
template <int Id, class T> SM_INLINE __local T &sm_threadgroup() {
  static_cast<void>(&sm_static<Id, T>::registered);
  __private SmLane *l = sm_lane();
  return *(__local T *)(ulong)(l->tgStatic + l->tgOffsets[Id]);
}

// Arguments of kernels. Types come from the kernel's own signature.
template <class F> struct sm_signature;
template <int I, class A, class... R> struct sm_nth {
  using type = typename sm_nth<I - 1, R...>::type;
};
template <class A, class... R> struct sm_nth<0, A, R...> {
  using type = A;
};
template <class... A> struct sm_signature<void(A...)> {
  template <int I> using arg = typename sm_nth<I, A...>::type;
};
template <class T> struct sm_pointer;
template <class T> struct sm_pointer<T *> {
  static SM_INLINE T *at(__private unsigned char *p) { return (T *)(ulong)p; }
};
template <class T> struct sm_pointer<T &> {
  static SM_INLINE T &at(__private unsigned char *p) { return *(T *)(ulong)p; }
};
template <class T> SM_INLINE T sm_buffer(__private SmLane *l, int i) { return sm_pointer<T>::at(l->buffers[i]); }
template <class T> SM_INLINE T sm_dynamic(__private SmLane *l, int i) { return sm_pointer<T>::at(l->tgDynamic[i]); }
template <class T> struct sm_position_type {
  using U = typename metal::remove_const<T>::type;
  using e = typename sm_vt<U>::e;
  static_assert(metal::is_same_v<e, uint> || metal::is_same_v<e, ushort>,
                "a position, index or size given to a kernel must be of type uint or ushort, or a vector of these");
};
template <class T> SM_INLINE T sm_scalar(unsigned x) {
  using U = typename sm_position_type<T>::U;
  return (U)x;
}
template <class T> SM_INLINE T sm_position(const __private unsigned *p) {
  using U = typename sm_position_type<T>::U;
  if constexpr (sm_vt<U>::n == 1) return (U)p[0];
  else {
    U v;
    for (int i = 0; i < sm_vt<U>::n; ++i) v[i] = (typename sm_vt<U>::e)p[i];
    return v;
  }
}

namespace metal {
enum class mem_flags : uint {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16
};
SM_INLINE constexpr mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((uint)a | (uint)b); }
SM_INLINE constexpr mem_flags operator&(mem_flags a, mem_flags b) { return (mem_flags)((uint)a & (uint)b); }
enum class thread_scope : uint {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device
};
SM_INLINE void threadgroup_barrier(mem_flags f) { sm_group_barrier((uint)f & 3); }
SM_INLINE void simdgroup_barrier(mem_flags f) { sm_simd_barrier((uint)f & 3); }

struct simd_vote {
  typedef ulong vote_t;
  vote_t v;
  explicit constexpr simd_vote(vote_t x = 0) : v(x) {}
  explicit operator vote_t() const { return v; }
  bool all() const { return v == 0xffffffffu; }
  bool any() const { return v != 0; }
};

// No function of SIMD groups takes bfloat either: a scalar becomes float, a vector is refused.
template <class T> using sm_promoted = conditional_t<is_same_v<T, bfloat>, float, T>;
// Every lane deposits its operand; the last to arrive computes what the others then read.
template <class T> SM_INLINE __private sm_promoted<T> *sm_slot(__private SmLane *l, unsigned parity, unsigned lane) {
  return (__private sm_promoted<T> *)l->simd->exchange[parity][lane];
}
template <class T, class F> SM_INLINE T sm_collective(unsigned kind, T x, F combine) {
  static_assert(sizeof(T) <= 32, "operand of a SIMD-group function");
  static_assert(!is_same_v<typename sm_vt<T>::e, bfloat>, "no SIMD-group function takes a vector of bfloat");
  __private SmLane *l = sm_lane();
  unsigned p = l->parity;
  l->parity = p ^ 1;
  *sm_slot<T>(l, p, l->lane) = x;
  if (sm_arrive(kind)) {
    combine(l, p, sm_live_lanes());
    sm_release();
  }
  return *sm_slot<T>(l, p, l->lane);
}
template <class T> struct sm_nothing {
  SM_INLINE void operator()(__private SmLane *, unsigned, unsigned) const {}
};
template <class T> SM_INLINE unsigned sm_exchange(T x) {
  __private SmLane *l = sm_lane();
  unsigned p = l->parity;
  sm_collective<sm_promoted<T>>(SM_SHUFFLE, x, sm_nothing<T>());
  return p;
}
template <class T> SM_INLINE sm_promoted<T> simd_shuffle(T x, ushort i) {
  unsigned p = sm_exchange(x);
  return *sm_slot<T>(sm_lane(), p, i & 31);
}
template <class T> SM_INLINE sm_promoted<T> simd_broadcast(T x, ushort i) { return simd_shuffle(x, i); }
template <class T> SM_INLINE sm_promoted<T> simd_shuffle_xor(T x, ushort m) {
  return simd_shuffle(x, (ushort)(sm_lane()->lane ^ m));
}
template <class T> SM_INLINE sm_promoted<T> simd_shuffle_down(T x, ushort d) {
  unsigned p = sm_exchange(x), l = sm_lane()->lane + d;
  return l < 32 ? *sm_slot<T>(sm_lane(), p, l) : x;
}
template <class T> SM_INLINE sm_promoted<T> simd_shuffle_up(T x, ushort d) {
  unsigned p = sm_exchange(x), l = sm_lane()->lane - d;
  return l < 32 ? *sm_slot<T>(sm_lane(), p, l) : x;
}
template <class T> SM_INLINE sm_promoted<T> simd_shuffle_rotate_down(T x, ushort d) {
  return simd_shuffle(x, (ushort)(sm_lane()->lane + d));
}
template <class T> SM_INLINE sm_promoted<T> simd_shuffle_rotate_up(T x, ushort d) {
  return simd_shuffle(x, (ushort)(sm_lane()->lane - d));
}
template <class T> SM_INLINE sm_promoted<T> simd_shuffle_and_fill_down(T x, T fill, ushort d) {
  unsigned p = sm_exchange(x), q = sm_exchange(fill), l = sm_lane()->lane + d;
  return l < 32 ? *sm_slot<T>(sm_lane(), p, l) : *sm_slot<T>(sm_lane(), q, l & 31);
}
template <class T> SM_INLINE sm_promoted<T> simd_shuffle_and_fill_up(T x, T fill, ushort d) {
  unsigned p = sm_exchange(x), q = sm_exchange(fill), l = sm_lane()->lane - d;
  return l < 32 ? *sm_slot<T>(sm_lane(), p, l) : *sm_slot<T>(sm_lane(), q, l & 31);
}

template <class T, class Op> struct sm_reduce {
  SM_INLINE void operator()(__private SmLane *l, unsigned p, unsigned mask) const {
    T v[32];
    bool on[32];
    for (unsigned i = 0; i < 32; ++i) {
      on[i] = mask >> i & 1;
      if (on[i]) v[i] = *sm_slot<T>(l, p, i);
    }
    for (unsigned k = 1; k < 32; k *= 2) // a tree, as hardware would
      for (unsigned i = 0; i < 32; i += 2 * k) {
        if (on[i] && on[i + k]) v[i] = Op::of(v[i], v[i + k]);
        else if (on[i + k]) {
          v[i] = v[i + k];
          on[i] = true;
        }
      }
    for (unsigned i = 0; i < 32; ++i) *sm_slot<T>(l, p, i) = v[0];
  }
};
template <class T, class Op, bool Inclusive> struct sm_prefix {
  SM_INLINE void operator()(__private SmLane *l, unsigned p, unsigned mask) const {
    T s = Op::template zero<T>();
    for (unsigned i = 0; i < 32; ++i)
      if (mask >> i & 1) {
        T x = *sm_slot<T>(l, p, i), t = Op::of(s, x);
        *sm_slot<T>(l, p, i) = Inclusive ? t : s;
        s = t;
      }
  }
};
struct sm_add {
  template <class T> static SM_INLINE T of(T a, T b) { return a + b; }
  template <class T> static SM_INLINE T zero() { return (T)0; }
};
struct sm_mul {
  template <class T> static SM_INLINE T of(T a, T b) { return a * b; }
  template <class T> static SM_INLINE T zero() { return (T)1; }
};
struct sm_max {
  template <class T> static SM_INLINE T of(T a, T b) { return metal::max(a, b); }
};
struct sm_min {
  template <class T> static SM_INLINE T of(T a, T b) { return metal::min(a, b); }
};
struct sm_or {
  template <class T> static SM_INLINE T of(T a, T b) { return a | b; }
};
struct sm_and {
  template <class T> static SM_INLINE T of(T a, T b) { return a & b; }
};
struct sm_xor {
  template <class T> static SM_INLINE T of(T a, T b) { return a ^ b; }
};
#define SM_REDUCE(name, Op)                                                                                            \
  template <class T> SM_INLINE sm_promoted<T> name(T x) {                                                              \
    return sm_collective<sm_promoted<T>>(SM_REDUCE, x, sm_reduce<sm_promoted<T>, Op>());                               \
  }
SM_REDUCE(simd_sum, sm_add)
SM_REDUCE(simd_product, sm_mul)
SM_REDUCE(simd_max, sm_max)
SM_REDUCE(simd_min, sm_min)
SM_REDUCE(simd_or, sm_or)
SM_REDUCE(simd_and, sm_and)
SM_REDUCE(simd_xor, sm_xor)
template <class T> SM_INLINE sm_promoted<T> simd_prefix_inclusive_sum(T x) {
  return sm_collective<sm_promoted<T>>(SM_REDUCE, x, sm_prefix<sm_promoted<T>, sm_add, true>());
}
template <class T> SM_INLINE sm_promoted<T> simd_prefix_exclusive_sum(T x) {
  return sm_collective<sm_promoted<T>>(SM_REDUCE, x, sm_prefix<sm_promoted<T>, sm_add, false>());
}
template <class T> SM_INLINE sm_promoted<T> simd_prefix_inclusive_product(T x) {
  return sm_collective<sm_promoted<T>>(SM_REDUCE, x, sm_prefix<sm_promoted<T>, sm_mul, true>());
}
template <class T> SM_INLINE sm_promoted<T> simd_prefix_exclusive_product(T x) {
  return sm_collective<sm_promoted<T>>(SM_REDUCE, x, sm_prefix<sm_promoted<T>, sm_mul, false>());
}
template <class T> struct sm_first {
  SM_INLINE void operator()(__private SmLane *l, unsigned p, unsigned mask) const {
    T v = *sm_slot<T>(l, p, __builtin_ctz(mask));
    for (unsigned i = 0; i < 32; ++i) *sm_slot<T>(l, p, i) = v;
  }
};
template <class T> SM_INLINE sm_promoted<T> simd_broadcast_first(T x) {
  return sm_collective<sm_promoted<T>>(SM_SHUFFLE, x, sm_first<sm_promoted<T>>());
}
struct sm_votes {
  SM_INLINE void operator()(__private SmLane *l, unsigned p, unsigned mask) const {
    ulong v = 0;
    for (unsigned i = 0; i < 32; ++i)
      if (mask >> i & 1) v |= (ulong)(*sm_slot<ulong>(l, p, i) & 1) << i;
    v |= (ulong)mask << 32;
    for (unsigned i = 0; i < 32; ++i) *sm_slot<ulong>(l, p, i) = v;
  }
};
SM_INLINE ulong sm_vote(bool b) { return sm_collective<ulong>(SM_BALLOT, b ? 1 : 0, sm_votes()); }
SM_INLINE simd_vote simd_ballot(bool b) { return simd_vote(sm_vote(b) & 0xffffffffu); }
SM_INLINE simd_vote simd_active_threads_mask() { return simd_vote(sm_vote(true) & 0xffffffffu); }
SM_INLINE bool simd_all(bool b) {
  ulong v = sm_vote(b);
  return (v & 0xffffffffu) == v >> 32;
}
SM_INLINE bool simd_any(bool b) { return (sm_vote(b) & 0xffffffffu) != 0; }
SM_INLINE bool simd_is_first() {
  ulong v = sm_vote(true);
  return sm_lane()->lane == (unsigned)__builtin_ctzl(v >> 32);
}
SM_INLINE bool simd_is_helper_thread() { return false; }

// Quads: four neighbouring lanes.
template <class T> SM_INLINE sm_promoted<T> quad_shuffle(T x, ushort i) {
  return simd_shuffle(x, (ushort)((sm_lane()->lane & ~3u) + (i & 3)));
}
template <class T> SM_INLINE sm_promoted<T> quad_broadcast(T x, ushort i) { return quad_shuffle(x, i); }
template <class T> SM_INLINE sm_promoted<T> quad_broadcast_first(T x) { return quad_shuffle(x, 0); }
template <class T> SM_INLINE sm_promoted<T> quad_shuffle_xor(T x, ushort m) {
  return quad_shuffle(x, (ushort)((sm_lane()->lane & 3) ^ m));
}
template <class T> SM_INLINE sm_promoted<T> quad_shuffle_down(T x, ushort d) {
  unsigned p = sm_exchange(x), l = sm_lane()->lane;
  return (l & 3) + d < 4 ? *sm_slot<T>(sm_lane(), p, l + d) : x;
}
template <class T> SM_INLINE sm_promoted<T> quad_shuffle_up(T x, ushort d) {
  unsigned p = sm_exchange(x), l = sm_lane()->lane;
  return (l & 3) >= d ? *sm_slot<T>(sm_lane(), p, l - d) : x;
}
template <class T, class Op> SM_INLINE sm_promoted<T> sm_quad(T x) {
  unsigned p = sm_exchange(x), b = sm_lane()->lane & ~3u;
  __private SmLane *l = sm_lane();
  return Op::of(Op::of(*sm_slot<T>(l, p, b), *sm_slot<T>(l, p, b + 1)),
                Op::of(*sm_slot<T>(l, p, b + 2), *sm_slot<T>(l, p, b + 3)));
}
template <class T> SM_INLINE sm_promoted<T> quad_sum(T x) { return sm_quad<T, sm_add>(x); }
template <class T> SM_INLINE sm_promoted<T> quad_product(T x) { return sm_quad<T, sm_mul>(x); }
template <class T> SM_INLINE sm_promoted<T> quad_max(T x) { return sm_quad<T, sm_max>(x); }
template <class T> SM_INLINE sm_promoted<T> quad_min(T x) { return sm_quad<T, sm_min>(x); }
template <class T> SM_INLINE sm_promoted<T> quad_and(T x) { return sm_quad<T, sm_and>(x); }
template <class T> SM_INLINE sm_promoted<T> quad_or(T x) { return sm_quad<T, sm_or>(x); }
template <class T> SM_INLINE sm_promoted<T> quad_xor(T x) { return sm_quad<T, sm_xor>(x); }
SM_INLINE bool quad_all(bool b) { return quad_and((int)b) != 0; }
SM_INLINE bool quad_any(bool b) { return quad_or((int)b) != 0; }
} // namespace metal
)SM"
