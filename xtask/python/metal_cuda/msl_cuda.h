// The part of the Metal Shading Language that the kernels' texts use, in CUDA C++: what translate.py makes of a text is
// compiled behind this header and msl_cuda_simd.h, inside namespace msl.
//
// They offer the overloads that Apple's library has, and not more: a text that needs another one does not compile.
// Address spaces are gone (SoftwareMetal's front end is the one that checks them). Matrices of a SIMD group are two
// elements a lane, in Apple's order; a product of matrices is shuffles and fused multiply-adds in FP32.
//
// With MSL_ON_HOST a C++ compiler for processors takes them as well, over cuda_on_host.h: so their semantics are tested
// without a GPU.

#ifdef MSL_ON_HOST
#include "cuda_on_host.h"
#else
#define MSL __device__ __forceinline__
#define MSL_DYNAMIC_MEMORY(name) extern __shared__ float4 name[]
#define MSL_OUT_OF_LINE static __device__ __noinline__
namespace msl_target {
MSL unsigned short half_bits(float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
MSL float half_value(unsigned short bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
MSL unsigned short bfloat_bits(float x) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
// The hardware's approximations, whatever the options say.
MSL float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MSL float fast_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MSL float fast_divide(float x, float y) { return __fdividef(x, y); }
MSL float sqrt_rn(float x) { return __fsqrt_rn(x); }
MSL float divide_rn(float x, float y) { return __fdiv_rn(x, y); }
}  // namespace msl_target
#endif

#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fc00000)
#define MAXFLOAT __int_as_float(0x7f7fffff)
#undef FLT_MIN
#define FLT_MIN __int_as_float(0x00800000)
#define M_LOG2E_F 1.44269504088896340736f
#define M_LN2_F 0.693147180559945309417f

namespace msl {

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
static_assert(sizeof(long) == 8, "Metal's long has 64 bits");
static_assert(char(-1) < 0, "Metal's char is signed");

// MARK: Scalars

template <bool B, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  typedef T type;
};
template <class T, class U>
struct same {
  static constexpr bool value = false;
};
template <class T>
struct same<T, T> {
  static constexpr bool value = true;
};

struct half;
struct bfloat;
template <class T>
struct kind {
  static constexpr bool integer = false, scalar = false;
};
#define MSL_KIND(T, IS_INTEGER) \
  template <> \
  struct kind<T> { \
    static constexpr bool integer = IS_INTEGER, scalar = true; \
  };
MSL_KIND(bool, true)
MSL_KIND(char, true)
MSL_KIND(signed char, true)
MSL_KIND(uchar, true)
MSL_KIND(short, true)
MSL_KIND(ushort, true)
MSL_KIND(int, true)
MSL_KIND(uint, true)
MSL_KIND(long, true)
MSL_KIND(ulong, true)
MSL_KIND(float, false)
MSL_KIND(half, false)
MSL_KIND(bfloat, false)
#define MSL_SCALAR(U) class = typename enable_if<kind<U>::scalar>::type

struct half {
  ushort bits;
  half() = default;
  template <class U, MSL_SCALAR(U)>
  MSL half(U x) : bits(msl_target::half_bits(float(x))) {}
  MSL operator float() const { return msl_target::half_value(bits); }
};

// Unlike half it takes no number without being asked to.
struct bfloat {
  ushort bits;
  bfloat() = default;
  template <class U, MSL_SCALAR(U)>
  MSL explicit bfloat(U x) : bits(msl_target::bfloat_bits(float(x))) {}
  MSL operator float() const { return __int_as_float(int(uint(bits) << 16)); }
};

// The type of half op U and of bfloat op U: float beside float, else its own.
template <class H, class U>
struct beside {
  typedef H type;
};
template <class H>
struct beside<H, float> {
  typedef float type;
};
template <>
struct beside<half, bfloat> {};
template <>
struct beside<bfloat, half> {};

#define MSL_SMALL_OPERATOR(H, o) \
  MSL H operator o(H a, H b) { return H(float(a) o float(b)); } \
  template <class U, MSL_SCALAR(U)> \
  MSL typename beside<H, U>::type operator o(H a, U b) { \
    return typename beside<H, U>::type(float(a) o float(b)); \
  } \
  template <class U, MSL_SCALAR(U)> \
  MSL typename beside<H, U>::type operator o(U a, H b) { \
    return typename beside<H, U>::type(float(a) o float(b)); \
  } \
  template <class U> \
  MSL H &operator o##=(H &a, U b) { \
    a = H(a o b); \
    return a; \
  }
#define MSL_SMALL(H) \
  MSL_SMALL_OPERATOR(H, +) \
  MSL_SMALL_OPERATOR(H, -) \
  MSL_SMALL_OPERATOR(H, *) \
  MSL_SMALL_OPERATOR(H, /) \
  MSL H operator-(H a) { return H(-float(a)); }
MSL_SMALL(half)
MSL_SMALL(bfloat)

// MARK: Vectors

template <class T, int N>
struct vec;

// Some elements of a vector, to be assigned to. Reading them gives a vector: see MSL_SWIZZLES.
template <class T, int N>
struct elements {
  T *at[N];
  MSL elements &operator=(vec<T, N> x) {
    for (int i = 0; i < N; ++i) *at[i] = x[i];
    return *this;
  }
  MSL vec<T, N> get() const {
    vec<T, N> r;
    for (int i = 0; i < N; ++i) r[i] = *at[i];
    return r;
  }
  template <class U>
  MSL elements &operator+=(U x) {
    return *this = get() + x;
  }
  template <class U>
  MSL elements &operator-=(U x) {
    return *this = get() - x;
  }
  template <class U>
  MSL elements &operator*=(U x) {
    return *this = get() * x;
  }
};

// v.xy is translated to v.get_xy(), and as the target of an assignment to v.set_xy().
#define MSL_PAIR(a, b) \
  MSL vec<T, 2> get_##a##b() const { return vec<T, 2>(a, b); } \
  MSL elements<T, 2> set_##a##b() { return elements<T, 2>{{&a, &b}}; }
#define MSL_TRIPLE(a, b, c) \
  MSL vec<T, 3> get_##a##b##c() const { return vec<T, 3>(a, b, c); } \
  MSL elements<T, 3> set_##a##b##c() { return elements<T, 3>{{&a, &b, &c}}; }
#define MSL_QUAD(a, b, c, d) \
  MSL vec<T, 4> get_##a##b##c##d() const { return vec<T, 4>(a, b, c, d); }

template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  T x, y;
  vec() = default;
  template <class U, MSL_SCALAR(U)>
  MSL vec(U s) : x(T(s)), y(x) {}
  template <class A, class B, MSL_SCALAR(A), MSL_SCALAR(B)>
  MSL vec(A a, B b) : x(T(a)), y(T(b)) {}
  template <class U, class = typename enable_if<!same<T, U>::value>::type>
  MSL explicit vec(vec<U, 2> v) : x(T(v.x)), y(T(v.y)) {}
  MSL T &operator[](int i) { return i == 0 ? x : y; }
  MSL const T &operator[](int i) const { return i == 0 ? x : y; }
  MSL_PAIR(x, x)
  MSL_PAIR(x, y)
  MSL_PAIR(y, x)
  MSL_PAIR(y, y)
  MSL_QUAD(x, x, y, y)
  MSL_QUAD(x, y, x, y)
};

