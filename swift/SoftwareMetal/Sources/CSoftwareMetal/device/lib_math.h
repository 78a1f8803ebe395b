R"SM(
extern "C" {
float expf(float);
float exp2f(float);
float exp10f(float);
float logf(float);
float log2f(float);
float log10f(float);
float sinf(float);
float cosf(float);
float tanf(float);
float asinf(float);
float acosf(float);
float atanf(float);
float sinhf(float);
float coshf(float);
float tanhf(float);
float asinhf(float);
float acoshf(float);
float atanhf(float);
float powf(float, float);
float atan2f(float, float);
float fmodf(float, float);
float fdimf(float, float);
float nextafterf(float, float);
float ldexpf(float, int);
float sqrtf(float);
float cbrtf(float);
int sm_ilogbf(float) __asm("ilogbf");
float frexpf(float, __private int *);
float modff(float, __private float *);
}
namespace metal {
using ::as_type;
using ::vec;
#define SM_REUSE(T)                                                                                                    \
  using ::T##2;                                                                                                        \
  using ::T##3;                                                                                                        \
  using ::T##4;
SM_REUSE(char)
SM_REUSE(uchar)
SM_REUSE(short)
SM_REUSE(ushort)
SM_REUSE(int)
SM_REUSE(uint)
SM_REUSE(long)
SM_REUSE(ulong)
SM_REUSE(half)
SM_REUSE(bfloat)
SM_REUSE(float)
SM_REUSE(bool)
using ::bfloat;
using ::int16_t;
using ::int32_t;
using ::int64_t;
using ::int8_t;
using ::size_t;
using ::uchar;
using ::uint;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
using ::uint8_t;
using ::ulong;
using ::ushort;
#define SM_PACK(T)                                                                                                     \
  using packed_##T##2 = packed_vec<T, 2>;                                                                              \
  using packed_##T##3 = packed_vec<T, 3>;                                                                              \
  using packed_##T##4 = packed_vec<T, 4>;
SM_PACK(char)
SM_PACK(uchar)
SM_PACK(short)
SM_PACK(ushort)
SM_PACK(int)
SM_PACK(uint)
SM_PACK(half)
SM_PACK(bfloat)
SM_PACK(float)
SM_PACK(long)
SM_PACK(ulong)

// Apple's library has no function of bfloat: a scalar becomes float, and so is the result; a vector matches nothing.
// These are templates, because programs add overloads of bfloat to this namespace.
template <class T> constexpr bool sm_is_float_or_bfloat = is_same_v<T, float> || is_same_v<T, bfloat>;
template <class... T> constexpr bool sm_promotes = (sm_is_float_or_bfloat<T> && ...) && (is_same_v<T, bfloat> || ...);
template <class T> using sm_not_bfloat = enable_if_t<!is_same_v<T, bfloat>>;
#define SM_PROMOTE1(result, name)                                                                                      \
  template <class A, enable_if_t<sm_promotes<A>, int> = 0> SM_INLINE result name(A a) { return name((float)a); }
#define SM_PROMOTE2(name)                                                                                              \
  template <class A, class B, enable_if_t<sm_promotes<A, B>, int> = 0> SM_INLINE float name(A a, B b) {                \
    return name((float)a, (float)b);                                                                                   \
  }
#define SM_PROMOTE3(name)                                                                                              \
  template <class A, class B, class C, enable_if_t<sm_promotes<A, B, C>, int> = 0>                                     \
  SM_INLINE float name(A a, B b, C c) {                                                                                \
    return name((float)a, (float)b, (float)c);                                                                         \
  }
// One overload per scalar type, as in Metal, where mixing types is ambiguous; vectors elementwise.
#define SM_ELEMENTWISE1(name)                                                                                          \
  template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE vec<T, N> name(vec<T, N> x) {                          \
    vec<T, N> r;                                                                                                       \
    for (int i = 0; i < N; ++i) r[i] = name((T)x[i]);                                                                  \
    return r;                                                                                                          \
  }
#define SM_ELEMENTWISE2(name)                                                                                          \
  template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE vec<T, N> name(vec<T, N> x, vec<T, N> y) {             \
    vec<T, N> r;                                                                                                       \
    for (int i = 0; i < N; ++i) r[i] = name((T)x[i], (T)y[i]);                                                         \
    return r;                                                                                                          \
  }
#define SM_ELEMENTWISE3(name)                                                                                          \
  template <class T, int N, class = sm_not_bfloat<T>>                                                                  \
  SM_INLINE vec<T, N> name(vec<T, N> x, vec<T, N> y, vec<T, N> z) {                                                    \
    vec<T, N> r;                                                                                                       \
    for (int i = 0; i < N; ++i) r[i] = name((T)x[i], (T)y[i], (T)z[i]);                                                \
    return r;                                                                                                          \
  }
#define SM_FLOAT1(name, f)                                                                                             \
  SM_INLINE float name(float x) { return f; }                                                                          \
  SM_INLINE half name(half h) {                                                                                        \
    float x = h;                                                                                                       \
    return (half)(f);                                                                                                  \
  }                                                                                                                    \
  SM_PROMOTE1(float, name)                                                                                             \
  SM_ELEMENTWISE1(name)
#define SM_FLOAT2(name, f)                                                                                             \
  SM_INLINE float name(float x, float y) { return f; }                                                                 \
  SM_INLINE half name(half a, half b) {                                                                                \
    float x = a, y = b;                                                                                                \
    return (half)(f);                                                                                                  \
  }                                                                                                                    \
  SM_PROMOTE2(name)                                                                                                    \
  SM_ELEMENTWISE2(name)
#define SM_FLOAT3(name, f)                                                                                             \
  SM_INLINE float name(float x, float y, float z) { return f; }                                                        \
  SM_INLINE half name(half a, half b, half c) {                                                                        \
    float x = a, y = b, z = c;                                                                                         \
    return (half)(f);                                                                                                  \
  }                                                                                                                    \
  SM_PROMOTE3(name)                                                                                                    \
  SM_ELEMENTWISE3(name)
#define SM_INTS(M) M(char) M(uchar) M(short) M(ushort) M(int) M(uint) M(long) M(ulong)

#define SM_PI 3.14159265358979323846f
// The least accuracy that the specification grants: tables 8.2 (fast) and 8.1 (precise) of MSL 4. `sm_fast` is a
// constant of each namespace. Without SM_FUNCTION_ERRORS all functions are those of the C library.
#ifdef SM_FUNCTION_ERRORS
// A number in [-1, 1] that an argument always gives.
SM_INLINE float sm_noise(float x) {
  uint h = __builtin_bit_cast(uint, x) * 0x9e3779b9u;
  h = (h ^ h >> 15) * 0x85ebca6bu;
  h = (h ^ h >> 13) * 0xc2b2ae35u;
  return (float)((h ^ h >> 16) >> 8) * 0x1p-23f - 1.0f;
}
// Zero, infinities and NaN stay. What `r` errs by itself is to be left out of `ulps`.
SM_INLINE float sm_ulps(float r, float x, float ulps) {
  int bits = __builtin_bit_cast(int, r), magnitude = bits & 0x7fffffff, step = (int)__builtin_rintf(sm_noise(x) * ulps);
  if (magnitude == 0 || magnitude >= 0x7f800000) return r;
  magnitude += step;
  magnitude = magnitude < 1 ? 1 : magnitude > 0x7f7fffff ? 0x7f7fffff : magnitude;
  return __builtin_bit_cast(float, magnitude | (bits & (int)0x80000000));
}
#define SM_ULPS(fast, precise, f) sm_ulps(f, x, sm_fast ? (float)(fast) : (float)(precise))
#define SM_ABSOLUTE(where, error, fast, precise, f)                                                                    \
  (sm_fast && (where) ? (f) + sm_noise(x) * (0.75f * (error)) : SM_ULPS(fast, precise, f))
#define SM_FAST_AS(formula, precise, f) (sm_fast ? (formula) : SM_ULPS(0, precise, f))
#else
#define SM_ULPS(fast, precise, f) f
#define SM_ABSOLUTE(where, error, fast, precise, f) f
#define SM_FAST_AS(formula, precise, f) f
#endif
#define SM_EXP_ULPS 3 + __builtin_floorf(__builtin_fabsf(2 * x))
#define SM_NEAR_ONE (x >= 0.5f && x <= 2.0f)
#define SM_IN_TURN(half_turn) (x >= -(half_turn) && x <= (half_turn))
#define SM_TRANSCENDENTALS                                                                                             \
  SM_FLOAT1(exp, SM_ULPS(SM_EXP_ULPS, 4, ::expf(x)))                                                                   \
  SM_FLOAT1(exp2, SM_ULPS(SM_EXP_ULPS, 4, ::exp2f(x)))                                                                 \
  SM_FLOAT1(exp10, SM_FAST_AS(exp2(x * 3.32192809488736235f), 4, ::exp10f(x)))                                         \
  SM_FLOAT1(log, SM_ABSOLUTE(SM_NEAR_ONE, 0x1p-21f, 3, 4, ::logf(x)))                                                  \
  SM_FLOAT1(log2, SM_ABSOLUTE(SM_NEAR_ONE, 0x1p-22f, 2, 4, ::log2f(x)))                                                \
  SM_FLOAT1(log10, SM_FAST_AS(log2(x) * 0.30102999566398120f, 4, ::log10f(x)))                                         \
  SM_FLOAT1(sin, SM_ABSOLUTE(SM_IN_TURN(SM_PI), 0x1p-13f, 4, 4, ::sinf(x)))                                            \
  SM_FLOAT1(cos, SM_ABSOLUTE(SM_IN_TURN(SM_PI), 0x1p-13f, 4, 4, ::cosf(x)))                                            \
  SM_FLOAT1(tan, SM_FAST_AS(sin(x) * (1.0f / cos(x)), 6, ::tanf(x)))                                                   \
  SM_FLOAT1(asin, SM_ULPS(5, 4, ::asinf(x)))                                                                           \
  SM_FLOAT1(acos, SM_ULPS(5, 4, ::acosf(x)))                                                                           \
  SM_FLOAT1(atan, SM_ULPS(5, 5, ::atanf(x)))                                                                           \
  SM_FLOAT1(sinh, SM_FAST_AS(0.5f * (exp(x) - exp(-x)), 4, ::sinhf(x)))                                                \
  SM_FLOAT1(cosh, SM_FAST_AS(0.5f * (exp(x) + exp(-x)), 4, ::coshf(x)))                                                \
  SM_FLOAT1(tanh, SM_FAST_AS((exp(2 * x) - 1) / (exp(2 * x) + 1), 5, ::tanhf(x)))                                      \
  SM_FLOAT1(asinh, ::asinhf(x))                                                                                        \
  SM_FLOAT1(acosh, ::acoshf(x))                                                                                        \
  SM_FLOAT1(atanh, ::atanhf(x))                                                                                        \
  SM_FLOAT1(sinpi, SM_ABSOLUTE(SM_IN_TURN(1.0f), 0x1p-13f, 4, 4, ::sinf(SM_PI *x)))                                    \
  SM_FLOAT1(cospi, SM_ABSOLUTE(SM_IN_TURN(1.0f), 0x1p-13f, 4, 4, ::cosf(SM_PI *x)))                                    \
  SM_FLOAT1(tanpi, ::tanf(SM_PI *x))                                                                                   \
  SM_FLOAT1(rsqrt, SM_ULPS(1, 0, 1.0f / __builtin_sqrtf(x)))                                                           \
  SM_FLOAT1(sqrt, SM_FAST_AS(x == 0 || x == __builtin_inff() ? x : x * rsqrt(x), 0, __builtin_sqrtf(x)))               \
  SM_FLOAT2(pow, SM_FAST_AS(exp2(y *log2(x)), 16, ::powf(x, y)))                                                       \
  SM_FLOAT2(powr, SM_FAST_AS(exp2(y *log2(x)), 16, ::powf(x, y)))                                                      \
  SM_FLOAT2(atan2, SM_ULPS(6, 6, ::atan2f(x, y)))                                                                      \
  SM_FLOAT2(fmod, ::fmodf(x, y))                                                                                       \
  SM_FLOAT2(divide, SM_ULPS(2.5f, 0, x / y))                                                                           \
  SM_FLOAT1(ceil, __builtin_ceilf(x))                                                                                  \
  SM_FLOAT1(floor, __builtin_floorf(x))                                                                                \
  SM_FLOAT1(rint, __builtin_rintf(x))                                                                                  \
  SM_FLOAT1(round, __builtin_roundf(x))                                                                                \
  SM_FLOAT1(trunc, __builtin_truncf(x))                                                                                \
  SM_FLOAT1(fabs, __builtin_fabsf(x))                                                                                  \
  SM_FLOAT1(fract, x - __builtin_floorf(x))                                                                            \
  SM_FLOAT2(fmin, __builtin_fminf(x, y))                                                                               \
  SM_FLOAT2(fmax, __builtin_fmaxf(x, y))                                                                               \
  SM_INLINE float min(float x, float y) { return __builtin_fminf(x, y); }                                              \
  SM_INLINE float max(float x, float y) { return __builtin_fmaxf(x, y); }                                              \
  SM_INLINE float clamp(float x, float lo, float hi) { return __builtin_fminf(__builtin_fmaxf(x, lo), hi); }           \
  SM_INLINE float abs(float x) { return __builtin_fabsf(x); }                                                          \
  SM_INLINE float saturate(float x) { return __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f); }                        \
  SM_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
