/// The MSL of merges: a SIMD group a row, a dispatch a part. The state of a row is the largest logsumexp so far and the
/// sum of the others' exponentials above it.
///
/// See eq. 21, 33 of docs/math.md.
package enum MergeText {
  package enum Step: String, CaseIterable, Sendable {
    /// Takes a part's logsumexp into the state; the first begins it.
    case join = "merge_join"
    /// Adds a part's weighted output to a row of scratch.
    case add = "merge_add"
    /// Writes output and logsumexp.
    case end = "merge_end"
    /// Adds dO · O of a part, weighted, to a number of scratch a row.
    case dot = "merge_meet"
    /// Writes a part's gradients.
    case gradients = "merge_gradients"
  }

  package static let source = """
    #include <metal_stdlib>
    using namespace metal;

    constant uint FP32 = 0, FP16 = 1;

    // Element [batch, head, row, column], in elements; precision as in the contract.
    struct View {
      long offset, batch, head, row, column, precision;
    };

    struct Arguments {
      long heads, rows, columns, is_first;
      View part, sums, output, logsumexp;
      long has_output, has_logsumexp;
    };

    static long place(constant View &view, uint3 at, long column) {
      return view.offset + long(at.z) * view.batch + long(at.y) * view.head + long(at.x) * view.row \
    + column * view.column;
    }

    static float element(device const uchar *data, constant View &view, uint3 at, long column) {
      long index = place(view, at, column);
      if (uint(view.precision) == FP32) return ((device const float *)data)[index];
      if (uint(view.precision) == FP16) return float(((device const half *)data)[index]);
      return float(((device const bfloat *)data)[index]);
    }

    static void write(device uchar *data, constant View &view, uint3 at, long column, float x) {
      long index = place(view, at, column);
      if (uint(view.precision) == FP32) ((device float *)data)[index] = x;
      else if (uint(view.precision) == FP16) ((device half *)data)[index] = half(x);
      else ((device bfloat *)data)[index] = bfloat(x);
    }

    static long row_of(constant Arguments &args, uint3 at) { return (long(at.z) * args.heads + at.y) * args.rows \
    + at.x; }

    // What a part of logsumexp l weighs. One that saw no key weighs nothing.
    static float weight(float l, float2 state) {
      return l == -INFINITY ? 0.0f : precise::exp2((l - state.x) * 1.4426950408889634f) / state.y;
    }

    kernel void merge_join(device const float *sums [[buffer(1)]], device float2 *states [[buffer(2)]],
                           constant Arguments &args [[buffer(8)]], uint3 at [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_threadgroup]]) {
      if (lane != 0) return;
      float2 state = args.is_first != 0 ? float2(-INFINITY, 0) : states[row_of(args, at)];
      const float l = sums[place(args.sums, at, 0)];
      if (isnan(l)) {
        state = float2(l, 1);
      } else if (l > state.x) {
        state = float2(l, 1 + (state.y == 0 ? 0.0f : state.y * precise::exp2((state.x - l) * 1.4426950408889634f)));
      } else if (l != -INFINITY) {
        state.y += precise::exp2((l - state.x) * 1.4426950408889634f);
      }
      states[row_of(args, at)] = state;
    }

    kernel void merge_add(device const uchar *part [[buffer(0)]], device const float *sums [[buffer(1)]],
                          device const float2 *states [[buffer(2)]], device float *scratch [[buffer(3)]],
                          constant Arguments &args [[buffer(8)]], uint3 at [[threadgroup_position_in_grid]],
                          uint lane [[thread_index_in_threadgroup]]) {
      const float w = weight(sums[place(args.sums, at, 0)], states[row_of(args, at)]);
      device float *row = scratch + row_of(args, at) * args.columns;
      for (long c = lane; c < args.columns; c += 32) {
        // Not 0 * NaN.
        const float x = w == 0 ? 0.0f : w * element(part, args.part, at, c);
        row[c] = args.is_first != 0 ? x : row[c] + x;
      }
    }

    kernel void merge_end(device const float2 *states [[buffer(2)]], device const float *scratch [[buffer(3)]],
                          device uchar *output [[buffer(4)]], device float *logsumexp [[buffer(5)]],
                          constant Arguments &args [[buffer(8)]], uint3 at [[threadgroup_position_in_grid]],
                          uint lane [[thread_index_in_threadgroup]]) {
      device const float *row = scratch + row_of(args, at) * args.columns;
      for (long c = lane; c < args.columns; c += 32) write(output, args.output, at, c, row[c]);
      if (lane != 0 || args.has_logsumexp == 0) return;
      const float2 state = states[row_of(args, at)];
      logsumexp[place(args.logsumexp, at, 0)] = isinf(state.x) ? state.x : state.x + precise::log(state.y);
    }

    // dO . O of a part, or of what is lost in it.
    static float meeting(device const uchar *part, device const uchar *gradient, constant Arguments &args, uint3 at, \
    uint lane) {
      float sum = 0;
      for (long c = lane; c < args.columns; c += 32) sum += element(gradient, args.output, at, c) * element(part, \
    args.part, at, c);
      return simd_sum(sum);
    }

    kernel void merge_meet(device const uchar *part [[buffer(0)]], device const float *sums [[buffer(1)]],
                           device const float2 *states [[buffer(2)]], device float *scratch [[buffer(3)]],
                           device const uchar *gradient [[buffer(4)]], constant Arguments &args [[buffer(8)]],
                           uint3 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_threadgroup]]) {
      const float w = weight(sums[place(args.sums, at, 0)], states[row_of(args, at)]);
      const float met = meeting(part, gradient, args, at, lane);
      if (lane != 0) return;
      const float x = w == 0 ? 0.0f : w * met;
      scratch[row_of(args, at)] = args.is_first != 0 ? x : scratch[row_of(args, at)] + x;
    }

    kernel void merge_gradients(device const uchar *part [[buffer(0)]], device const float *sums [[buffer(1)]],
                                device const float2 *states [[buffer(2)]], device const float *scratch [[buffer(3)]],
                                device const uchar *gradient [[buffer(4)]], device const float *logsumexp [[buffer(5)]],
                                device float *part_gradient [[buffer(6)]], device float *sum_gradient [[buffer(7)]],
                                constant Arguments &args [[buffer(8)]], constant View *own [[buffer(9)]],
                                uint3 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_threadgroup]]) {
      const float w = weight(sums[place(args.sums, at, 0)], states[row_of(args, at)]);
      if (args.has_output != 0)
        for (long c = lane; c < args.columns; c += 32)
          part_gradient[place(own[0], at, c)] = w == 0 ? 0.0f : w * element(gradient, args.output, at, c);
      if (own[1].precision != 0) return;
      const float met = meeting(part, gradient, args, at, lane);
      if (lane != 0) return;
      const float dl = args.has_logsumexp != 0 ? logsumexp[place(args.logsumexp, at, 0)] : 0.0f;
      sum_gradient[place(own[1], at, 0)] = w == 0 ? 0.0f : w * (dl + met - scratch[row_of(args, at)]);
    }
    """
}