template <class T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
  T x, y, z;
  vec() = default;
  template <class U, MSL_SCALAR(U)>
  MSL vec(U s) : x(T(s)), y(x), z(x) {}
  template <class A, class B, class C, MSL_SCALAR(A), MSL_SCALAR(B), MSL_SCALAR(C)>
  MSL vec(A a, B b, C c) : x(T(a)), y(T(b)), z(T(c)) {}
  template <class C, MSL_SCALAR(C)>
  MSL vec(vec<T, 2> ab, C c) : x(ab.x), y(ab.y), z(T(c)) {}
  template <class U, class = typename enable_if<!same<T, U>::value>::type>
  MSL explicit vec(vec<U, 3> v) : x(T(v.x)), y(T(v.y)), z(T(v.z)) {}
  MSL T &operator[](int i) { return i == 0 ? x : i == 1 ? y : z; }
  MSL const T &operator[](int i) const { return i == 0 ? x : i == 1 ? y : z; }
  MSL_PAIR(x, y)
  MSL_PAIR(x, z)
  MSL_PAIR(y, z)
  MSL_TRIPLE(x, y, z)
  MSL_TRIPLE(z, y, x)
};

template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  T x, y, z, w;
  vec() = default;
  template <class U, MSL_SCALAR(U)>
  MSL vec(U s) : x(T(s)), y(x), z(x), w(x) {}
  template <class A, class B, class C, class D, MSL_SCALAR(A), MSL_SCALAR(B), MSL_SCALAR(C), MSL_SCALAR(D)>
  MSL vec(A a, B b, C c, D d) : x(T(a)), y(T(b)), z(T(c)), w(T(d)) {}
  MSL vec(vec<T, 2> ab, vec<T, 2> cd) : x(ab.x), y(ab.y), z(cd.x), w(cd.y) {}
  template <class C, class D, MSL_SCALAR(C), MSL_SCALAR(D)>
  MSL vec(vec<T, 2> ab, C c, D d) : x(ab.x), y(ab.y), z(T(c)), w(T(d)) {}
  template <class D, MSL_SCALAR(D)>
  MSL vec(vec<T, 3> abc, D d) : x(abc.x), y(abc.y), z(abc.z), w(T(d)) {}
  template <class U, class = typename enable_if<!same<T, U>::value>::type>
  MSL explicit vec(vec<U, 4> v) : x(T(v.x)), y(T(v.y)), z(T(v.z)), w(T(v.w)) {}
  MSL T &operator[](int i) { return i == 0 ? x : i == 1 ? y : i == 2 ? z : w; }
  MSL const T &operator[](int i) const { return i == 0 ? x : i == 1 ? y : i == 2 ? z : w; }
  MSL_PAIR(x, y)
  MSL_PAIR(x, z)
  MSL_PAIR(x, w)
  MSL_PAIR(y, z)
  MSL_PAIR(y, w)
  MSL_PAIR(z, w)
  MSL_TRIPLE(x, y, z)
  MSL_QUAD(x, z, y, w)
  MSL_QUAD(x, y, z, w)
  MSL_QUAD(z, w, x, y)
};

