R"SM(
namespace metal {
template <class T> struct sm_element_of {
  static_assert(sizeof(T) == 0, "a simdgroup_matrix has elements of float, half or bfloat");
};
template <> struct sm_element_of<float> {
  static constexpr unsigned value = SM_FLOAT;
};
template <> struct sm_element_of<half> {
  static constexpr unsigned value = SM_HALF;
};
template <> struct sm_element_of<bfloat> {
  static constexpr unsigned value = SM_BFLOAT;
};
SM_INLINE unsigned sm_offset(unsigned l) { return ((l >> 4) * 4 + (l >> 1 & 3)) * 8 + (l >> 1 & 4) + (l & 1) * 2; }
// Follows the log if another lane has been here; false for the first.
SM_INLINE bool sm_follow(__private SmLane *l, ulong key, __private unsigned &id) {
  __private SmSimd *s = l->simd;
  unsigned p = l->pos;
  if (p == s->head) return false;
  __private SmLogEntry *e = &s->log[p % SM_LOG];
  l->pos = p + 1;
  id = e->id;
  if (__builtin_expect(e->key != key, 0)) sm_diverged(key, e->key);
  return true;
}
SM_INLINE void sm_drop(unsigned id) {
  __private SmSimd *s = sm_lane()->simd;
  if (--s->slots[id].refs == 0) s->freeList[s->freeCount++] = (ushort)id;
}

// Either the number of a SIMD-group value (id), or the lane's own two elements, or both.
template <class T, int C, int R> struct simdgroup_matrix;
template <class T> struct simdgroup_matrix<T, 8, 8> {
  static_assert(sizeof(sm_element_of<T>) > 0, "");
  static constexpr unsigned element = sm_element_of<T>::value;
  typedef vec<T, 2> storage_type;
  unsigned id;
  bool owned;
  storage_type e;
  SM_INLINE simdgroup_matrix() : id(0), owned(true) { e = (T)__builtin_nanf(""); }
  SM_INLINE explicit simdgroup_matrix(T diagonal) : id(0), owned(false) { id = sm_filled(SM_DIAGONAL, diagonal); }
  SM_INLINE simdgroup_matrix(const simdgroup_matrix &o) : id(o.id), owned(o.owned) {
    e = o.e;
    if (id) ++sm_lane()->simd->slots[id].refs;
  }
  SM_INLINE ~simdgroup_matrix() {
    if (id) sm_drop(id);
  }
  SM_INLINE __private simdgroup_matrix &operator=(const simdgroup_matrix &o) __private {
    if (o.id) ++sm_lane()->simd->slots[o.id].refs;
    if (id) sm_drop(id);
    id = o.id;
    owned = o.owned;
    e = o.e;
    return *this;
  }
  static SM_INLINE unsigned sm_filled(unsigned kind, T v) {
    __private SmLane *l = sm_lane();
    unsigned i;
    float f = (float)v;
    ulong key = kind | element << 4 | (ulong) __builtin_bit_cast(uint, f) << 8;
    if (!sm_follow(l, key, i)) i = sm_fill_first(key, element, f);
    return i;
  }
  SM_INLINE void sm_assign(unsigned i) __private {
    if (id) sm_drop(id);
    id = i;
    owned = false;
  }
  SM_INLINE void sm_fetch() __private {
    if (owned) return;
    __private SmLane *l = sm_lane();
    __private SmSimd *s = l->simd;
    if (__builtin_expect(!s->slots[id].ready, 0)) sm_await(id);
    __private float *v = s->values + 64 * (ulong)id + sm_offset(l->lane);
    e[0] = (T)v[0];
    e[1] = (T)v[1];
    owned = true;
  }
  // The value as an operand: deposits the lane's elements if no SIMD-group value exists.
  SM_INLINE unsigned sm_operand() __private {
    if (id) return id;
    __private SmLane *l = sm_lane();
    __private SmSimd *s = l->simd;
    unsigned i;
    if (!sm_follow(l, SM_DEPOSIT | element << 4, i)) i = sm_deposit_first(SM_DEPOSIT | element << 4, element);
    __private float *v = s->values + 64 * (ulong)i + sm_offset(l->lane);
    v[0] = (float)e[0];
    v[1] = (float)e[1];
    if (++s->slots[i].deposits == SM_LANES) sm_deposited(i);
    id = i;
    return i;
  }
  // The caller may write: the lane's elements are the value from here on.
  SM_INLINE __private storage_type &thread_elements() __private {
    sm_fetch();
    if (id) sm_drop(id);
    id = 0;
    return e;
  }
  SM_INLINE storage_type thread_elements() const __private {
    __private simdgroup_matrix *m = (__private simdgroup_matrix *)this;
    m->sm_fetch();
    return e;
  }
#ifdef SM_HELD_REFERENCES // the source keeps references to elements: they must stay true after every operation
  SM_INLINE void sm_settle() __private {
    sm_fetch();
    if (id) sm_drop(id);
    id = 0;
  }
#else
  SM_INLINE void sm_settle() __private {}
#endif
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <class T, int C, int R> SM_INLINE simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, C, R> m;
  m.sm_assign(simdgroup_matrix<T, C, R>::sm_filled(SM_FILL, v));
  m.sm_settle();
  return m;
}
template <class T, int C, int R> SM_INLINE simdgroup_matrix<T, C, R> make_diagonal_simdgroup_matrix(T v) {
  return simdgroup_matrix<T, C, R>(v);
}

template <class D, class A, class B>
SM_INLINE void sm_multiply(__private simdgroup_matrix<D, 8, 8> &d, __private simdgroup_matrix<A, 8, 8> &a,
                           __private simdgroup_matrix<B, 8, 8> &b, unsigned c) {
  __private SmLane *l = sm_lane();
  unsigned i, e = sm_element_of<D>::value;
  ulong ia = a.sm_operand(), ib = b.sm_operand(), key = SM_MMA | e << 4 | ia << 8 | ib << 24 | (ulong)c << 40;
  if (!sm_follow(l, key, i)) i = sm_mma_first(key, e);
  d.sm_assign(i);
  d.sm_settle();
}
// Operands may be temporaries or constants: a const operand is read through a copy of its handle.
template <class D, class A, class B, class C>
SM_INLINE void simdgroup_multiply_accumulate(__private simdgroup_matrix<D, 8, 8> &d,
                                             const __private simdgroup_matrix<A, 8, 8> &a,
                                             const __private simdgroup_matrix<B, 8, 8> &b,
                                             const __private simdgroup_matrix<C, 8, 8> &c) {
  unsigned ic = ((__private simdgroup_matrix<C, 8, 8> &)c).sm_operand();
  sm_multiply(d, (__private simdgroup_matrix<A, 8, 8> &)a, (__private simdgroup_matrix<B, 8, 8> &)b, ic);
}
template <class D, class A, class B>
SM_INLINE void simdgroup_multiply(__private simdgroup_matrix<D, 8, 8> &d, const __private simdgroup_matrix<A, 8, 8> &a,
                                  const __private simdgroup_matrix<B, 8, 8> &b) {
  sm_multiply(d, (__private simdgroup_matrix<A, 8, 8> &)a, (__private simdgroup_matrix<B, 8, 8> &)b, 0);
}
template <class T>
SM_INLINE simdgroup_matrix<T, 8, 8> operator*(const simdgroup_matrix<T, 8, 8> a, const simdgroup_matrix<T, 8, 8> b) {
  simdgroup_matrix<T, 8, 8> d;
  simdgroup_multiply(d, a, b);
  return d;
}

SM_INLINE ulong sm_address_key(unsigned kind, unsigned e, ulong p, ulong stride, bool transpose) {
  return kind | e << 4 | (p * 0x9e3779b97f4a7c15ul + stride * 2 + transpose) << 8;
}
template <class T, class P>
SM_INLINE void sm_load(__private simdgroup_matrix<T, 8, 8> &m, P p, ulong stride, ulong2 origin, bool transpose,
                       unsigned space) {
  // elements_per_row is the row stride in memory; the origin (x, y) counts columns and rows there.
  P at = p + origin[1] * stride + origin[0];
  __private SmLane *l = sm_lane();
  unsigned i, e = sm_element_of<T>::value;
  ulong key = sm_address_key(SM_LOAD, e, (ulong)at, stride, transpose);
  if (!sm_follow(l, key, i)) i = sm_load_first(key, (const __generic void *)at, stride, transpose, e, space);
  m.sm_assign(i);
  m.sm_settle();
}
template <class T, class P>
SM_INLINE void sm_store(__private simdgroup_matrix<T, 8, 8> &m, P p, ulong stride, ulong2 origin, bool transpose,
                        unsigned space) {
  P at = p + origin[1] * stride + origin[0];
  __private SmLane *l = sm_lane();
  unsigned i, e = sm_element_of<T>::value, a = m.sm_operand();
  ulong key = sm_address_key(SM_STORE, e, (ulong)at, stride, transpose) ^ (ulong)a << 40;
  if (!sm_follow(l, key, i)) sm_store_first(key, a, (__generic void *)at, stride, transpose, e, space);
  m.sm_settle();
}
#define SM_LOADS(AS, SPACE)                                                                                            \
  template <class T>                                                                                                   \
  SM_INLINE void simdgroup_load(__private simdgroup_matrix<T, 8, 8> &m, const AS T *p, ulong stride = 8,               \
                                ulong2 origin = ulong2{0, 0}, bool transpose = false) {                                \
    sm_load(m, p, stride, origin, transpose, SPACE);                                                                   \
  }
SM_LOADS(SM_DEVICE, 1)
SM_LOADS(__local, 0)
SM_LOADS(__global, 2)
#define SM_STORES(AS, SPACE)                                                                                           \
  template <class T>                                                                                                   \
  SM_INLINE void simdgroup_store(const __private simdgroup_matrix<T, 8, 8> &m, AS T *p, ulong stride = 8,              \
                                 ulong2 origin = ulong2{0, 0}, bool transpose = false) {                               \
    sm_store((__private simdgroup_matrix<T, 8, 8> &)m, p, stride, origin, transpose, SPACE);                           \
  }
SM_STORES(SM_DEVICE, 1)
SM_STORES(__local, 0)

// The private spelling of older kernels: a fragment is vec<T, 64>, of which a lane holds two elements in memory.
template <class T> struct alignas(sizeof(T) * 2) sm_fragment {
  T e[2];
  SM_INLINE sm_fragment() { e[0] = e[1] = (T)__builtin_nanf(""); }
};
template <class A, class B, class C>
SM_INLINE sm_fragment<C> __metal_simdgroup_matrix_8x8_multiply_accumulate(sm_fragment<A> a, sm_fragment<B> b,
                                                                          sm_fragment<C> c, sm_fragment<C>) {
  simdgroup_matrix<A, 8, 8> ma;
  simdgroup_matrix<B, 8, 8> mb;
  simdgroup_matrix<C, 8, 8> mc;
  ma.e = vec<A, 2>{a.e[0], a.e[1]};
  mb.e = vec<B, 2>{b.e[0], b.e[1]};
  mc.e = vec<C, 2>{c.e[0], c.e[1]};
  simdgroup_multiply_accumulate(mc, ma, mb, mc);
  vec<C, 2> r = mc.thread_elements();
  c.e[0] = r[0];
  c.e[1] = r[1];
  return c;
}

// Atomics. Only relaxed order exists in MSL.
enum memory_order { memory_order_relaxed };
template <class T> struct _atomic {
  T v;
};
#define SM_P(T) (&p->v)
template <class A> struct sm_atomic_value;
template <class T> struct sm_atomic_value<_atomic<T>> {
  using type = T;
};
#define SM_ATOMIC_SPACE(AS)                                                                                            \
  template <class T>                                                                                                   \
  SM_INLINE void atomic_store_explicit(volatile AS _atomic<T> *p, typename remove_const<T>::type x, memory_order) {    \
    __atomic_store_n((AS typename sm_bits<T>::type *)p, sm_bits<T>::from(x), __ATOMIC_RELAXED);                        \
  }                                                                                                                    \
  template <class T> SM_INLINE T atomic_load_explicit(const volatile AS _atomic<T> *p, memory_order) {                 \
    return sm_bits<T>::to(__atomic_load_n((const AS typename sm_bits<T>::type *)p, __ATOMIC_RELAXED));                 \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  SM_INLINE T atomic_exchange_explicit(volatile AS _atomic<T> *p, typename remove_const<T>::type x, memory_order) {    \
    return sm_bits<T>::to(                                                                                             \
        __atomic_exchange_n((AS typename sm_bits<T>::type *)p, sm_bits<T>::from(x), __ATOMIC_RELAXED));                \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  SM_INLINE bool atomic_compare_exchange_weak_explicit(volatile AS _atomic<T> *p, __private T *expected,               \
                                                       typename remove_const<T>::type x, memory_order, memory_order) { \
    auto e = sm_bits<T>::from(*expected);                                                                              \
    bool ok = __atomic_compare_exchange_n((AS typename sm_bits<T>::type *)p, &e, sm_bits<T>::from(x), false,           \
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED);                                         \
    *expected = sm_bits<T>::to(e);                                                                                     \
    return ok;                                                                                                         \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  SM_INLINE T atomic_fetch_add_explicit(volatile AS _atomic<T> *p, typename remove_const<T>::type x, memory_order) {   \
    return sm_update((AS typename sm_bits<T>::type *)p, x, sm_add());                                                  \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  SM_INLINE T atomic_fetch_sub_explicit(volatile AS _atomic<T> *p, typename remove_const<T>::type x, memory_order) {   \
    return sm_update((AS typename sm_bits<T>::type *)p, x, sm_sub());                                                  \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  SM_INLINE T atomic_fetch_max_explicit(volatile AS _atomic<T> *p, typename remove_const<T>::type x, memory_order) {   \
    return sm_update((AS typename sm_bits<T>::type *)p, x, sm_max());                                                  \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  SM_INLINE T atomic_fetch_min_explicit(volatile AS _atomic<T> *p, typename remove_const<T>::type x, memory_order) {   \
    return sm_update((AS typename sm_bits<T>::type *)p, x, sm_min());                                                  \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  SM_INLINE T atomic_fetch_and_explicit(volatile AS _atomic<T> *p, typename remove_const<T>::type x, memory_order) {   \
    return sm_update((AS typename sm_bits<T>::type *)p, x, sm_and());                                                  \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  SM_INLINE T atomic_fetch_or_explicit(volatile AS _atomic<T> *p, typename remove_const<T>::type x, memory_order) {    \
    return sm_update((AS typename sm_bits<T>::type *)p, x, sm_or());                                                   \
  }                                                                                                                    \
  template <class T>                                                                                                   \
  SM_INLINE T atomic_fetch_xor_explicit(volatile AS _atomic<T> *p, typename remove_const<T>::type x, memory_order) {   \
    return sm_update((AS typename sm_bits<T>::type *)p, x, sm_xor());                                                  \
  }
struct sm_sub {
  template <class T> static SM_INLINE T of(T a, T b) { return a - b; }
};
template <class T> struct sm_bits {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics have four or eight bytes");
  using type = conditional_t<sizeof(T) == 4, uint, ulong>;
  static SM_INLINE type from(T x) { return __builtin_bit_cast(type, x); }
  static SM_INLINE T to(type x) { return __builtin_bit_cast(T, x); }
};
template <> struct sm_bits<bool> {
  using type = uint;
  static SM_INLINE type from(bool x) { return x; }
  static SM_INLINE bool to(type x) { return x != 0; }
};
template <class P, class T, class Op> SM_INLINE T sm_update(P p, T x, Op) {
  auto old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, sm_bits<T>::from(Op::of(sm_bits<T>::to(old), x)), true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {}
  return sm_bits<T>::to(old);
}
SM_ATOMIC_SPACE(SM_DEVICE)
SM_ATOMIC_SPACE(__local)
SM_INLINE void atomic_thread_fence(mem_flags, memory_order, thread_scope = thread_scope::thread_scope_device) {}
} // namespace metal
// The names of C11 atomics are types of OpenCL: the front end renames them.
typedef metal::_atomic<int> sm_atomic_int;
typedef metal::_atomic<uint> sm_atomic_uint;
typedef metal::_atomic<float> sm_atomic_float;
typedef metal::_atomic<ulong> sm_atomic_ulong;
typedef metal::_atomic<bool> sm_atomic_bool;
template <class T> using sm_atomic = metal::_atomic<T>;
)SM"
