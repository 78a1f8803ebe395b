/// Combines the partial results of a split-K forward kernel, in the order of the keys: one threadgroup a row.
///
/// See eq. 20 of docs/math.md.
struct ForwardMergeText {
  let descriptor: AttentionKernelDescriptor
  init(_ descriptor: AttentionKernelDescriptor) { self.descriptor = descriptor }

  var kernel: KernelBody {
    let tiles = Tiles(strips: 1, splitD: 1, splitK: 2, block: 8)
    return KernelBody(
      tiles: tiles, memory: ThreadgroupMemory(), summary: "one row a threadgroup", body: body(32 * tiles.simdgroups),
      usesMatrices: false)
  }

  private func body(_ threads: Int) -> String {
    let score = ScoreText(descriptor)
    let softmax = SoftmaxText(score: score, value: OperandText(.V, descriptor), blocks: 1, fragments: 1)
    let columns = descriptor.valueDimension
    return """
      const int row = group.x;
      const uint head = group.y;
      \(RowsText.batch(descriptor, z: "group.z"))
      if (row >= query_rows) return;
      const ulong first_part = ((ulong(group.z) * args.heads + head) * args.query_rows + row) * args.splits;
      const device float2 *statistics = (const device float2 *)partial_statistics + first_part;

      float maximum = -INFINITY, sum = 0;
      bool seen = false;
      for (uint i = 0; i < args.splits; ++i) maximum = max(maximum, statistics[i].x);
      for (uint i = 0; i < args.splits; ++i) {
        const float2 part = statistics[i];
        const float weight = part.x == -INFINITY ? 0.0f : \(score.exp("part.x - maximum"));
        seen = seen || part.y != 0;
        sum += weight * (part.y < 0 ? 0.0f : part.y);  // below 0: keys, but all scores -INFINITY
      }
      \(softmax.normalise)

      \(EpilogueText.outputRow(descriptor))
      for (uint column = thread_index; column < \(columns); column += \(threads)) {
        float x = 0;
        for (uint i = 0; i < args.splits; ++i) {
          const float weight = statistics[i].x == -INFINITY ? 0.0f : \(score.exp("statistics[i].x - maximum"));
          x += weight * partial_output[(first_part + i) * \(columns) + column];
        }
        output_row[column * args.O.column] = \(descriptor.precision(.O).storageType)(x * normaliser);
      }
      \(when(descriptor.writesLogsumexp, "if (thread_index == 0) \(EpilogueText.logsumexp(descriptor))"))
      """
  }
}