#ifdef SM_PRECISE_FUNCTIONS
constexpr bool sm_fast = false;
#else
constexpr bool sm_fast = true;
#endif
SM_TRANSCENDENTALS
namespace fast {
constexpr bool sm_fast = true;
SM_TRANSCENDENTALS
} // namespace fast
namespace precise {
constexpr bool sm_fast = false;
SM_TRANSCENDENTALS
} // namespace precise
SM_FLOAT2(fdim, ::fdimf(x, y))
SM_FLOAT2(copysign, __builtin_copysignf(x, y))
SM_FLOAT2(nextafter, ::nextafterf(x, y))
SM_FLOAT3(fmin3, __builtin_fminf(x, __builtin_fminf(y, z)))
SM_FLOAT3(fmax3, __builtin_fmaxf(x, __builtin_fmaxf(y, z)))
SM_FLOAT3(smoothstep, ({
            float t = __builtin_fminf(__builtin_fmaxf((z - x) / (y - x), 0.0f), 1.0f);
            t * t * (3.0f - 2.0f * t);
          }))
SM_FLOAT2(step, y < x ? 0.0f : 1.0f)
SM_FLOAT1(sign, x > 0 ? 1.0f : x < 0 ? -1.0f : x == 0 ? x : 0.0f)
SM_FLOAT1(cbrt, ::cbrtf(x))
SM_INLINE half fma(half a, half b, half c) { return (half)__builtin_fmaf(a, b, c); }
SM_PROMOTE3(fma)
SM_ELEMENTWISE3(fma)
SM_INLINE half min(half a, half b) { return (half)__builtin_fminf(a, b); }
SM_INLINE half max(half a, half b) { return (half)__builtin_fmaxf(a, b); }
SM_PROMOTE2(min)
SM_PROMOTE2(max)
SM_INLINE half abs(half a) { return (half)__builtin_fabsf(a); }
SM_PROMOTE1(float, abs)
SM_INLINE half saturate(half a) { return min(max(a, (half)0), (half)1); }
SM_PROMOTE1(float, saturate)
SM_ELEMENTWISE1(saturate)
#define SM_INT_ORDER(T)                                                                                                \
  SM_INLINE T min(T a, T b) { return b < a ? b : a; }                                                                  \
  SM_INLINE T max(T a, T b) { return a < b ? b : a; }                                                                  \
  SM_INLINE T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); }
