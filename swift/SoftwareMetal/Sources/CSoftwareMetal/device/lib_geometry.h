R"SM(
namespace metal {
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
