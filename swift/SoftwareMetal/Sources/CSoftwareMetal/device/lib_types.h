R"SM(
// Stand-in for Apple's metal_stdlib: MSL compiled by stock clang as C++ for OpenCL, for the host.
// Address spaces: device = opencl_global_device, constant = const __global, threadgroup = __local, thread = __private.
// They are distinct types, so overloads, templates and conversions resolve as in Metal, and they
// survive into LLVM IR, where the checks are inserted.
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma clang diagnostic ignored "-Wundefined-inline"
#define SM_DEVICE __attribute__((opencl_global_device))
#define SM_INLINE inline __attribute__((always_inline))

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;
typedef ulong size_t;
typedef long ptrdiff_t;
typedef ulong uintptr_t;
typedef long intptr_t;
typedef __bf16 bfloat;

template <class T, int N> using vec = T __attribute__((ext_vector_type(N)));
#define SM_VECTORS(T)                                                                                                  \
  typedef vec<T, 2> T##2;                                                                                              \
  typedef vec<T, 3> T##3;                                                                                              \
  typedef vec<T, 4> T##4;
SM_VECTORS(char)
SM_VECTORS(uchar)
SM_VECTORS(short)
SM_VECTORS(ushort)
SM_VECTORS(int)
SM_VECTORS(uint)
SM_VECTORS(long)
SM_VECTORS(ulong)
SM_VECTORS(half)
SM_VECTORS(bfloat)
SM_VECTORS(float)
// A vector of bool has no ext_vector_type: its elements are bytes, 0 or 1.
typedef uchar2 bool2;
typedef uchar3 bool3;
typedef uchar4 bool4;

template <class T> struct sm_vt {
  static constexpr int n = 1;
  using e = T;
};
#define SM_VT(N)                                                                                                       \
  template <class T> struct sm_vt<vec<T, N>> {                                                                         \
    static constexpr int n = N;                                                                                        \
    using e = T;                                                                                                       \
  };
SM_VT(2)
SM_VT(3)
SM_VT(4)