SM_INTS(SM_INT_ORDER)
SM_INLINE half clamp(half x, half lo, half hi) { return min(max(x, lo), hi); }
SM_PROMOTE3(clamp)
#define SM_ABS(T, U)                                                                                                   \
  SM_INLINE T abs(T a) { return a < 0 ? (T) - a : a; }                                                                 \
  SM_INLINE U abs(U a) { return a; }
SM_ABS(char, uchar)
SM_ABS(short, ushort)
SM_ABS(int, uint)
SM_ABS(long, ulong)
SM_ELEMENTWISE2(min)
SM_ELEMENTWISE2(max)
SM_ELEMENTWISE3(clamp)
SM_ELEMENTWISE1(abs)
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE vec<T, N> min(vec<T, N> x, T y) {
  return min(x, (vec<T, N>)y);
}
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE vec<T, N> max(vec<T, N> x, T y) {
  return max(x, (vec<T, N>)y);
}
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE vec<T, N> clamp(vec<T, N> x, T lo, T hi) {
  return clamp(x, (vec<T, N>)lo, (vec<T, N>)hi);
}
template <class T, class = sm_not_bfloat<typename sm_vt<T>::e>> SM_INLINE T min3(T a, T b, T c) {
  return min(a, min(b, c));
}
template <class T, class = sm_not_bfloat<typename sm_vt<T>::e>> SM_INLINE T max3(T a, T b, T c) {
  return max(a, max(b, c));
}
template <class T, class = sm_not_bfloat<typename sm_vt<T>::e>> SM_INLINE T median3(T a, T b, T c) {
  return max(min(a, b), min(max(a, b), c));
}
SM_PROMOTE3(min3)
SM_PROMOTE3(max3)
SM_PROMOTE3(median3)
SM_INLINE float mix(float x, float y, float a) { return x + (y - x) * a; }
SM_INLINE half mix(half x, half y, half a) { return x + (y - x) * a; }
SM_PROMOTE3(mix)
SM_ELEMENTWISE3(mix)
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE vec<T, N> mix(vec<T, N> x, vec<T, N> y, T a) {
  return mix(x, y, (vec<T, N>)a);
}
SM_INLINE float ldexp(float x, int k) { return ::ldexpf(x, k); }
SM_INLINE half ldexp(half x, int k) { return (half)::ldexpf(x, k); }
template <class A, enable_if_t<sm_promotes<A>, int> = 0> SM_INLINE float ldexp(A x, int k) {
  return ldexp((float)x, k);
}
SM_INLINE int ilogb(float x) { return ::sm_ilogbf(x); }
SM_INLINE float frexp(float x, __private int &e) { return ::frexpf(x, &e); }
SM_INLINE float modf(float x, __private float &i) { return ::modff(x, &i); }
SM_INLINE float sincos(float x, __private float &c) {
  c = ::cosf(x);
  return ::sinf(x);
}
namespace fast {
SM_INLINE float sincos(float x, __private float &c) { return metal::sincos(x, c); }
} // namespace fast
namespace precise {
SM_INLINE float sincos(float x, __private float &c) { return metal::sincos(x, c); }
} // namespace precise

