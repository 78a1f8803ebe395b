/// The gradient of a head's sink: −Σ exp(sink − L) (D − dL) over the rows of all batches. A threadgroup for each head.
///
/// `AttentionArguments.queryRows` counts all rows of a batch, with varlen those of all sequences.
///
/// See eq. 31 of docs/math.md.
struct BackwardSinksText {
  private static let simdgroups = 4

  static func kernel(_ descriptor: AttentionKernelDescriptor) -> KernelBody {
    let isLess = descriptor.gradients.ofLogsumexp
    return body(
      setup: when(
        isLess, "const device float *dl_head = dL + args.dL.offset + batch * args.dL.batch + head * args.dL.head;"),
      less: isLess ? " - dl_head[row * args.dL.row]" : "")
  }

  private static func body(setup: String, less: String) -> KernelBody {
    var memory = ThreadgroupMemory()
    memory.add("float", "sums", simdgroups)
    return KernelBody(
      tiles: Tiles(strips: simdgroups, splitD: 1, splitK: 1, block: 8), memory: memory, summary: "a head a threadgroup",
      body: """
        const uint head = group.y;
        const float sink = float(sinks[args.sinks.offset + head * args.sinks.head]);
        float sum = 0;
        for (uint batch = 0; batch < args.batches; ++batch) {
          const device float *l_head = L + args.L.offset + batch * args.L.batch + head * args.L.head;
          const device float *d_head = D + args.D.offset + batch * args.D.batch + head * args.D.head;
          \(setup)
          for (long row = thread_index; row < args.query_rows; row += \(32 * simdgroups)) {
            const float l = l_head[row * args.L.row];
            if (l != -INFINITY) sum += precise::exp(sink - l) * (d_head[row * args.D.row]\(less));
          }
        }
        sum = simd_sum(sum);
        if (lane == 0) sums[simd_index] = sum;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (thread_index == 0) {
          float total = 0;
          for (ushort i = 0; i < \(simdgroups); ++i) total += sums[i];
          sink_gradients[args.sink_gradients.offset + head * args.sink_gradients.head] = -total;
        }
        """,
      usesMatrices: false)
  }
}
