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
#define SM_TRANSCENDENTALS                                                                                             \
  SM_FLOAT1(exp, ::expf(x))                                                                                            \
  SM_FLOAT1(exp2, ::exp2f(x))                                                                                          \
  SM_FLOAT1(exp10, ::exp10f(x))                                                                                        \
  SM_FLOAT1(log, ::logf(x))                                                                                            \
  SM_FLOAT1(log2, ::log2f(x))                                                                                          \
  SM_FLOAT1(log10, ::log10f(x))                                                                                        \
  SM_FLOAT1(sin, ::sinf(x))                                                                                            \
  SM_FLOAT1(cos, ::cosf(x))                                                                                            \
  SM_FLOAT1(tan, ::tanf(x))                                                                                            \
  SM_FLOAT1(asin, ::asinf(x))                                                                                          \
  SM_FLOAT1(acos, ::acosf(x))                                                                                          \
  SM_FLOAT1(atan, ::atanf(x))                                                                                          \
  SM_FLOAT1(sinh, ::sinhf(x))                                                                                          \
  SM_FLOAT1(cosh, ::coshf(x))                                                                                          \
  SM_FLOAT1(tanh, ::tanhf(x))                                                                                          \
  SM_FLOAT1(asinh, ::asinhf(x))                                                                                        \
  SM_FLOAT1(acosh, ::acoshf(x))                                                                                        \
  SM_FLOAT1(atanh, ::atanhf(x))                                                                                        \
  SM_FLOAT1(sinpi, ::sinf(SM_PI *x))                                                                                   \
  SM_FLOAT1(cospi, ::cosf(SM_PI *x))                                                                                   \
  SM_FLOAT1(tanpi, ::tanf(SM_PI *x))                                                                                   \
  SM_FLOAT1(sqrt, __builtin_sqrtf(x))                                                                                  \
  SM_FLOAT1(rsqrt, 1.0f / __builtin_sqrtf(x))                                                                          \
  SM_FLOAT2(pow, ::powf(x, y))                                                                                         \
  SM_FLOAT2(powr, ::powf(x, y))                                                                                        \
  SM_FLOAT2(atan2, ::atan2f(x, y))                                                                                     \
  SM_FLOAT2(fmod, ::fmodf(x, y))                                                                                       \
  SM_FLOAT2(divide, x / y)                                                                                             \
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
SM_TRANSCENDENTALS
namespace fast {
SM_TRANSCENDENTALS
}
namespace precise {
SM_TRANSCENDENTALS
}
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

// Geometry
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE T dot(vec<T, N> a, vec<T, N> b) {
  T s = a[0] * b[0];
  for (int i = 1; i < N; ++i) s += a[i] * b[i];
  return s;
}
template <class T, class = sm_not_bfloat<T>> SM_INLINE vec<T, 3> cross(vec<T, 3> a, vec<T, 3> b) {
  return a.yzx * b.zxy - a.zxy * b.yzx;
}
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE T length_squared(vec<T, N> a) { return dot(a, a); }
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE T length(vec<T, N> a) { return sqrt(dot(a, a)); }
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE T distance(vec<T, N> a, vec<T, N> b) {
  return length(a - b);
}
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE T distance_squared(vec<T, N> a, vec<T, N> b) {
  return dot(a - b, a - b);
}
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE vec<T, N> normalize(vec<T, N> a) {
  return a * rsqrt(dot(a, a));
}
template <class T, int N, class = sm_not_bfloat<T>> SM_INLINE vec<T, N> reflect(vec<T, N> i, vec<T, N> n) {
  return i - n * (2 * dot(n, i));
}
namespace fast {
using metal::distance;
using metal::length;
using metal::normalize;
} // namespace fast
namespace precise {
using metal::distance;
using metal::length;
using metal::normalize;
} // namespace precise

// Packing
SM_INLINE uint pack_float_to_unorm4x8(float4 v) {
  uint r = 0;
  for (int i = 0; i < 4; ++i) r |= (uint)rint(saturate(v[i]) * 255.0f) << 8 * i;
  return r;
}
SM_INLINE uint pack_float_to_snorm4x8(float4 v) {
  uint r = 0;
  for (int i = 0; i < 4; ++i) r |= ((uint)(int)rint(clamp(v[i], -1.0f, 1.0f) * 127.0f) & 255) << 8 * i;
  return r;
}
SM_INLINE float4 unpack_unorm4x8_to_float(uint p) {
  float4 v;
  for (int i = 0; i < 4; ++i) v[i] = (float)(p >> 8 * i & 255) / 255.0f;
  return v;
}
SM_INLINE float4 unpack_snorm4x8_to_float(uint p) {
  float4 v;
  for (int i = 0; i < 4; ++i) v[i] = max((float)(char)(p >> 8 * i) / 127.0f, -1.0f);
  return v;
}
SM_INLINE half4 unpack_unorm4x8_to_half(uint p) { return sm_convert<half4>(unpack_unorm4x8_to_float(p)); }
SM_INLINE half4 unpack_snorm4x8_to_half(uint p) { return sm_convert<half4>(unpack_snorm4x8_to_float(p)); }