// Predicates
#define SM_TEST(name, f)                                                                                               \
  SM_INLINE bool name(float x) { return f; }                                                                           \
  SM_INLINE bool name(half h) {                                                                                        \
    float x = h;                                                                                                       \
    return f;                                                                                                          \
  }                                                                                                                    \
  SM_PROMOTE1(bool, name)                                                                                              \
  template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE vec<uchar, N> name(vec<T, N> v) {                      \
    vec<uchar, N> r;                                                                                                   \
    for (int i = 0; i < N; ++i) r[i] = name((T)v[i]);                                                                  \
    return r;                                                                                                          \
  }
SM_TEST(isnan, __builtin_isnan(x))
SM_TEST(isinf, __builtin_isinf(x))
SM_TEST(isfinite, __builtin_isfinite(x))
SM_TEST(isnormal, __builtin_isnormal(x))
SM_TEST(signbit, __builtin_signbit(x) != 0)
SM_INLINE bool all(bool b) { return b; }
SM_INLINE bool any(bool b) { return b; }
template <class T, int N> SM_INLINE bool all(vec<T, N> v) {
  bool r = true;
  for (int i = 0; i < N; ++i) r = r && v[i];
  return r;
}
template <class T, int N> SM_INLINE bool any(vec<T, N> v) {
  bool r = false;
  for (int i = 0; i < N; ++i) r = r || v[i];
  return r;
}
template <class T, enable_if_t<sm_vt<T>::n == 1 && !is_same_v<T, bfloat>, int> = 0>
SM_INLINE T select(T a, T b, bool c) {
  return c ? b : a;
}
template <class A, class B, enable_if_t<sm_promotes<A, B>, int> = 0> SM_INLINE float select(A a, B b, bool c) {
  return c ? (float)b : (float)a;
}
template <class T, class C, int N, class = sm_not_bfloat<T>>
SM_INLINE vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<C, N> c) {
  vec<T, N> r;
  for (int i = 0; i < N; ++i) r[i] = c[i] ? b[i] : a[i];
  return r;
}
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE vec<T, N> select(vec<T, N> a, vec<T, N> b, bool c) {
  return c ? b : a;
}
template <class C, int N> SM_INLINE vec<uchar, N> sm_not(vec<C, N> c) {
  vec<uchar, N> r;
  for (int i = 0; i < N; ++i) r[i] = !c[i];
  return r;
}