#define MSL_EACH(expression) \
  vec<T, N> r; \
  for (int i = 0; i < N; ++i) r[i] = T(expression); \
  return r;
#define MSL_OPERATOR(o) \
  template <class T, int N> \
  MSL vec<T, N> operator o(vec<T, N> a, vec<T, N> b) { \
    MSL_EACH(a[i] o b[i]) \
  } \
  template <class T, int N, class U, MSL_SCALAR(U)> \
  MSL vec<T, N> operator o(vec<T, N> a, U b) { \
    return a o vec<T, N>(b); \
  } \
  template <class T, int N, class U, MSL_SCALAR(U)> \
  MSL vec<T, N> operator o(U a, vec<T, N> b) { \
    return vec<T, N>(a) o b; \
  } \
  template <class T, int N, class U> \
  MSL vec<T, N> &operator o##=(vec<T, N> &a, U b) { \
    a = a o b; \
    return a; \
  }
MSL_OPERATOR(+)
MSL_OPERATOR(-)
MSL_OPERATOR(*)
MSL_OPERATOR(/)
MSL_OPERATOR(%)
MSL_OPERATOR(&)
MSL_OPERATOR(|)
MSL_OPERATOR(^)
MSL_OPERATOR(<<)
MSL_OPERATOR(>>)
template <class T, int N>
MSL vec<T, N> operator-(vec<T, N> a) {
  MSL_EACH(-a[i])
}
template <class T, int N>
MSL vec<T, N> operator~(vec<T, N> a) {
  MSL_EACH(~a[i])
}
template <int N>
MSL vec<bool, N> operator!(vec<bool, N> a) {
  typedef bool T;
  MSL_EACH(!a[i])
}