namespace metal {
template <class T, T V> struct integral_constant {
  static constexpr T value = V;
  using value_type = T;
  constexpr operator T() const { return V; }
};
using true_type = integral_constant<bool, true>;
using false_type = integral_constant<bool, false>;
template <class A, class B> struct is_same : false_type {};
template <class A> struct is_same<A, A> : true_type {};
template <class A, class B> constexpr bool is_same_v = is_same<A, B>::value;
template <bool C, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> {
  using type = T;
};
template <bool C, class T = void> using enable_if_t = typename enable_if<C, T>::type;
template <bool C, class A, class B> struct conditional {
  using type = A;
};
template <class A, class B> struct conditional<false, A, B> {
  using type = B;
};
template <bool C, class A, class B> using conditional_t = typename conditional<C, A, B>::type;
template <class T> struct remove_const {
  using type = T;
};
template <class T> struct remove_const<const T> {
  using type = T;
};
template <class T> struct remove_reference {
  using type = T;
};
template <class T> struct remove_reference<T &> {
  using type = T;
};
template <class T> struct remove_reference<T &&> {
  using type = T;
};
template <class T> struct remove_cv : remove_const<T> {};
template <class T> using remove_cv_t = typename remove_cv<T>::type;
template <class T> using remove_reference_t = typename remove_reference<T>::type;
template <class T> struct sm_unqualified {
  using type = T;
};
template <class T> struct sm_unqualified<__private T> {
  using type = T;
};
template <class T> struct sm_unqualified<__local T> {
  using type = T;
};
template <class T> struct sm_unqualified<__global T> {
  using type = T;
};
template <class T> struct sm_unqualified<SM_DEVICE T> {
  using type = T;
};
#define SM_ONE_OF(name, ...)                                                                                           \
  template <class T> struct name : false_type {};                                                                      \
  SM_EACH(name, __VA_ARGS__) template <class T> constexpr bool name##_v = name<T>::value;
template <class T>
struct is_floating_point : integral_constant<bool, is_same_v<T, float> || is_same_v<T, half> || is_same_v<T, bfloat>> {
};
template <class T> struct is_integral : integral_constant<bool, __is_integral(T)> {};
template <class T>
struct is_signed : integral_constant<bool, is_floating_point<T>::value || (__is_integral(T) && T(-1) < T(0))> {};
template <class T> struct is_unsigned : integral_constant<bool, __is_integral(T) && !(T(-1) < T(0))> {};
template <class T> struct is_arithmetic : integral_constant<bool, is_floating_point<T>::value || __is_integral(T)> {};
template <class T> struct is_vector : integral_constant<bool, (sm_vt<T>::n > 1)> {};
template <class T> constexpr bool is_floating_point_v = is_floating_point<T>::value;
template <class T> constexpr bool is_integral_v = is_integral<T>::value;
template <class T> constexpr bool is_signed_v = is_signed<T>::value;
template <class T> constexpr bool is_unsigned_v = is_unsigned<T>::value;
template <class T> constexpr bool is_arithmetic_v = is_arithmetic<T>::value;
template <class T> struct vec_element {
  using type = typename sm_vt<T>::e;
};

template <class T> struct sm_limits_int {
  static constexpr bool is_specialized = true, is_integer = true, is_signed = T(-1) < T(0), has_infinity = false;
  static constexpr int digits = sizeof(T) * 8 - is_signed;
  static constexpr T max() { return is_signed ? T((1ul << (sizeof(T) * 8 - 1)) - 1) : T(~T(0)); }
  static constexpr T min() { return is_signed ? T(T(1) << (sizeof(T) * 8 - 1)) : T(0); }
  static constexpr T lowest() { return min(); }
};
template <class T> struct numeric_limits : sm_limits_int<T> {};
#define SM_LIMITS(T, MAX, MIN, EPS, DENORM, DIGITS)                                                                    \
  template <> struct numeric_limits<T> {                                                                               \
    static constexpr bool is_specialized = true, is_integer = false, is_signed = true, has_infinity = true,            \
                          has_quiet_NaN = true;                                                                        \
    static constexpr int digits = DIGITS;                                                                              \
    static constexpr T max() { return T(MAX); }                                                                        \
    static constexpr T lowest() { return T(-MAX); }                                                                    \
    static constexpr T min() { return T(MIN); }                                                                        \
    static constexpr T epsilon() { return T(EPS); }                                                                    \
    static constexpr T denorm_min() { return T(DENORM); }                                                              \
    static constexpr T infinity() { return T(__builtin_inff()); }                                                      \
    static constexpr T quiet_NaN() { return T(__builtin_nanf("")); }                                                   \
    static constexpr T signaling_NaN() { return T(__builtin_nanf("")); }                                               \
  };
SM_LIMITS(float, 3.40282347e38f, 1.17549435e-38f, 1.1920929e-7f, 1.4e-45f, 24)
SM_LIMITS(half, 65504.0f, 6.103515625e-5f, 9.765625e-4f, 5.9604645e-8f, 11)
SM_LIMITS(bfloat, 3.38953139e38f, 1.17549435e-38f, 7.8125e-3f, 9.1835e-41f, 8)
} // namespace metal