// Integers
#define SM_BITS(T, U, B)                                                                                               \
  SM_INLINE T popcount(T x) { return (T)__builtin_popcountl((ulong)(U)x); }                                            \
  SM_INLINE T clz(T x) { return (U)x ? (T)(__builtin_clzl((ulong)(U)x) - (64 - B)) : (T)B; }                           \
  SM_INLINE T ctz(T x) { return (U)x ? (T)__builtin_ctzl((ulong)(U)x) : (T)B; }                                        \
  SM_INLINE T reverse_bits(T x) {                                                                                      \
    U r = 0, v = (U)x;                                                                                                 \
    for (int i = 0; i < B; ++i) {                                                                                      \
      r = (U)(r << 1 | (v & 1));                                                                                       \
      v = (U)(v >> 1);                                                                                                 \
    }                                                                                                                  \
    return (T)r;                                                                                                       \
  }                                                                                                                    \
  SM_INLINE T rotate(T x, T k) {                                                                                       \
    U n = (U)k % B;                                                                                                    \
    return n ? (T)(((U)x << n) | ((U)x >> (B - n))) : x;                                                               \
  }                                                                                                                    \
  SM_INLINE T extract_bits(T x, uint o, uint n) { return n == 0 ? (T)0 : (T)((T)((U)x << (B - o - n)) >> (B - n)); }   \
  SM_INLINE T insert_bits(T x, T y, uint o, uint n) {                                                                  \
    U m = (U)((n >= B ? ~(U)0 : (U)(((U)1 << n) - 1)) << o);                                                           \
    return (T)(((U)x & ~m) | (((U)y << o) & m));                                                                       \
  }
