/// The MSL of quantization and dequantization.
///
/// One row is the work of one SIMD group. Rows that are stored rotated pass through threadgroup memory; others are read
/// in place. What needs more than FP32 (means, the width of a range, a zero point) is carried as the unevaluated sum of
/// two floats, so that scales and zero points are those of the contract to the bit. Needs safe mathematics. Division
/// and root are precise whatever the options say, and no product is contracted with a sum.
///
/// See eq. 34 to 36, 40, 46 of docs/math.md.
package enum QuantizationText {
  /// Kernels by the step they do.
  package enum Step: String, CaseIterable, Sendable {
    /// Per row: the largest magnitude and the first column that is not finite.
    case inspect = "quantize_inspect"
    /// Of all rows: the outcome, on which the steps that write depend.
    case judge = "quantize_judge"
    case mean = "quantize_mean"
    /// Per row: smallest and largest number, for a tensor-wise scale.
    case range = "quantize_range"
    case tensorParameters = "quantize_tensor_parameters"
    case groupParameters = "quantize_group_parameters"
    case round = "quantize_round"
    case dequantize = "dequantize"

    /// The kernel has an argument in threadgroup memory: a row, which is rotated there.
    package var takesRow: Bool {
      switch self {
      case .inspect, .judge, .mean, .tensorParameters: false
      case .range, .groupParameters, .round, .dequantize: true
      }
    }
  }

  package static var source: String {
    """
    #include <metal_stdlib>
    #pragma METAL fp contract(off)
    using namespace metal;

    \(QuantizationArguments.structText)

    \(helpers)

    \(statistics)

    \(rounding)
    """
  }

  private static let helpers = """
    constant uint FP32 = 0, FP16 = 1, INT4 = 4;
    constant uint ALL_FINITE = 0, NOT_FINITE = 1, SCALE_OVERFLOW = 2;

    // What quantize_judge found.
    struct Outcome {
      uint state;
      uint column;  // of the first element that is not finite,
      ulong row;    // counted over batches and heads
      float largest;
      uint reserved;
    };

    struct RowMagnitude {
      float largest;
      uint bad_column;  // ~0u: none
    };

    // high + low, exactly.
    struct Pair {
      float high, low;
    };

    static Pair sum_of(float a, float b) {
      float high = a + b;
      float part = high - a;
      return {high, (a - (high - part)) + (b - part)};
    }

    static Pair added(Pair x, float y) {
      Pair s = sum_of(x.high, y);
      return sum_of(s.high, s.low + x.low);
    }

    // The float nearest to x / y, and the rest.
    static Pair quotient(Pair x, float y) {
      float high = precise::divide(x.high, y);
      float rest = fma(-high, y, x.high) + x.low;
      return sum_of(high, precise::divide(rest, y));
    }

    static float element(device const uchar *data, uint precision, long index) {
      if (precision == FP32) return ((device const float *)data)[index];
      if (precision == FP16) return float(((device const half *)data)[index]);
      return float(((device const bfloat *)data)[index]);
    }

    static long place(constant Strides &view, long batch, long head, long row, long column) {
      return view.offset + batch * view.batch + head * view.head + row * view.row + column * view.column;
    }

    static int code_at(device const uchar *data, constant Arguments &args, long batch, long head, long row, \
    long column) {
      long index = place(args.codes, batch, head, row, column);
      if (uint(args.code_precision) != INT4) return ((device const char *)data)[index];
      int byte = ((device const char *)data)[index / 2];
      return (index & 1) ? byte >> 4 : (byte << 28) >> 28;
    }

    static float scale_at(device const uchar *scales, constant Arguments &args, long index) {
      if (args.scale_bytes == 2) return float(((device const half *)scales)[args.scales.offset + index]);
      return ((device const float *)scales)[args.scales.offset + index];
    }

    static int zero_point_at(device const uchar *zero_points, constant Arguments &args, long index) {
      if (args.zero_point_bytes == 0) return 0;
      if (args.zero_point_bytes == 1) return ((device const char *)zero_points)[args.zero_point_offset + index];
      return ((device const int *)zero_points)[args.zero_point_offset + index];
    }

    // The index of the scale of a row's group of columns, from the first scale.
    static long scale_index(constant Arguments &args, long batch, long head, long row, long group) {
      return batch * args.scales.batch + head * args.scales.head + (row / args.block_rows) * args.scales.row
        + group * args.scales.column;
    }

    // Rotates a row: blocks of the largest power of two that divides its length, \
    by the Sylvester matrix over the root of its size.
    static void rotate(threadgroup float *row, constant Arguments &args, uint lane) {
      long size = args.rotation;
      for (long half_size = 1; half_size < size; half_size *= 2) {
        for (long pair = lane; pair < args.columns / 2; pair += 32) {
          long i = (pair / half_size) * 2 * half_size + pair % half_size;
          float a = row[i], b = row[i + half_size];
          row[i] = a + b;
          row[i + half_size] = a - b;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
      }
      float scale = precise::divide(1.0f, precise::sqrt(float(size)));
      for (long c = lane; c < args.columns; c += 32) row[c] *= scale;
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    static float mean_at(device const float *mean, constant Arguments &args, long batch, long head, long column) {
      return args.has_mean ? mean[args.mean_offset + (batch * args.heads + head) * args.columns + column] : 0.0f;
    }

    // Reads the row that is rounded into threadgroup memory, if it is rotated.
    static void prepare(device const uchar *source, device const float *mean, constant Arguments &args, \
    threadgroup float *row,
                        long batch, long head, long n, uint lane) {
      if (args.rotation == 0) return;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (long c = lane; c < args.columns; c += 32)
        row[c] = element(source, uint(args.source_precision), place(args.source, batch, head, n, c))
          - mean_at(mean, args, batch, head, c);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      rotate(row, args, lane);
    }

    // A number of the row that is rounded: less the mean, rotated.
    static float prepared(device const uchar *source, device const float *mean, constant Arguments &args,
                          threadgroup const float *row, long batch, long head, long n, long column) {
      if (args.rotation != 0) return row[column];
      return element(source, uint(args.source_precision), place(args.source, batch, head, n, column))
        - mean_at(mean, args, batch, head, column);
    }
    """

  private static let statistics = """
    kernel void quantize_inspect(device const uchar *source [[buffer(0)]], device RowMagnitude *rows [[buffer(1)]],
                                 constant Arguments &args [[buffer(8)]], uint3 at [[threadgroup_position_in_grid]],
                                 uint lane [[thread_index_in_threadgroup]]) {
      long batch = at.z, head = at.y, n = at.x;
      float largest = 0;
      uint bad = ~0u;
      for (long c = lane; c < args.columns; c += 32) {
        float x = element(source, uint(args.source_precision), place(args.source, batch, head, n, c));
        if (isfinite(x)) largest = max(largest, fabs(x));
        else bad = min(bad, uint(c));
      }
      largest = simd_max(largest);
      bad = simd_min(bad);
      if (lane == 0) rows[(batch * args.heads + head) * args.rows + n] = {largest, bad};
    }

    kernel void quantize_judge(device const RowMagnitude *rows [[buffer(1)]], device Outcome &outcome [[buffer(2)]],
                               constant Arguments &args [[buffer(8)]], \
    uint thread_index [[thread_index_in_threadgroup]]) {
      threadgroup float largest_values[256];
      threadgroup long bad_of[256];
      long count = args.batches * args.heads * args.rows, bad = count;
      float largest = 0;
      for (long i = thread_index; i < count; i += 256) {
        largest = max(largest, rows[i].largest);
        if (rows[i].bad_column != ~0u && i < bad) bad = i;
      }
      largest_values[thread_index] = largest;
      bad_of[thread_index] = bad;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (thread_index != 0) return;
      for (uint i = 1; i < 256; i++) {
        largest = max(largest, largest_values[i]);
        bad = min(bad, bad_of[i]);
      }
      bool overflows = args.limits_scale && !(largest < as_type<float>(int(args.largest_allowed)));
      outcome = {bad < count ? NOT_FINITE : overflows ? SCALE_OVERFLOW : ALL_FINITE, bad < count \
    ? rows[bad].bad_column : 0,
                 ulong(bad), largest, 0};
    }

    kernel void quantize_mean(device const uchar *source [[buffer(0)]], device const Outcome &outcome [[buffer(2)]],
                              device float *mean [[buffer(3)]], constant Arguments &args [[buffer(8)]],
                              uint3 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
                              uint stripe [[simdgroup_index_in_threadgroup]]) {
      threadgroup Pair parts[8][32];
      if (outcome.state != ALL_FINITE) return;
      long batch = at.z, head = at.y, column = long(at.x) * 32 + lane;
      Pair sum = {0, 0};
      if (column < args.columns)
        for (long n = stripe; n < args.rows; n += 8)
          sum = added(sum, element(source, uint(args.source_precision), place(args.source, batch, head, n, column)));
      parts[stripe][lane] = sum;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (stripe != 0 || column >= args.columns) return;
      for (uint i = 1; i < 8; i++) {
        sum = added(sum, parts[i][lane].high);
        sum = added(sum, parts[i][lane].low);
      }
      mean[args.mean_offset + (batch * args.heads + head) * args.columns + column] = quotient(sum, \
    float(max(args.rows, 1l))).high;
    }

    // Scale and zero point of a group whose numbers span low ... high.
    static void write_parameters(device uchar *scales, device uchar *zero_points, constant Arguments &args, \
    long index, float low,
                                 float high) {
      bool is_int4 = uint(args.code_precision) == INT4;
      float lowest = is_int4 ? -8 : -128, steps = is_int4 ? 15 : 255;
      low = min(low, 0.0f);
      high = max(high, 0.0f);
      // Widths beyond FP32 are halved, which is exact.
      float shrink = max(high, -low) > 1e38f ? 0.5f : 1.0f;
      Pair width = sum_of(high * shrink, -low * shrink);
      if (!args.asymmetric) {
        width = {max(high, -low) * shrink, 0};
        steps = is_int4 ? 7 : 127;
      }
      float scale = 1;
      if (width.high > 0) {
        scale = quotient(width, steps).high / shrink;
        if (args.scale_bytes == 2) {
          // Rounded to odd first: rounding twice to the nearest could err.
          uint bits = as_type<uint>(scale);
          float rest = fma(-scale * shrink, steps, width.high) + width.low;
          if (rest != 0 && !(bits & 1)) bits = rest > 0 ? bits + 1 : bits - 1;
          half stored = half(as_type<float>(bits));
          scale = stored == 0 ? 0x1p-24f : float(stored);
        }
        // Never subnormal: GPUs take such a number for 0, which could not be divided by.
        scale = max(scale, FLT_MIN);
      }
      if (args.scale_bytes == 2) ((device half *)scales)[args.scales.offset + index] = half(scale);
      else ((device float *)scales)[args.scales.offset + index] = scale;
      if (args.zero_point_bytes == 0) return;
      int zero_point = 0;
      if (width.high > 0) {
        Pair shifted = quotient({-low, 0}, scale);
        float rest = shifted.low;
        shifted = sum_of(lowest, shifted.high);
        shifted = sum_of(shifted.high, shifted.low + rest);
        float rounded = rint(shifted.high);
        bool tie = fabs(shifted.high - floor(shifted.high)) == 0.5f;
        if (tie && shifted.low != 0) rounded = shifted.low > 0 ? ceil(shifted.high) : floor(shifted.high);
        zero_point = int(clamp(rounded, lowest, lowest + steps));
      }
      if (args.zero_point_bytes == 1) ((device char *)zero_points)[args.zero_point_offset + index] = char(zero_point);
      else ((device int *)zero_points)[args.zero_point_offset + index] = zero_point;
    }

    kernel void quantize_range(device const uchar *source [[buffer(0)]], device const Outcome &outcome [[buffer(2)]],
                               device const float *mean [[buffer(3)]], device float2 *ranges [[buffer(4)]],
                               constant Arguments &args [[buffer(8)]], threadgroup float *row [[threadgroup(0)]],
                               uint3 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_threadgroup]]) {
      if (outcome.state != ALL_FINITE) return;
      long batch = at.z, head = at.y, n = at.x;
      prepare(source, mean, args, row, batch, head, n, lane);
      float low = 0, high = 0;
      for (long c = lane; c < args.columns; c += 32) {
        float x = prepared(source, mean, args, row, batch, head, n, c);
        low = min(low, x);
        high = max(high, x);
      }
      low = simd_min(low);
      high = simd_max(high);
      if (lane == 0) ranges[(batch * args.heads + head) * args.rows + n] = float2(low, high);
    }

    kernel void quantize_tensor_parameters(device const Outcome &outcome [[buffer(2)]], device const float2 *ranges \
    [[buffer(4)]],
                                           device uchar *scales [[buffer(5)]], device uchar *zero_points [[buffer(6)]],
                                           constant Arguments &args [[buffer(8)]], \
    uint lane [[thread_index_in_threadgroup]]) {
      if (outcome.state != ALL_FINITE) return;
      float low = 0, high = 0;
      for (long i = lane; i < args.batches * args.heads * args.rows * min(args.columns, 1l); i += 32) {
        low = min(low, ranges[i].x);
        high = max(high, ranges[i].y);
      }
      low = simd_min(low);
      high = simd_max(high);
      if (lane == 0) write_parameters(scales, zero_points, args, 0, low, high);
    }

    kernel void quantize_group_parameters(device const uchar *source [[buffer(0)]], device const Outcome &outcome \
    [[buffer(2)]],
                                          device const float *mean [[buffer(3)]], device uchar *scales [[buffer(5)]],
                                          device uchar *zero_points [[buffer(6)]], constant Arguments &args \
    [[buffer(8)]],
                                          threadgroup float *row [[threadgroup(0)]], \
    uint3 at [[threadgroup_position_in_grid]],
                                          uint lane [[thread_index_in_threadgroup]]) {
      if (outcome.state != ALL_FINITE) return;
      long batch = at.z, head = at.y, first = long(at.x) * args.block_rows;
      long end = min(first + args.block_rows, args.rows);
      if (args.group == 1) {
        // One scale a column: a lane keeps 16 of them while the rows pass by.
        for (long base = lane; base < args.columns + lane; base += 512) {
          float low[16], high[16];
          for (uint i = 0; i < 16; i++) low[i] = high[i] = 0;
          for (long n = first; n < end; n++) {
            prepare(source, mean, args, row, batch, head, n, lane);
            for (uint i = 0; i < 16; i++) {
              long c = base + 32 * i;
              if (c >= args.columns) break;
              float x = prepared(source, mean, args, row, batch, head, n, c);
              low[i] = min(low[i], x);
              high[i] = max(high[i], x);
            }
          }
          for (uint i = 0; i < 16; i++) {
            long c = base + 32 * i;
            if (c < args.columns)
              write_parameters(scales, zero_points, args, scale_index(args, batch, head, first, c), low[i], high[i]);
          }
        }
        return;
      }
      // Groups of columns of one row, or one group of all columns of a block of rows.
      for (long group = 0; group * args.group < args.columns; group++) {
        float low = 0, high = 0;
        for (long n = first; n < end; n++) {
          if (group == 0) prepare(source, mean, args, row, batch, head, n, lane);
          for (long c = group * args.group + lane; c < min((group + 1) * args.group, args.columns); c += 32) {
            float x = prepared(source, mean, args, row, batch, head, n, c);
            low = min(low, x);
            high = max(high, x);
          }
        }
        low = simd_min(low);
        high = simd_max(high);
        if (lane == 0) write_parameters(scales, zero_points, args, scale_index(args, batch, head, first, group), low, \
    high);
      }
    }
    """

  private static let rounding = """
    // What a number is stored as.
    static int code_of(float x, float scale, int zero_point, constant Arguments &args) {
      bool is_int4 = uint(args.code_precision) == INT4;
      int highest = is_int4 ? 7 : 127, lowest = args.asymmetric ? -highest - 1 : -highest;
      float q = precise::divide(x, scale);
      if (isnan(q)) return zero_point;
      return int(rint(clamp(q, float(lowest - zero_point), float(highest - zero_point)))) + zero_point;
    }

    // Per row: largest |difference|, its scaled sum of squares, largest |source|, its scaled sum of squares. \
    Scaled by the square
    // of the largest, so that tiny numbers do not vanish.
    kernel void quantize_round(device const uchar *source [[buffer(0)]], device float4 *errors [[buffer(1)]],
                               device const Outcome &outcome [[buffer(2)]], device const float *mean [[buffer(3)]],
                               device uchar *codes [[buffer(4)]], device const uchar *scales [[buffer(5)]],
                               device const uchar *zero_points [[buffer(6)]], constant Arguments &args [[buffer(8)]],
                               threadgroup float *row [[threadgroup(0)]], uint3 at [[threadgroup_position_in_grid]],
                               uint lane [[thread_index_in_threadgroup]]) {
      if (outcome.state != ALL_FINITE) return;
      long batch = at.z, head = at.y, n = at.x;
      prepare(source, mean, args, row, batch, head, n, lane);
      // Two neighbours a lane: of INT4, a byte.
      for (long pair = lane; 2 * pair < args.columns; pair += 32) {
        int stored[2] = {0, 0};
        for (long i = 0; i < 2 && 2 * pair + i < args.columns; i++) {
          long c = 2 * pair + i;
          long index = scale_index(args, batch, head, n, c / args.group);
          float scale = scale_at(scales, args, index);
          int zero_point = zero_point_at(zero_points, args, index);
          stored[i] = code_of(prepared(source, mean, args, row, batch, head, n, c), scale, zero_point, args);
          if (uint(args.code_precision) != INT4) codes[place(args.codes, batch, head, n, c)] = uchar(stored[i]);
          if (args.wants_error && args.rotation != 0) row[c] = float(stored[i] - zero_point) * scale;
        }
        if (uint(args.code_precision) == INT4)
          codes[place(args.codes, batch, head, n, 2 * pair) / 2] = uchar((stored[0] & 15) | (stored[1] & 15) << 4);
      }
      if (!args.wants_error) return;
      if (args.rotation != 0) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        rotate(row, args, lane);
      }
      float4 sums = 0;
      for (uint pass = 0; pass < 2; pass++) {
        float2 largest = sums.xz;
        float2 squares = 0;
        for (long c = lane; c < args.columns; c += 32) {
          float x = element(source, uint(args.source_precision), place(args.source, batch, head, n, c));
          float back;
          if (args.rotation != 0) {
            back = row[c];
          } else {
            long index = scale_index(args, batch, head, n, c / args.group);
            float scale = scale_at(scales, args, index);
            int zero_point = zero_point_at(zero_points, args, index);
            back = float(code_of(x - mean_at(mean, args, batch, head, c), scale, zero_point, \
    args) - zero_point) * scale;
          }
          back += mean_at(mean, args, batch, head, c);
          float2 both = float2(fabs(back - x), fabs(x));
          if (pass == 0) {
            largest = max(largest, both);
          } else {
            float2 ratio = float2(largest.x > 0 ? both.x / largest.x : 0, largest.y > 0 ? both.y / largest.y : 0);
            squares += ratio * ratio;
          }
        }
        if (pass == 0) sums.xz = float2(simd_max(largest.x), simd_max(largest.y));
        else sums.yw = float2(simd_sum(squares.x), simd_sum(squares.y));
      }
      if (lane == 0) errors[(batch * args.heads + head) * args.rows + n] = sums;
    }

    // `source` receives the real numbers here.
    kernel void dequantize(device uchar *source [[buffer(0)]], device const float *mean [[buffer(3)]],
                           device const uchar *codes [[buffer(4)]], device const uchar *scales [[buffer(5)]],
                           device const uchar *zero_points [[buffer(6)]], constant Arguments &args [[buffer(8)]],
                           threadgroup float *row [[threadgroup(0)]], uint3 at [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_threadgroup]]) {
      long batch = at.z, head = at.y, n = at.x;
      for (long pass = 0; pass < 2; pass++) {
        if (pass == 1 && args.rotation != 0) {
          threadgroup_barrier(mem_flags::mem_threadgroup);
          rotate(row, args, lane);
        }
        for (long c = lane; c < args.columns; c += 32) {
          float x;
          if (pass == 1 && args.rotation != 0) {
            x = row[c];
          } else {
            long index = scale_index(args, batch, head, n, c / args.group);
            x = float(code_at(codes, args, batch, head, n, c) - zero_point_at(zero_points, args, index))
              * scale_at(scales, args, index);
          }
          if (pass == 0) {
            if (args.rotation != 0) row[c] = x;
            continue;
          }
          x += mean_at(mean, args, batch, head, c);
          long to = place(args.source, batch, head, n, c);
          if (uint(args.source_precision) == FP32) ((device float *)source)[to] = x;
          else if (uint(args.source_precision) == FP16) ((device half *)source)[to] = half(x);
          else ((device bfloat *)source)[to] = bfloat(x);
        }
      }
    }
    """
}
