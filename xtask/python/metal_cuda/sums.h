// Sums of products, one after the other: each product and each sum is rounded. sums.py compiles it for a GPU, a test
// for a processor.

#ifdef MSL_ON_HOST
inline float product_of(float a, float b) { return a * b; }
inline float sum_of(float a, float b) { return a + b; }
inline double product_of(double a, double b) { return a * b; }
inline double sum_of(double a, double b) { return a + b; }
#define SUMS_FUNCTION inline
#else
// The compiler makes no fused operation of these.
__device__ inline float product_of(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float sum_of(float a, float b) { return __fadd_rn(a, b); }
__device__ inline double product_of(double a, double b) { return __dmul_rn(a, b); }
__device__ inline double sum_of(double a, double b) { return __dadd_rn(a, b); }
#define SUMS_FUNCTION __device__ inline
#endif

// Matrices with steps between batches, rows and columns, in elements. `total` is contiguous, and holds the sums so far;
// so does `squares`, of the terms and of the partial sums.
struct SumsArguments {
  long long a_batch, a_row, a_column, b_batch, b_row, b_column;
  int rows, terms, columns, first_batch;
};

constexpr int TILE = 64, STEP = 16, SIDE = 16, EACH = TILE / SIDE;

// 256 threads for 64 x 64 sums.
template <class T, bool WITH_SQUARES>
SUMS_FUNCTION void sums(const T *a, const T *b, T *total, T *squares, const SumsArguments &of) {
  __shared__ T left[STEP][TILE + 1], right[STEP][TILE + 1];
  const int thread = threadIdx.x, x = thread % SIDE, y = thread / SIDE;
  const int row = blockIdx.x * TILE, column = blockIdx.y * TILE;
  const long long batch = of.first_batch + (long long)blockIdx.z;
  a += batch * of.a_batch;
  b += batch * of.b_batch;
  total += batch * of.rows * of.columns;
  squares += batch * of.rows * of.columns;
  T sum[EACH][EACH], square[EACH][EACH];
  for (int i = 0; i < EACH; ++i) {
    for (int j = 0; j < EACH; ++j) {
      const int r = row + y + SIDE * i, c = column + x + SIDE * j;
      const bool is_in = r < of.rows && c < of.columns;
      const long long at = (long long)r * of.columns + c;
      sum[i][j] = is_in ? total[at] : T(0);
      square[i][j] = WITH_SQUARES && is_in ? squares[at] : T(0);
    }
  }
  for (int first = 0; first < of.terms; first += STEP) {
    __syncthreads();
    for (int e = thread; e < TILE * STEP; e += SIDE * SIDE) {
      // Neighbouring threads read what is next to each other in memory.
      const bool along = of.a_column == 1;
      const int r = along ? e / STEP : e % TILE, k = along ? e % STEP : e / TILE;
      const bool is_in = row + r < of.rows && first + k < of.terms;
      left[k][r] = is_in ? a[(row + r) * of.a_row + (first + k) * of.a_column] : T(0);
    }
    for (int e = thread; e < TILE * STEP; e += SIDE * SIDE) {
      const bool along = of.b_column == 1;
      const int c = along ? e % TILE : e / STEP, k = along ? e / TILE : e % STEP;
      const bool is_in = column + c < of.columns && first + k < of.terms;
      right[k][c] = is_in ? b[(first + k) * of.b_row + (column + c) * of.b_column] : T(0);
    }
    __syncthreads();
    const int terms = of.terms - first < STEP ? of.terms - first : STEP;
    for (int k = 0; k < terms; ++k) {
      T l[EACH], r[EACH];
      for (int i = 0; i < EACH; ++i) l[i] = left[k][y + SIDE * i];
      for (int j = 0; j < EACH; ++j) r[j] = right[k][x + SIDE * j];
      for (int i = 0; i < EACH; ++i) {
        for (int j = 0; j < EACH; ++j) {
          const T term = product_of(l[i], r[j]);
          sum[i][j] = sum_of(sum[i][j], term);
          if (WITH_SQUARES) square[i][j] += term * term + sum[i][j] * sum[i][j];
        }
      }
    }
  }
  for (int i = 0; i < EACH; ++i) {
    for (int j = 0; j < EACH; ++j) {
      const int r = row + y + SIDE * i, c = column + x + SIDE * j;
      if (r >= of.rows || c >= of.columns) continue;
      const long long at = (long long)r * of.columns + c;
      total[at] = sum[i][j];
      if (WITH_SQUARES) squares[at] = square[i][j];
    }
  }
}

#define SUMS_PARAMETERS \
  long long a_batch, long long a_row, long long a_column, long long b_batch, long long b_row, long long b_column, \
      int rows, int terms, int columns, int first_batch
#define SUMS_ARGUMENTS {a_batch, a_row, a_column, b_batch, b_row, b_column, rows, terms, columns, first_batch}

extern "C" __global__ void sums_in_order(const float *a, const float *b, float *total, SUMS_PARAMETERS) {
  sums<float, false>(a, b, total, total, SUMS_ARGUMENTS);
}
extern "C" __global__ void sums_with_squares(
    const double *a, const double *b, double *total, double *squares, SUMS_PARAMETERS) {
  sums<double, true>(a, b, total, squares, SUMS_ARGUMENTS);
}