#define SM_BITS2(T, U, B)                                                                                              \
  SM_BITS(T, U, B)                                                                                                     \
  SM_BITS(U, U, B)                                                                                                     \
  SM_INLINE U absdiff(T a, T b) { return a < b ? (U)b - (U)a : (U)a - (U)b; }                                          \
  SM_INLINE U absdiff(U a, U b) { return a < b ? b - a : a - b; }
SM_BITS2(char, uchar, 8)
SM_BITS2(short, ushort, 16)
SM_BITS2(int, uint, 32)
SM_BITS2(long, ulong, 64)
SM_ELEMENTWISE1(popcount)
SM_ELEMENTWISE1(clz)
SM_ELEMENTWISE1(ctz)
SM_ELEMENTWISE1(reverse_bits)
SM_ELEMENTWISE2(rotate)
#define SM_WIDE(T, W)                                                                                                  \
  SM_INLINE T mulhi(T a, T b) { return (T)(((W)a * (W)b) >> (sizeof(T) * 8)); }                                        \
  SM_INLINE T madhi(T a, T b, T c) { return mulhi(a, b) + c; }                                                         \
  SM_INLINE T hadd(T a, T b) { return (T)(((W)a + (W)b) >> 1); }                                                       \
  SM_INLINE T rhadd(T a, T b) { return (T)(((W)a + (W)b + 1) >> 1); }                                                  \
  SM_INLINE T addsat(T a, T b) {                                                                                       \
    W s = (W)a + (W)b;                                                                                                 \
    return s > (W)numeric_limits<T>::max()   ? numeric_limits<T>::max()                                                \
           : s < (W)numeric_limits<T>::min() ? numeric_limits<T>::min()                                                \
                                             : (T)s;                                                                   \
  }                                                                                                                    \
  SM_INLINE T subsat(T a, T b) {                                                                                       \
    W s = (W)a - (W)b;                                                                                                 \
    return s > (W)numeric_limits<T>::max()   ? numeric_limits<T>::max()                                                \
           : s < (W)numeric_limits<T>::min() ? numeric_limits<T>::min()                                                \
                                             : (T)s;                                                                   \
  }                                                                                                                    \
  SM_INLINE T madsat(T a, T b, T c) {                                                                                  \
    W s = (W)a * (W)b + (W)c;                                                                                          \
    return s > (W)numeric_limits<T>::max()   ? numeric_limits<T>::max()                                                \
           : s < (W)numeric_limits<T>::min() ? numeric_limits<T>::min()                                                \
                                             : (T)s;                                                                   \
  }
SM_WIDE(char, int)
SM_WIDE(uchar, int)
SM_WIDE(short, int)
SM_WIDE(ushort, int)
SM_WIDE(int, long)
SM_WIDE(uint, long)
SM_WIDE(long, __int128)
SM_WIDE(ulong, __int128)
SM_ELEMENTWISE2(mulhi)
SM_ELEMENTWISE2(addsat)
SM_ELEMENTWISE2(subsat)
SM_INLINE int mul24(int a, int b) { return a * b; }
SM_INLINE uint mul24(uint a, uint b) { return a * b; }
SM_INLINE int mad24(int a, int b, int c) { return a * b + c; }
SM_INLINE uint mad24(uint a, uint b, uint c) { return a * b + c; }
} // namespace metal
)SM"