#define MSL_COMPARISON(o) \
  template <class T, int N> \
  MSL vec<bool, N> operator o(vec<T, N> a, vec<T, N> b) { \
    vec<bool, N> r; \
    for (int i = 0; i < N; ++i) r[i] = a[i] o b[i]; \
    return r; \
  } \
  template <class T, int N, class U, MSL_SCALAR(U)> \
  MSL vec<bool, N> operator o(vec<T, N> a, U b) { \
    return a o vec<T, N>(b); \
  } \
  template <class T, int N, class U, MSL_SCALAR(U)> \
  MSL vec<bool, N> operator o(U a, vec<T, N> b) { \
    return vec<T, N>(a) o b; \
  }
MSL_COMPARISON(==)
MSL_COMPARISON(!=)
MSL_COMPARISON(<)
MSL_COMPARISON(>)
MSL_COMPARISON(<=)
MSL_COMPARISON(>=)
MSL_COMPARISON(&&)
MSL_COMPARISON(||)

#define MSL_NAMES(T) \
  typedef vec<T, 2> T##2; \
  typedef vec<T, 3> T##3; \
  typedef vec<T, 4> T##4;
MSL_NAMES(bool)
MSL_NAMES(char)
MSL_NAMES(uchar)
MSL_NAMES(short)
MSL_NAMES(ushort)
MSL_NAMES(int)
MSL_NAMES(uint)
MSL_NAMES(long)
MSL_NAMES(ulong)
MSL_NAMES(float)
MSL_NAMES(half)
MSL_NAMES(bfloat)

template <class U, class T>
MSL U as_type(T x) {
  static_assert(sizeof(U) == sizeof(T), "as_type keeps the size");
  U u;
  memcpy(&u, &x, sizeof u);
  return u;
}

// MARK: Functions. None of them takes vectors of bfloat.

template <int N>
MSL bool any(vec<bool, N> v) {
  bool r = false;
  for (int i = 0; i < N; ++i) r = r || v[i];
  return r;
}
template <int N>
MSL bool all(vec<bool, N> v) {
  bool r = true;
  for (int i = 0; i < N; ++i) r = r && v[i];
  return r;
}

#define MSL_NOT_BFLOAT(T) class = typename enable_if<!same<T, bfloat>::value>::type
template <class T, int N, MSL_NOT_BFLOAT(T)>
MSL vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) {
  MSL_EACH(c[i] ? b[i] : a[i])
}
template <class T, class = typename enable_if<kind<T>::scalar && !same<T, bfloat>::value>::type>
MSL T select(T a, T b, bool c) {
  return c ? b : a;
}

// Functions of one, two and three numbers, with their forms for vectors.
#define MSL_VECTOR_1(f) \
  template <class T, int N, MSL_NOT_BFLOAT(T)> \
  MSL vec<T, N> f(vec<T, N> a) { \
    MSL_EACH(f(a[i])) \
  }
#define MSL_VECTOR_2(f) \
  template <class T, int N, MSL_NOT_BFLOAT(T)> \
  MSL vec<T, N> f(vec<T, N> a, vec<T, N> b) { \
    MSL_EACH(f(a[i], b[i])) \
  }
#define MSL_VECTOR_3(f) \
  template <class T, int N, MSL_NOT_BFLOAT(T)> \
  MSL vec<T, N> f(vec<T, N> a, vec<T, N> b, vec<T, N> c) { \
    MSL_EACH(f(a[i], b[i], c[i])) \
  }

#define MSL_EXTREMES(T) \
  MSL T max(T a, T b) { return a < b ? b : a; } \
  MSL T min(T a, T b) { return b < a ? b : a; } \
  MSL T clamp(T x, T low, T high) { return min(max(x, low), high); }
MSL_EXTREMES(char)
MSL_EXTREMES(uchar)
MSL_EXTREMES(short)
MSL_EXTREMES(ushort)
MSL_EXTREMES(int)
MSL_EXTREMES(uint)
MSL_EXTREMES(long)
MSL_EXTREMES(ulong)
// A NaN loses against a number.
MSL float max(float a, float b) { return fmaxf(a, b); }
MSL float min(float a, float b) { return fminf(a, b); }
MSL float clamp(float x, float low, float high) { return fminf(fmaxf(x, low), high); }
MSL half max(half a, half b) { return half(fmaxf(float(a), float(b))); }
MSL half min(half a, half b) { return half(fminf(float(a), float(b))); }
MSL half clamp(half x, half low, half high) { return min(max(x, low), high); }
MSL_VECTOR_2(max)
MSL_VECTOR_2(min)
MSL_VECTOR_3(clamp)