// Construction and conversion. The front end rewrites T(a, b) to sm_make<T>(a, b), and casts to vectors to sm_cast.
template <class E, class A> SM_INLINE constexpr E sm_element(A a) { return (E)a; }
template <class V, class A> SM_INLINE V sm_convert(A a) {
  using U = typename metal::sm_unqualified<A>::type;
  if constexpr (sm_vt<V>::n > 1 && sm_vt<U>::n > 1) {
    static_assert(sm_vt<U>::n == sm_vt<V>::n, "vectors of different length do not convert");
    if constexpr (metal::is_same_v<U, V>) return a;
    else return __builtin_convertvector(a, V);
  } else if constexpr (sm_vt<V>::n > 1) {
    typename sm_vt<V>::e e = (typename sm_vt<V>::e)a;
    V v = e;
    return v;
  } else return (V)a;
}
template <class V, class A, class... R> SM_INLINE void sm_put(__private V &v, int i, A a, R... r) {
  using E = typename sm_vt<V>::e;
  using U = typename metal::sm_unqualified<A>::type;
  if constexpr (sm_vt<U>::n == 1) {
    v[i] = (E)a;
    ++i;
  } else {
    for (int k = 0; k < sm_vt<U>::n; ++k) v[i + k] = (E)a[k];
    i += sm_vt<U>::n;
  }
  if constexpr (sizeof...(R) > 0) sm_put(v, i, r...);
}
template <class... A> struct sm_width;
template <> struct sm_width<> {
  static constexpr int n = 0;
};
template <class A, class... R> struct sm_width<A, R...> {
  static constexpr int n = sm_vt<typename metal::sm_unqualified<A>::type>::n + sm_width<R...>::n;
};
template <class V, class... A> SM_INLINE V sm_make(A... a) {
  if constexpr (sm_vt<V>::n > 1) {
    if constexpr (sizeof...(A) == 0) {
      V v = (typename sm_vt<V>::e)0;
      return v;
    } else if constexpr (sizeof...(A) == 1) return sm_convert<V>(a...);
    else {
      static_assert(sm_width<A...>::n == sm_vt<V>::n, "wrong number of elements for a vector");
      V v;
      sm_put(v, 0, a...);
      return v;
    }
  } else if constexpr (sizeof...(A) == 1) return sm_convert<V>(a...);
  else return V(a...);
}
// The bit patterns of comparisons are 0 and -1; a bool vector holds 0 and 1.
template <class B, class A> SM_INLINE B sm_boolean(A a) {
  B b;
  for (int i = 0; i < sm_vt<B>::n; ++i) {
    if constexpr (sm_vt<A>::n == 1) b[i] = a ? 1 : 0;
    else b[i] = a[i] ? 1 : 0;
  }
  return b;
}
template <class B, class A, class C, class... R> SM_INLINE B sm_boolean(A a, C c, R... r) {
  return sm_make<B>((uchar)(a ? 1 : 0), (uchar)(c ? 1 : 0), (uchar)(r ? 1 : 0)...);
}
template <class T> struct sm_c {
  template <class A> SM_INLINE T operator->*(A a) const { return sm_convert<T>(a); }
};
template <class T, class A> SM_INLINE T sm_static_cast(A a) { return sm_convert<T>(a); }
template <class D, class S> SM_INLINE D as_type(S s) {
  static_assert(sizeof(D) == sizeof(S), "as_type needs types of one size");
  return __builtin_bit_cast(D, s);
}

// Packed vectors: aligned like their element.
template <class T, int N> struct packed_vec;
#define SM_PACKED(N, ...)                                                                                              \
  template <class T> struct packed_vec<T, N> {                                                                         \
    T __VA_ARGS__;                                                                                                     \
    packed_vec() = default;                                                                                            \
    packed_vec(vec<T, N> v) {                                                                                          \
      for (int i = 0; i < N; ++i) (&x)[i] = v[i];                                                                      \
    }                                                                                                                  \
    explicit packed_vec(T v) {                                                                                         \
      for (int i = 0; i < N; ++i) (&x)[i] = v;                                                                         \
    }                                                                                                                  \
    template <class A, class B, class... R> packed_vec(A a, B b, R... r) {                                             \
      vec<T, N> v = sm_make<vec<T, N>>(a, b, r...);                                                                    \
      for (int i = 0; i < N; ++i) (&x)[i] = v[i];                                                                      \
    }                                                                                                                  \
    operator vec<T, N>() const {                                                                                       \
      vec<T, N> v;                                                                                                     \
      for (int i = 0; i < N; ++i) v[i] = (&x)[i];                                                                      \
      return v;                                                                                                        \
    }                                                                                                                  \
    __private T &operator[](int i) __private { return (&x)[i]; }                                                       \
    T operator[](int i) const __private { return (&x)[i]; }                                                            \
    __local T &operator[](int i) __local { return (&x)[i]; }                                                           \
    T operator[](int i) const __local { return (&x)[i]; }                                                              \
    SM_DEVICE T &operator[](int i) __global { return *(SM_DEVICE T *)(&x + i); }                                       \
    T operator[](int i) const __global { return (&x)[i]; }                                                             \
  };
SM_PACKED(2, x, y)
SM_PACKED(3, x, y, z)
SM_PACKED(4, x, y, z, w)
)SM"
