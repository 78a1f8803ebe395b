/// The matrix class of all kernels: a SIMD group's 8×8 matrix, by public `simdgroup_matrix` functions only.
///
/// See eq. 38 of docs/math.md.
enum MatrixStorageText {
  static let text = """
    // Column and row of a lane's first element in an 8x8 matrix of its SIMD group; the second is in the next column.
    inline uint2 lane_origin(ushort lane) {
      return uint2((lane >> 1 & 4) + (lane & 1) * 2, (lane >> 4) * 4 + (lane >> 1 & 3));
    }

    // Element i of packed INT4: two's complement, even elements in the low nibble.
    inline int int4_element(const device uchar *src, long i) {
      return int(char(src[i / 2] << (i & 1 ? 0 : 4))) >> 4;
    }

    // An 8x8 matrix that a SIMD group holds, two elements a lane.
    // Loads from device memory are made lane by lane: origin is the (column, row) of the lane's first element, \
    and the element
    // (column, row) lies at src[row * leading_dimension + column], \
    with transpose at src[column * leading_dimension + row].
    template <typename T>
    struct simdgroup_matrix_storage {
      simdgroup_matrix<T, 8, 8> matrix;

      void clear() { matrix = make_filled_simdgroup_matrix<T, 8, 8>(T(0)); }
      vec<T, 2> get() { return vec<T, 2>(matrix.thread_elements()[0], matrix.thread_elements()[1]); }
      void set(vec<T, 2> x) {
        matrix.thread_elements()[0] = x[0];
        matrix.thread_elements()[1] = x[1];
      }

      // Integers go to T without a detour where the scale stays outside, which is known when this is compiled.
      void set_real(int2 n, float scale) {
        if (scale == 1) {
          set(vec<T, 2>(n));
        } else {
          const float2 x = scale * float2(n);
          set(vec<T, 2>(x));
        }
      }

      // Without transpose, an aligned pair is one access: src, leading_dimension and origin.x are even.
      template <typename U>
      void load(const device U *src, ulong leading_dimension, uint2 origin, bool transpose = false) {
        if (transpose) {
          const device U *at = src + origin.x * leading_dimension + origin.y;
          set(vec<T, 2>(T(float(at[0])), T(float(at[leading_dimension]))));
        } else {
          const vec<U, 2> x = *(const device vec<U, 2> *)(src + origin.y * leading_dimension + origin.x);
          set(vec<T, 2>(T(float(x[0])), T(float(x[1]))));
        }
      }

      void load_quantized_int8(const device char *src, ulong leading_dimension, uint2 origin, float scale, \
    int zero_point, bool transpose = false) {
        int2 n;
        if (transpose) {
          const device char *at = src + origin.x * leading_dimension + origin.y;
          n = int2(at[0], at[leading_dimension]);
        } else {
          const char2 pair = *(const device char2 *)(src + origin.y * leading_dimension + origin.x);
          n = int2(pair);
        }
        set_real(n - zero_point, scale);
      }

      // Without transpose, a lane's two elements are one byte.
      void load_quantized_int4(const device uchar *src, ulong leading_dimension, uint2 origin, float scale, \
    int zero_point, bool transpose = false) {
        int2 n;
        if (transpose) {
          const long at = origin.x * leading_dimension + origin.y;
          n = int2(int4_element(src, at), int4_element(src, at + leading_dimension));
        } else {
          const uint pair = src[(origin.y * leading_dimension + origin.x) / 2];
          n = int2(int(pair << 28) >> 28, int(pair << 24) >> 28);
        }
        set_real(n - zero_point, scale);
      }

      // Threadgroup memory: src is the matrix's first element.
      void load(const threadgroup T *src, ushort leading_dimension, bool transpose = false) {
        simdgroup_load(matrix, src, leading_dimension, ulong2(0, 0), transpose);
      }
      void store(threadgroup T *dst, ushort leading_dimension, bool transpose = false) {
        simdgroup_store(matrix, dst, leading_dimension, ulong2(0, 0), transpose);
      }

      // this += a b
      template <typename U, typename V>
      void multiply(simdgroup_matrix_storage<U> a, simdgroup_matrix_storage<V> b) {
        simdgroup_multiply_accumulate(matrix, a.matrix, b.matrix, matrix);
      }
    };
    """
}