MSL int abs(int x) { return x < 0 ? -x : x; }
MSL long abs(long x) { return x < 0 ? -x : x; }
MSL uint abs(uint x) { return x; }
#define MSL_MATH_1(f, expression) \
  MSL float f(float x) { return expression; } \
  MSL half f(half h) { \
    const float x = float(h); \
    return half(expression); \
  } \
  MSL_VECTOR_1(f)
MSL_MATH_1(abs, ::fabsf(x))
MSL_MATH_1(fabs, ::fabsf(x))
MSL_MATH_1(floor, ::floorf(x))
MSL_MATH_1(ceil, ::ceilf(x))
MSL_MATH_1(rint, ::rintf(x))
MSL_MATH_1(trunc, ::truncf(x))
MSL_MATH_1(exp, ::expf(x))
MSL_MATH_1(exp2, ::exp2f(x))
MSL_MATH_1(log, ::logf(x))
MSL_MATH_1(log2, ::log2f(x))
MSL_MATH_1(sqrt, ::sqrtf(x))
MSL_MATH_1(rsqrt, 1.0f / ::sqrtf(x))
MSL_MATH_1(tanh, ::tanhf(x))
MSL float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
MSL half fma(half a, half b, half c) { return half(::fmaf(float(a), float(b), float(c))); }
MSL_VECTOR_3(fma)
MSL float ldexp(float x, int k) { return ::ldexpf(x, k); }
MSL bool isnan(float x) { return x != x; }
MSL bool isinf(float x) { return ::fabsf(x) == INFINITY; }
MSL bool isfinite(float x) { return ::fabsf(x) < INFINITY; }
MSL uint popcount(uint x) { return uint(__popc(int(x))); }
MSL int popcount(int x) { return __popc(x); }
template <int N>
MSL float dot(vec<float, N> a, vec<float, N> b) {
  float r = 0;
  for (int i = 0; i < N; ++i) r += a[i] * b[i];
  return r;
}

// Evaluated in FP64: no option of the compiler makes them worse.
namespace precise {
#define MSL_PRECISE_1(f, expression) \
  MSL float f(float x) { return float(expression); } \
  template <int N> \
  MSL vec<float, N> f(vec<float, N> a) { \
    typedef float T; \
    MSL_EACH(precise::f(a[i])) \
  }
MSL_PRECISE_1(exp, ::exp(double(x)))
MSL_PRECISE_1(exp2, ::exp2(double(x)))
MSL_PRECISE_1(log, ::log(double(x)))
MSL_PRECISE_1(log2, ::log2(double(x)))
MSL_PRECISE_1(tanh, ::tanh(double(x)))
MSL_PRECISE_1(sqrt, msl_target::sqrt_rn(x))
MSL_PRECISE_1(rsqrt, 1.0 / ::sqrt(double(x)))
MSL float divide(float x, float y) { return msl_target::divide_rn(x, y); }
}  // namespace precise

// The least that Metal allows.
namespace fast {
#define MSL_FAST_1(f, expression) \
  MSL float f(float x) { return expression; } \
  template <int N> \
  MSL vec<float, N> f(vec<float, N> a) { \
    typedef float T; \
    MSL_EACH(fast::f(a[i])) \
  }
MSL_FAST_1(exp2, msl_target::fast_exp2(x))
MSL_FAST_1(exp, msl_target::fast_exp2(x *M_LOG2E_F))
MSL_FAST_1(log2, msl_target::fast_log2(x))
MSL_FAST_1(log, msl_target::fast_log2(x) * M_LN2_F)
MSL float divide(float x, float y) { return msl_target::fast_divide(x, y); }
}  // namespace fast

}  // namespace msl
