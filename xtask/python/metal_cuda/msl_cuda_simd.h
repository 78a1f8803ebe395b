// SIMD groups and their matrices: the second part of msl_cuda.h, which comes before it.

namespace msl {

// MARK: SIMD groups

#define MSL_LANES 0xffffffffu
#define MSL_SHUFFLES(T) \
  MSL T simd_shuffle(T x, ushort lane) { return __shfl_sync(MSL_LANES, x, lane); } \
  MSL T simd_shuffle_xor(T x, ushort mask) { return __shfl_xor_sync(MSL_LANES, x, mask); } \
  MSL T simd_shuffle_down(T x, ushort delta) { return __shfl_down_sync(MSL_LANES, x, delta); } \
  MSL T simd_shuffle_up(T x, ushort delta) { return __shfl_up_sync(MSL_LANES, x, delta); } \
  MSL T simd_broadcast(T x, ushort lane) { return __shfl_sync(MSL_LANES, x, lane); } \
  MSL T simd_sum(T x) { \
    for (int m = 16; m > 0; m >>= 1) x += __shfl_xor_sync(MSL_LANES, x, m); \
    return x; \
  } \
  MSL T simd_max(T x) { \
    for (int m = 16; m > 0; m >>= 1) x = max(x, __shfl_xor_sync(MSL_LANES, x, m)); \
    return x; \
  } \
  MSL T simd_min(T x) { \
    for (int m = 16; m > 0; m >>= 1) x = min(x, __shfl_xor_sync(MSL_LANES, x, m)); \
    return x; \
  }
MSL_SHUFFLES(float)
MSL_SHUFFLES(int)
MSL_SHUFFLES(uint)
template <class T, int N>
MSL vec<T, N> simd_shuffle(vec<T, N> a, ushort lane) {
  MSL_EACH(simd_shuffle(a[i], lane))
}
template <class T, int N>
MSL vec<T, N> simd_shuffle_xor(vec<T, N> a, ushort mask) {
  MSL_EACH(simd_shuffle_xor(a[i], mask))
}
MSL bool simd_any(bool x) { return __any_sync(MSL_LANES, x) != 0; }
MSL bool simd_all(bool x) { return __all_sync(MSL_LANES, x) != 0; }

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
MSL mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(uint(a) | uint(b)); }
MSL void threadgroup_barrier(mem_flags) { __syncthreads(); }
MSL void simdgroup_barrier(mem_flags flags) {
  // Without memory it only keeps a compiler from moving code.
  if (flags != mem_flags::mem_none) __syncwarp();
}

// MARK: Matrices of a SIMD group

template <class T, int R, int C>
struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "Metal has matrices of 8 x 8");
  static_assert(!kind<T>::integer, "Metal has matrices of float, half and bfloat");
  vec<T, 2> two;
  MSL vec<T, 2> &thread_elements() { return two; }
  MSL const vec<T, 2> &thread_elements() const { return two; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int R, int C>
MSL simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T x) {
  simdgroup_matrix<T, R, C> m;
  m.two = vec<T, 2>(x);
  return m;
}

// Row and column of a lane's first element; the second is in the next column.
MSL uint matrix_row(uint lane) { return (lane >> 4) * 4 + (lane >> 1 & 3); }
MSL uint matrix_column(uint lane) { return (lane >> 1 & 4) + (lane & 1) * 2; }
// The lane that holds an element.
MSL int matrix_lane(int row, int column) {
  return (row & 4) << 2 | (column & 4) << 1 | (row & 3) << 1 | (column >> 1 & 1);
}
MSL uint matrix_own_lane() { return threadIdx.x & 31; }

template <class T>
MSL void simdgroup_load(
    simdgroup_matrix<T, 8, 8> &m, const T *source, ulong elements_per_row = 8, ulong2 origin = ulong2(0),
    bool transpose = false) {
  const uint lane = matrix_own_lane();
  for (int i = 0; i < 2; ++i) {
    const ulong row = matrix_row(lane), column = matrix_column(lane) + i;
    const ulong r = (transpose ? column : row) + origin.y, c = (transpose ? row : column) + origin.x;
    m.two[i] = source[r * elements_per_row + c];
  }
}

template <class T>
MSL void simdgroup_store(
    simdgroup_matrix<T, 8, 8> m, T *target, ulong elements_per_row = 8, ulong2 origin = ulong2(0),
    bool transpose = false) {
  const uint lane = matrix_own_lane();
  for (int i = 0; i < 2; ++i) {
    const ulong row = matrix_row(lane), column = matrix_column(lane) + i;
    const ulong r = (transpose ? column : row) + origin.y, c = (transpose ? row : column) + origin.x;
    target[r * elements_per_row + c] = m.two[i];
  }
}

// A lane's two elements of a b + c, summed in FP32 in order of the inner index. Not inlined: texts have hundreds of
// products.
MSL_OUT_OF_LINE vec<float, 2> matrix_product(float ax, float ay, float bx, float by, float x, float y) {
  const uint lane = matrix_own_lane();
  const int row = int(matrix_row(lane)), column = int(matrix_column(lane));
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const float left = __shfl_sync(MSL_LANES, k & 1 ? ay : ax, matrix_lane(row, k));
    const int from = matrix_lane(k, column);
    const float first = __shfl_sync(MSL_LANES, bx, from);
    const float second = __shfl_sync(MSL_LANES, by, from);
    x = ::fmaf(left, first, x);
    y = ::fmaf(left, second, y);
  }
  return vec<float, 2>(x, y);
}

template <class R, class A, class B, class C>
MSL void simdgroup_multiply_accumulate(
    simdgroup_matrix<R, 8, 8> &d, simdgroup_matrix<A, 8, 8> a, simdgroup_matrix<B, 8, 8> b,
    simdgroup_matrix<C, 8, 8> c) {
  d.two = vec<R, 2>(matrix_product(
      float(a.two.x), float(a.two.y), float(b.two.x), float(b.two.y), float(c.two.x), float(c.two.y)));
}
template <class A, class B, class C>
MSL void simdgroup_multiply_accumulate(
    simdgroup_matrix<float, 8, 8> &d, simdgroup_matrix<A, 8, 8> a, simdgroup_matrix<B, 8, 8> b,
    simdgroup_matrix<C, 8, 8> c) {
  d.two = matrix_product(
      float(a.two.x), float(a.two.y), float(b.two.x), float(b.two.y), float(c.two.x), float(c.two.y));
}

template <class R, class A, class B>
MSL void simdgroup_multiply(simdgroup_matrix<R, 8, 8> &d, simdgroup_matrix<A, 8, 8> a, simdgroup_matrix<B, 8, 8> b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f));
}

}  // namespace msl