// Matrices of C columns by R rows
template <class T, int C, int R> struct matrix {
  vec<T, R> columns[C];
  matrix() {
    for (int c = 0; c < C; ++c) columns[c] = (T)0;
  }
  explicit matrix(T d) {
    for (int c = 0; c < C; ++c)
      for (int r = 0; r < R; ++r) columns[c][r] = c == r ? d : (T)0;
  }
  template <class... A> matrix(vec<T, R> a, vec<T, R> b, A... rest) {
    vec<T, R> v[] = {a, b, rest...};
    static_assert(sizeof...(A) + 2 == C, "wrong number of columns");
    for (int c = 0; c < C; ++c) columns[c] = v[c];
  }
  __private vec<T, R> &operator[](int c) __private { return columns[c]; }
  vec<T, R> operator[](int c) const __private { return columns[c]; }
  SM_DEVICE vec<T, R> &operator[](int c) __global { return *(SM_DEVICE vec<T, R> *)&columns[c]; }
  vec<T, R> operator[](int c) const __global { return columns[c]; }
  __local vec<T, R> &operator[](int c) __local { return columns[c]; }
  vec<T, R> operator[](int c) const __local { return columns[c]; }
};
template <class T, int C, int R> SM_INLINE vec<T, R> operator*(matrix<T, C, R> m, vec<T, C> v) {
  vec<T, R> s = m.columns[0] * v[0];
  for (int c = 1; c < C; ++c) s += m.columns[c] * v[c];
  return s;
}
template <class T, int C, int R> SM_INLINE vec<T, C> operator*(vec<T, R> v, matrix<T, C, R> m) {
  vec<T, C> s;
  for (int c = 0; c < C; ++c) s[c] = dot(v, m.columns[c]);
  return s;
}
template <class T, int K, int R, int C> SM_INLINE matrix<T, C, R> operator*(matrix<T, K, R> a, matrix<T, C, K> b) {
  matrix<T, C, R> m;
  for (int c = 0; c < C; ++c) m.columns[c] = a * b.columns[c];
  return m;
}
template <class T, int C, int R> SM_INLINE matrix<T, C, R> operator+(matrix<T, C, R> a, matrix<T, C, R> b) {
  for (int c = 0; c < C; ++c) a.columns[c] += b.columns[c];
  return a;
}
template <class T, int C, int R> SM_INLINE matrix<T, C, R> operator-(matrix<T, C, R> a, matrix<T, C, R> b) {
  for (int c = 0; c < C; ++c) a.columns[c] -= b.columns[c];
  return a;
}
template <class T, int C, int R> SM_INLINE matrix<T, C, R> operator*(matrix<T, C, R> a, T s) {
  for (int c = 0; c < C; ++c) a.columns[c] *= s;
  return a;
}
template <class T, int C, int R> SM_INLINE matrix<T, C, R> operator*(T s, matrix<T, C, R> a) { return a * s; }
template <class T, int C, int R> SM_INLINE matrix<T, R, C> transpose(matrix<T, C, R> m) {
  matrix<T, R, C> t;
  for (int c = 0; c < C; ++c)
    for (int r = 0; r < R; ++r) t.columns[r][c] = m.columns[c][r];
  return t;
}
#define SM_MATRIX(T, C, R) using T##C##x##R = matrix<T, C, R>;
#define SM_MATRICES(T)                                                                                                 \
  SM_MATRIX(T, 2, 2)                                                                                                   \
  SM_MATRIX(T, 2, 3)                                                                                                   \
  SM_MATRIX(T, 2, 4)                                                                                                   \
  SM_MATRIX(T, 3, 2)                                                                                                   \
  SM_MATRIX(T, 3, 3)                                                                                                   \
  SM_MATRIX(T, 3, 4)                                                                                                   \
  SM_MATRIX(T, 4, 2)                                                                                                   \
  SM_MATRIX(T, 4, 3)                                                                                                   \
  SM_MATRIX(T, 4, 4)
SM_MATRICES(float)
SM_MATRICES(half)

// Small containers
template <class T, size_t N> struct array {
  T __elems[N ? N : 1];
  static constexpr size_t size() { return N; }
  __private T &operator[](size_t i) __private { return __elems[i]; }
  const __private T &operator[](size_t i) const __private { return __elems[i]; }
  __local T &operator[](size_t i) __local { return __elems[i]; }
  const __global T &operator[](size_t i) const __global { return __elems[i]; }
};
} // namespace metal
using metal::packed_char2;
using metal::packed_char3;
using metal::packed_char4;
using metal::packed_float2;
using metal::packed_float3;
using metal::packed_float4;
using metal::packed_half2;
using metal::packed_half3;
using metal::packed_half4;
using metal::packed_int2;
using metal::packed_int3;
using metal::packed_int4;
using metal::packed_short2;
using metal::packed_short3;
using metal::packed_short4;
using metal::packed_uchar2;
using metal::packed_uchar3;
using metal::packed_uchar4;
using metal::packed_uint2;
using metal::packed_uint3;
using metal::packed_uint4;
using metal::packed_ushort2;
using metal::packed_ushort3;
using metal::packed_ushort4;
)SM"
